"""What a model must pass before it is published."""

from dataclasses import replace
from pathlib import Path
from signal import SIGABRT

import keras
import numpy as np
import pytest
import tensorflow as tf
from glyph_trainer.gates import Limits, accuracy_gate, comparison_gate, export_gates
from glyph_trainer.publish import publish
from glyph_trainer.signatures import export
from glyph_trainer.trained import load_trained
from glyph_trainer.warmup import BATCH_SIZES


def answers(right: int, of: int) -> np.ndarray:
    return np.arange(of) < right


def test_the_accuracy_has_a_floor() -> None:
    assert accuracy_gate(answers(96, 100), Limits(accuracy=0.95)).passed
    gate = accuracy_gate(answers(94, 100), Limits(accuracy=0.95))
    assert str(gate) == "FAILED  accuracy: 94.00% of 100 images, at least 95.00%"


@pytest.mark.parametrize(
    ("lost", "gained", "passes"),
    [
        (0, 0, True),
        (30, 30, True),
        (60, 20, False),
        (0, 200, True),
        (200, 200, True),
        (1000, 1000, False),
        (35, 0, True),
        (45, 0, False),
    ],
)
def test_it_must_surely_be_no_worse_than_the_stable_version(lost: int, gained: int, passes: bool) -> None:
    stable, new = np.ones(10_000, bool), np.ones(10_000, bool)
    new[:lost] = False
    stable[-gained or 10_000 :] = False
    gate = comparison_gate(new, stable, Limits(tolerance=0.005))
    assert gate.passed == passes, gate
    assert f"({gained:,} gained, {lost:,} lost)" in gate.figure


def test_an_export_without_guards_is_found_out_before_it_can_take_a_server_down(
    trained_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = load_trained(trained_folder)
    monkeypatch.setattr(tf, "ensure_shape", lambda tensor, _: tensor)
    export(trained.model, trained.model, trained.record.labels, tmp_path)
    monkeypatch.undo()
    images = trained.test.take(slice(4))
    survives, *_ = export_gates(tmp_path, images.images, np.asarray(trained.model(images.images)), Limits())
    assert not survives.passed
    assert str(survives).startswith(f"FAILED  survives in a process of its own: the process ended with -{SIGABRT:d}: ")
    assert "tensor_format.h" in survives.figure, "oneDNN's check"


def test_the_gates_ask_about_every_image_of_the_warm_up(
    trained_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = load_trained(trained_folder)
    last = trained.test.images[max(BATCH_SIZES) - 1]

    def spoilt(images: tf.Tensor) -> tf.Tensor:
        """What the network answers, but to the last image of the warm-up."""
        is_last = tf.reduce_all(images == last, axis=[1, 2, 3])
        return tf.where(is_last[:, tf.newaxis], tf.constant(0.1), trained.model(images))

    monkeypatch.setattr("glyph_trainer.publish._answers", lambda _: spoilt)
    refused = publish(trained, tmp_path, "digits")
    assert [gate.name for gate in refused.gates if not gate.passed] == [
        f"{signature} answers as trained" for signature in ("serving_default", "image_bytes", "classify")
    ]


def test_the_gates_import_nothing_from_where_they_are_run(
    trained_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = load_trained(trained_folder)
    export(trained.model, trained.model, trained.record.labels, tmp_path / "1")
    (tmp_path / "numpy.py").write_text("raise SystemExit('a file of somebody who tries things out')")
    monkeypatch.chdir(tmp_path)
    images = trained.test.images[:4]
    gates = export_gates(tmp_path / "1", images, np.asarray(trained.model(images)), Limits(milliseconds=10_000))
    assert all(gate.passed for gate in gates), gates


def test_a_worse_model_than_the_stable_version_is_refused(
    trained_folder: Path, models_dir: Path, tmp_path: Path
) -> None:
    trained = load_trained(trained_folder)
    stable = models_dir / "digits" / "1"
    untrained = keras.models.clone_model(trained.model)
    worse = replace(trained, model=untrained)
    refused = publish(worse, tmp_path, "digits", Limits(accuracy=0.0), stable)
    assert refused.version is None
    (failed,) = [gate for gate in refused.gates if not gate.passed]
    assert failed.name == "no worse than the stable version"
    assert not list((tmp_path / "digits").iterdir())
