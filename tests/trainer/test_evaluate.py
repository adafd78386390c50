"""How good a model is, with honest bounds."""

import json
from pathlib import Path

import numpy as np
import pytest
from glyph_trainer.evaluate import Evaluation, wilson_interval

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


def test_evaluate_repeats_the_figures_of_the_training(
    glyph_train: Run, trained_folder: Path, small_folder: Path
) -> None:
    done = glyph_train("evaluate", "--model", trained_folder, "--data-dir", small_folder, "--json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    recorded = json.loads((trained_folder / "training.json").read_text())["metrics"]
    assert set(metrics) == {"held_out", "official_test"}
    for name, summary in metrics.items():
        assert summary["right"] == recorded[name]["right"]
        assert summary["cross_entropy"] == pytest.approx(recorded[name]["cross_entropy"], rel=1e-5)
