"""The deck's two small networks: every figure of the deck, and they are served like any other model."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glyph_client import Client
from glyph_trainer.recipes import backprop, logistic

from tests.trainer.conftest import Run

DECK = [  # the figures that the deck prints, in its order
    "0.3775",
    "0.593269992",
    "0.596884378",
    "1.105905967",
    "0.75136507",
    "1.224921",
    "0.772928465",
    "0.274811083",
    "0.023560026",
    "0.298371109",
    "0.74136507",
    "0.186815602",
    "0.593269992",
    "0.082167041",
    "0.35891648",
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def backprop_output(glyph_train: Run, models: Path) -> str:
    done = glyph_train("run", "--recipe", "backprop", "--models-dir", models)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def logistic_output(glyph_train: Run, models: Path) -> str:
    done = glyph_train("run", "--recipe", "logistic", "--models-dir", models)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_backprop_reproduces_every_figure_of_the_deck(backprop_output: str) -> None:
    assert [line.split()[-1] for line in backprop_output.splitlines()[1:16]] == DECK


def test_the_chain_rule_and_automatic_differentiation_agree() -> None:
    generator = np.random.default_rng(1)
    for _ in range(5):
        network = backprop.Network(generator.normal(size=(2, 2)), generator.normal(size=(2, 2)), 0.35, 0.60)
        by_hand, automatic = backprop.gradients_by_chain_rule(network), backprop.gradients_by_autodiff(network)
        for a, b in zip(by_hand, automatic, strict=True):
            assert a.dtype == b.dtype == np.float64
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_backprop_trains_on_to_the_target_and_plots_the_error(backprop_output: str) -> None:
    assert "the outputs are 0.010990 and 0.988990, for 0.01 and 0.99" in backprop_output
    assert sum(" |" in line and "*" in line for line in backprop_output.splitlines()) == 10


def test_logistic_learns_nothing_from_raw_features_and_all_from_standardised_ones(logistic_output: str) -> None:
    lines = logistic_output.splitlines()
    assert lines[1].startswith("  raw ")
    assert lines[1].endswith("2 of 4 right")
    assert lines[2].startswith("  standardised ")
    assert lines[2].endswith("4 of 4 right")
    assert "the sigmoid is saturated" in logistic_output


def test_both_are_served_and_called_through_the_sdk(
    backprop_output: str,
    logistic_output: str,
    models: Path,
    tmp_path: Path,
    serve: Callable[..., contextlib.AbstractContextManager[Any]],
) -> None:
    assert f"Published {models}/backprop/1" in backprop_output
    assert f"Published {models}/logistic/1" in logistic_output
    config = tmp_path / "models.config"
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{models / name}" model_platform: "tensorflow" }}\n'
        for name in ("backprop", "logistic")
    )
    config.write_text(f"model_config_list {{\n{entries}}}\n")
    with serve(f"--model_config_file={config}") as server, Client(server.grpc) as client:
        outputs = client.call({"inputs": [backprop.INPUT.tolist()]}, model="backprop")["outputs"]
        np.testing.assert_allclose(outputs[0], backprop.TARGET, atol=2e-3)
        answers = client.call({"features": logistic.DATA[:, 1:].tolist()}, model="logistic")
        assert answers["label"].tolist() == [b"1", b"0", b"0", b"1"]
        assert np.array_equal(answers["probability"] > 0.5, logistic.LABELS > 0.5)


def test_an_example_is_no_classifier_of_pictures(glyph_train: Run, tmp_path: Path) -> None:
    done = glyph_train("fit", "--recipe", "logistic", "--output", tmp_path / "model")
    assert done.returncode == 1
    assert done.stderr == (
        "glyph-train: error: the recipe 'logistic' trains no classifier of pictures. Use 'glyph-train run'\n"
    )
