"""How good a model is, with honest bounds."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from glyph_trainer.data.folder import read_folder
from glyph_trainer.data.mnist import DEFAULT_DIRECTORY
from glyph_trainer.errors import ModelError
from glyph_trainer.evaluate import Evaluation, evaluate, wilson_interval
from glyph_trainer.pipeline import images_to_ask, load_images
from glyph_trainer.subject import load_subject

from tests.trainer.conftest import Run


@pytest.fixture
def evaluation() -> Evaluation:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]], np.float32)
    return Evaluation(("cat", "dog"), np.array([0, 1, 1, 0], np.int32), probabilities)


def test_accuracy_and_loss(evaluation: Evaluation) -> None:
    assert evaluation.right == 3
    assert evaluation.accuracy == 0.75
    assert evaluation.loss == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.5]).mean())


def test_confusion_counts_truth_by_rows_and_answers_by_columns(evaluation: Evaluation) -> None:
    assert evaluation.confusion().tolist() == [[2, 0], [1, 1]]


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [  # R: binom.confint(right, total, methods = "wilson")
        (81, 263, 0.2552, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_the_interval_is_wilson_s(right: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(right, total) == pytest.approx((low, high), abs=1e-4)


def test_precision_and_recall_by_class(evaluation: Evaluation) -> None:
    assert evaluation.per_class() == [
        {"name": "cat", "images": 2, "precision": pytest.approx(2 / 3), "recall": 1.0},
        {"name": "dog", "images": 2, "precision": 1.0, "recall": 0.5},
    ]


def test_a_class_that_is_never_answered_has_no_precision() -> None:
    evaluation = Evaluation(("cat", "dog"), np.array([0], np.int32), np.array([[1, 0]], np.float32))
    assert evaluation.per_class()[1] == {"name": "dog", "images": 0, "precision": None, "recall": None}


def test_calibration_compares_confidence_with_accuracy() -> None:
    sure = np.tile(np.array([[0.95, 0.05]], np.float32), (100, 1))
    labels = np.array([0] * 80 + [1] * 20, np.int32)
    evaluation = Evaluation(("cat", "dog"), labels, sure)
    (only,) = evaluation.calibration()
    assert only == {"images": 100, "confidence": pytest.approx(0.95), "accuracy": pytest.approx(0.8)}
    assert evaluation.expected_calibration_error() == pytest.approx(0.15, abs=1e-6)


def test_the_worst_mistakes_are_the_surest() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.99, 0.01], [0.2, 0.8]], np.float32)
    evaluation = Evaluation(("cat", "dog"), np.array([1, 1, 1, 1], np.int32), probabilities)
    assert evaluation.worst(2) == [2, 0]
    assert evaluation.worst(10) == [2, 0, 1]


def test_evaluate_repeats_the_figures_of_the_training(
    glyph_train: Run, trained_folder: Path, small_folder: Path, tmp_path: Path
) -> None:
    report = tmp_path / "reports" / "report.html"
    where = ("--data-dir", small_folder, "--html", report)
    done = glyph_train("evaluate", "--model", trained_folder, *where, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    recorded = json.loads((trained_folder / "training.json").read_text())["metrics"]
    assert set(found) == {"held_out", "official_test"}
    assert "warning" not in done.stderr
    for name, evaluation in found.items():
        assert evaluation["right"] == recorded[name]["right"]
        assert evaluation["cross_entropy"] == pytest.approx(recorded[name]["cross_entropy"], rel=1e-5)
        assert np.sum(evaluation["confusion"]) == evaluation["images"]
        assert all(worst["truth"] != worst["answer"] for worst in evaluation["worst"])
    html = report.read_text()
    assert html.count("<svg") == 4
    assert html.count('src="data:image/png;base64,') == 80
    assert f"{recorded['official_test']['accuracy']:.2%}" in html
    assert not re.search(r"<script|https?://|src=\"(?!data:)", html), "nothing from outside"


def test_a_published_version_is_evaluated_on_images_that_it_has_not_seen(
    models_dir: Path, dataset_dir: Path, small_folder: Path, tmp_path: Path
) -> None:
    version = load_subject(models_dir / "digits" / "1")
    own = images_to_ask(load_images(dataset_dir, DEFAULT_DIRECTORY, 0, version.seed), version)
    assert {name: len(images) for name, images in own.items()} == {"held_out": 12_000, "official_test": 10_000}
    recorded = json.loads((models_dir / "digits" / "1" / "assets.extra" / "metrics.json").read_text())
    assert evaluate(version.predictor, own["held_out"]).right == recorded["held_out"]["right"]
    others = images_to_ask(load_images(small_folder, DEFAULT_DIRECTORY, 0, version.seed), version)
    assert {name: len(images) for name, images in others.items()} == {"given": 1400, "official_test": 10_000}

    some = tmp_path / "some"
    for name in ("3", "8"):
        (some / name).mkdir(parents=True)
        shutil.copy(next(small_folder.glob(f"{name}.*.jpg")), some / name)
    (given,) = images_to_ask(load_images(some, DEFAULT_DIRECTORY, 0, version.seed, least=0), version).values()
    assert (given.names, sorted(given.labels.tolist())) == (version.labels, [3, 8])
    shutil.rmtree(some / "3")
    (given,) = images_to_ask(load_images(some, DEFAULT_DIRECTORY, 0, version.seed, least=0), version).values()
    assert evaluate(version.predictor, given).summary()["images"] == 1

    with pytest.raises(ModelError, match="the model knows cat, dog"):
        images_to_ask(load_images(small_folder, DEFAULT_DIRECTORY, 0, 1), replace(version, labels=("cat", "dog")))


def test_data_that_has_changed_since_the_training_is_noticed(
    glyph_train: Run, trained_folder: Path, small_folder: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "digits"
    shutil.copytree(small_folder, changed)
    min(changed.glob("*.jpg")).unlink()
    done = glyph_train("evaluate", "--model", trained_folder, "--data-dir", changed)
    assert done.returncode == 0, done.stderr
    before, after = load_subject(trained_folder).data_fingerprint, read_folder(changed).dataset.fingerprint()
    assert done.stderr == (
        f"glyph-train: warning: {changed} does not hold the images that deck was trained with (fingerprint "
        f"{after[:12]}, then {before[:12]}): all of them are asked about. If it has only changed since, most are "
        f"training images, and the accuracy says little\n"
    )
    assert "% of 1,399 images given, seen in training or not (95 %: " in done.stdout


@pytest.mark.parametrize(
    ("name", "manifest", "message"),
    [
        ("3", None, "3 does not describe itself .*: its manifest.json has no model, seed, data_fingerprint, settings"),
        ("3", '{"model": "x", "seed": 1, "settings": {}}', "its manifest.json has no data_fingerprint"),
        ("3", "[]", "its manifest.json has no model"),
        ("letters", None, "letters is no version of a model: its name is no number"),
    ],
)
def test_a_version_that_does_not_say_how_it_was_trained_is_an_error(
    tmp_path: Path, name: str, manifest: str | None, message: str
) -> None:
    extra = tmp_path / name / "assets.extra"
    extra.mkdir(parents=True)
    (tmp_path / name / "saved_model.pb").touch()
    if manifest:
        (extra / "manifest.json").write_text(manifest)
    with pytest.raises(ModelError, match=message):
        load_subject(tmp_path / name)
