"""From images to a trained and evaluated model."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

from glyph_trainer import interruptions
from glyph_trainer.checkpoint import Run, only_run
from glyph_trainer.data.dataset import Dataset
from glyph_trainer.data.source import open_source
from glyph_trainer.data.validation import Validation, validate
from glyph_trainer.errors import DataError, ModelError, UnusableFilesError
from glyph_trainer.evaluate import GIVEN, HELD_OUT, OFFICIAL, SETS, evaluate
from glyph_trainer.fit import DECK_SHARE, FitSettings, Loop, State, fit
from glyph_trainer.progress import task
from glyph_trainer.recipes import Recipe
from glyph_trainer.subject import Subject
from glyph_trainer.trained import TrainedModel, TrainingRecord, software_versions


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a training, in their parts.

    Attributes:
        source: the name of the folder.
        train: to train with.
        held_out: of the same source, to test with.
        official: test images that are given apart, if any.
        fingerprint: of train and held_out together, before the split.
        validation: what is to be said about them.
    """

    source: str
    train: Dataset
    held_out: Dataset
    official: Dataset | None
    fingerprint: str
    validation: Validation

    def test_sets(self) -> dict[str, Dataset]:
        """Name the sets of images to test with."""
        return {HELD_OUT: self.held_out} | ({OFFICIAL: self.official} if self.official else {})


def load_images(
    directory: Path,
    mnist_directory: Path,
    count: int,
    seed: int,
    skip_bad: bool = False,
    least: int = 1,
    share: float = DECK_SHARE,
) -> Images:
    """Read images, split them, look through them and say what was found.

    Args:
        directory: see `open_source`.
        mnist_directory: where the MNIST files lie.
        count: how many digits to build a missing folder of.
        seed: decides the split.
        skip_bad: whether to leave out files that cannot be used.
        least: how many images must be there to train with; 0 if none are trained with.
        share: how much of them is for training.

    Returns:
        the images.

    Raises:
        DataError: the images or the MNIST files cannot be used.
        UnusableFilesError: some files cannot be used and `skip_bad` is not set.
    """
    with task(f"Reading {directory.name}", 1, "folder") as work:
        source = open_source(directory, mnist_directory, count)
        work.advance()
        work.outcome = "from the cache" if source.cached else ""
    first = round(len(source.images) * share)
    if least and not least <= first < len(source.images):
        raise DataError(
            f"{directory}: {len(source.images):,} images are too few: {share:.0%} of them train, and a batch "
            f"needs {least:,}. Add images, or choose a smaller --batch-size"
        )
    if least and len(source.images.names) < 2:
        raise DataError(f"{directory} holds images of one class, {source.images.names[0]}. A classifier needs two")
    shuffled = source.images.shuffled(seed)
    train, held_out = shuffled.take(slice(None, first)), shuffled.take(slice(first, None))
    validation = validate(train, held_out, source.official, source.resized, source.unlabelled, source.unreadable)
    print(validation.as_text(), flush=True)
    if validation.unusable and not skip_bad:
        raise UnusableFilesError(str(directory), [(file.name, file.reason) for file in validation.unusable])
    return Images(source.name, train, held_out, source.official, source.images.fingerprint(), validation)


def train(
    recipe: Recipe,
    settings: FitSettings,
    images: Images,
    seed: int,
    run_directory: Path | None = None,
    resume: bool = False,
) -> TrainedModel:
    """Train on one part of the images, test on the others.

    Args:
        recipe: what to train.
        settings: how; the recipe's own, unless the user says otherwise.
        images: the images.
        seed: decides the weights and the order of the images.
        run_directory: where to keep checkpoints and metrics, if anywhere.
        resume: whether to go on from the checkpoint there.

    Returns:
        the trained network, with its record and metrics. It is the same, bit for bit, however often the training was
        interrupted and resumed on the same machine.

    Raises:
        TrainerError: there is a checkpoint that cannot be resumed from, or is not to be; or another process is training
            in that folder.
    """
    part = images.train
    identity = {"recipe": recipe.name, "seed": seed, "data": images.fingerprint, **dataclasses.asdict(settings)}
    with only_run(run_directory) if run_directory else contextlib.nullcontext():
        run = Run(run_directory, identity, resume) if run_directory else None
        with interruptions.held_back():
            keras.utils.set_random_seed(seed)
            model = recipe.build(len(part.names))
            optimizer = recipe.optimizer(settings.epochs * settings.steps_per_epoch(len(part)))
            print(f"Training {recipe.name}: {model.count_params():,} parameters, {len(part):,} images", flush=True)
            loop = Loop(model, recipe.logits(model), optimizer, part, settings, seed)
            loop.prepare()
        state = run.restore(loop.variables) if run else State()
        history = fit(loop, settings, state, lambda now: run.save(now, loop.variables) if run else None)
    record = TrainingRecord(
        recipe=recipe.name,
        seed=seed,
        settings=dataclasses.asdict(settings),
        labels=part.names,
        source=images.source,
        images=len(part),
        data_fingerprint=images.fingerprint,
        history=tuple(dataclasses.asdict(report) for report in history),
        metrics={name: evaluate(model, part).summary() for name, part in images.test_sets().items()},
        software=software_versions(),
        left_out=len(images.validation.unusable),
    )
    return TrainedModel(model, record, images.official or images.held_out)


def images_to_ask(images: Images, model: Subject) -> dict[str, Dataset]:
    """Choose the images that it is honest to evaluate a model on.

    Args:
        images: split with the seed of the model's training.
        model: the model.

    Returns:
        the images held out and the official ones, if this is the data that the model was trained with; else all of
        these images as the set `GIVEN`: of other data nothing tells which images the model has seen.

    Raises:
        ModelError: the images show classes that the model does not know.
    """
    if not set(images.train.names) <= set(model.labels):
        raise ModelError(
            f"the images show {', '.join(images.train.names)}, the model knows {', '.join(model.labels)}. Evaluate it "
            f"on images of its own classes"
        )
    if images.fingerprint == model.data_fingerprint:
        return images.test_sets()
    train, held_out = images.train, images.held_out
    position = np.array([model.labels.index(name) for name in train.names], np.int32)
    together = Dataset(
        images=np.concatenate([train.images, held_out.images]),
        labels=position[np.concatenate([train.labels, held_out.labels])],
        names=model.labels,
    )
    return {GIVEN: together} | ({OFFICIAL: images.official} if images.official else {})


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
