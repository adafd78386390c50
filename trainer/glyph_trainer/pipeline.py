"""From images to a trained and evaluated model."""

import dataclasses
from pathlib import Path
from typing import Any

import keras

from glyph_trainer.data.dataset import Dataset
from glyph_trainer.data.folder import build_digit_folder, read_image_folder
from glyph_trainer.data.mnist import DIGITS, read_mnist_test
from glyph_trainer.errors import DataError
from glyph_trainer.evaluate import HELD_OUT, OFFICIAL, SETS, Predictor, evaluate
from glyph_trainer.fit import FitSettings, Loop, fit
from glyph_trainer.progress import task
from glyph_trainer.recipes import Recipe
from glyph_trainer.trained import TrainedModel, TrainingRecord, software_versions

TRAINING_SHARE = 30_000 / 42_000
"""How much of a folder is for training; the rest tests. The deck takes 30,000 of its 42,000."""

EXAMPLES = 64
"""How many test images go along with a trained model, at most: as many as the largest batch of the server."""


def load_images(directory: Path, mnist_directory: Path, count: int) -> Dataset:
    """Read the folder of images; build it of MNIST digits first if it is missing or empty.

    Args:
        directory: the folder.
        mnist_directory: where the MNIST files lie.
        count: how many digits to build it of.

    Returns:
        the images.

    Raises:
        DataError: the images or the MNIST files cannot be used.
    """
    if not directory.is_dir() or not any(directory.iterdir()):
        build_digit_folder(directory, mnist_directory, count)
    with task(f"Reading {directory.name}", 1, "folder") as work:
        dataset = read_image_folder(directory)
        work.outcome = f"{len(dataset):,} images of {len(dataset.names)} classes"
        work.advance()
    return dataset


def train(recipe: Recipe, settings: FitSettings, dataset: Dataset, seed: int, mnist_directory: Path) -> TrainedModel:
    """Train on one part of the images, test on the other, and on the official test images if these are digits.

    Args:
        recipe: what to train.
        settings: how; the recipe's own, unless the user says otherwise.
        dataset: all images.
        seed: decides the weights, the split, and the order of the images.
        mnist_directory: where the official test images lie.

    Returns:
        the trained network, with its record and metrics.

    Raises:
        DataError: there are too few images.
    """
    part, test = _split(dataset, seed, settings.batch_size)
    keras.utils.set_random_seed(seed)
    model = recipe.build(len(dataset.names))
    optimizer = recipe.optimizer(settings.epochs * settings.steps_per_epoch(len(part)))
    print(f"Training {recipe.name}: {model.count_params():,} parameters, {len(part):,} images", flush=True)
    history = fit(Loop(model, optimizer, part, settings, seed), settings.epochs)
    record = TrainingRecord(
        recipe=recipe.name,
        seed=seed,
        settings=dataclasses.asdict(settings),
        labels=dataset.names,
        images=len(part),
        data_fingerprint=dataset.fingerprint(),
        history=tuple(dataclasses.asdict(report) for report in history),
        metrics=measure(model, test, mnist_directory),
        software=software_versions(),
    )
    return TrainedModel(model, record, test.images[:EXAMPLES])


def held_out_part(dataset: Dataset, seed: int) -> Dataset:
    """Find the images that a training with this seed does not see.

    Args:
        dataset: all images.
        seed: of the training.

    Returns:
        the images held out.
    """
    return _split(dataset, seed, 1)[1]


def measure(predictor: Predictor, test: Dataset, mnist_directory: Path) -> dict[str, dict[str, Any]]:
    """Evaluate on the images held out and, if the classes are the digits, on the official test images.

    Args:
        predictor: the model.
        test: the images held out.
        mnist_directory: where the official test images lie.

    Returns:
        summaries by the name of the set of images.
    """
    sets = {HELD_OUT: test}
    if test.names == DIGITS:
        sets[OFFICIAL] = read_mnist_test(mnist_directory)
    return {name: evaluate(predictor, images).summary() for name, images in sets.items()}


def describe(metrics: dict[str, dict[str, Any]]) -> str:
    """Say how good a model is.

    Args:
        metrics: summaries of evaluations by the name of the set of images.

    Returns:
        a line for each set.
    """
    lines = []
    for name, summary in metrics.items():
        low, high = summary["accuracy_95_percent_interval"]
        lines.append(f"{summary['accuracy']:.2%} of {summary['images']:,} {SETS[name]} (95 %: {low:.2%} to {high:.2%})")
    return "\n".join(lines)


def _split(dataset: Dataset, seed: int, least: int) -> tuple[Dataset, Dataset]:
    first = round(len(dataset) * TRAINING_SHARE)
    if first < least or first >= len(dataset):
        raise DataError(
            f"{len(dataset):,} images are too few: {TRAINING_SHARE:.0%} of them train, and a batch needs {least:,}. "
            f"Add images, or choose a smaller --batch-size"
        )
    return dataset.shuffled(seed).split(first)
