"""How good a model is, with honest bounds."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from glyph_trainer.data.dataset import Dataset
from glyph_trainer.errors import ModelError
from glyph_trainer.versions import check_loadable

Predictor = Callable[[tf.Tensor], tf.Tensor]
"""From uint8 [N, 28, 28, 1] to probabilities float32 [N, K]: a Keras model, or a published version's signature."""

HELD_OUT = "held_out"
OFFICIAL = "official_test"
GIVEN = "given"
SETS = {HELD_OUT: "images held out", OFFICIAL: "official test images", GIVEN: "images given, seen in training or not"}
"""The sets of images that a model is evaluated on, by their names in `metrics.json`."""

_BATCH = 1000
_BINS = 15
_WORST = 40


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The answers of a model to labelled images.

    Attributes:
        names: the K names of the classes.
        labels: int32 [N], the truth.
        probabilities: float32 [N, K], the answers.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int32]
    probabilities: NDArray[np.float32]

    @property
    def predictions(self) -> NDArray[np.intp]:
        """The most probable class of each image, [N]."""
        predictions: NDArray[np.intp] = np.argmax(self.probabilities, axis=1)
        return predictions

    @property
    def is_right(self) -> NDArray[np.bool_]:
        """Whether each answer is right, [N]."""
        right: NDArray[np.bool_] = self.predictions == self.labels
        return right

    @property
    def right(self) -> int:
        """How many answers are right."""
        return int(np.count_nonzero(self.is_right))

    @property
    def accuracy(self) -> float:
        """The share of right answers, 0 to 1."""
        return self.right / len(self.labels)

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        of_truth = self.probabilities[np.arange(len(self.labels)), self.labels]
        return float(-np.log(np.maximum(of_truth, 1e-12)).mean())

    def confusion(self) -> NDArray[np.int64]:
        """Count truth against answer.

        Returns:
            int64 [K, K]; a row is a true class, a column an answer.
        """
        counts = np.zeros((len(self.names), len(self.names)), np.int64)
        np.add.at(counts, (self.labels, self.predictions), 1)
        return counts

    def per_class(self) -> list[dict[str, Any]]:
        """Compute precision and recall.

        Returns:
            for each class its name, how many images there are of it, the share of the answers with its name that are
            right (precision) and the share of its images that are recognised (recall); None where there are none.
        """
        counts = self.confusion()
        right, answered, present = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
        return [
            {
                "name": name,
                "images": int(present[index]),
                "precision": right[index] / answered[index] if answered[index] else None,
                "recall": right[index] / present[index] if present[index] else None,
            }
            for index, name in enumerate(self.names)
        ]

    def calibration(self) -> list[dict[str, Any]]:
        """Compare confidence, the probability of the answer, with the share of right answers.

        Returns:
            for each fifteenth of the range of confidence that has answers: how many, their mean confidence, and their
            accuracy.
        """
        confidence = self.probabilities.max(axis=1)
        bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
        return [
            {
                "images": int(np.count_nonzero(bins == index)),
                "confidence": float(confidence[bins == index].mean()),
                "accuracy": float(self.is_right[bins == index].mean()),
            }
            for index in np.unique(bins)
        ]

    def expected_calibration_error(self) -> float:
        """Compute how far confidence and accuracy are apart, in the mean over the answers (M. Naeini et al., 2015)."""
        gaps = [each["images"] * abs(each["confidence"] - each["accuracy"]) for each in self.calibration()]
        return float(sum(gaps)) / len(self.labels)

    def worst(self, count: int) -> list[int]:
        """Find the wrong answers that are the surest of themselves.

        Args:
            count: how many at most.

        Returns:
            positions of images, the worst first.
        """
        wrong = np.flatnonzero(~self.is_right)
        surest_first = np.argsort(-self.probabilities[wrong].max(axis=1), kind="stable")
        return [int(index) for index in wrong[surest_first][:count]]

    def as_json(self) -> dict[str, Any]:
        """Give everything as plain values."""
        return {
            **self.summary(),
            "expected_calibration_error": self.expected_calibration_error(),
            "per_class": self.per_class(),
            "confusion": self.confusion().tolist(),
            "calibration": self.calibration(),
            "worst": [
                {
                    "position": index,
                    "truth": self.names[self.labels[index]],
                    "answer": self.names[self.predictions[index]],
                    "confidence": float(self.probabilities[index].max()),
                }
                for index in self.worst(_WORST)
            ],
        }

    def summary(self) -> dict[str, Any]:
        """Sum up for `metrics.json`."""
        low, high = wilson_interval(self.right, len(self.labels))
        return {
            "images": len(self.labels),
            "right": self.right,
            "accuracy": self.accuracy,
            "accuracy_95_percent_interval": [low, high],
            "cross_entropy": self.loss,
        }


def evaluate(predictor: Predictor, dataset: Dataset) -> Evaluation:
    """Ask a model about labelled images.

    Args:
        predictor: the model.
        dataset: the images, with the same classes as the model.

    Returns:
        its answers.
    """
    parts = (dataset.images[start : start + _BATCH] for start in range(0, len(dataset), _BATCH))
    probabilities = np.concatenate([np.asarray(predictor(tf.constant(part))) for part in parts])
    return Evaluation(dataset.names, dataset.labels, probabilities)


def load_predictor(version: Path) -> Predictor:
    """Load a published version.

    Args:
        version: its folder.

    Returns:
        the model.

    Raises:
        ModelError: the folder has no model that can be loaded.
    """
    check_loadable(version)
    try:
        loaded = tf.saved_model.load(str(version))
        signature = loaded.signatures["serving_default"]
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise ModelError(f"{version} cannot be loaded ({error}). Name the folder of a published version") from error

    def predict(images: tf.Tensor, _: object = loaded) -> tf.Tensor:  # whoever has it keeps the variables alive
        return signature(image=images)["probabilities"]

    return predict


def wilson_interval(right: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Bound the true accuracy, given how many of a sample are right (E. B. Wilson, 1927).

    Args:
        right: the number of right answers.
        total: the number of answers, at least 1.
        z: quantile of the normal distribution; the default is that of 95 %.

    Returns:
        the lower and the upper bound, 0 to 1.
    """
    share = right / total
    scale = 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / scale
    margin = z / scale * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, centre - margin), min(1.0, centre + margin)
