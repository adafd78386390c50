"""A trained model on the disk, before it is published: the Keras model and the record of how it came about."""

import dataclasses
import hashlib
import io
import json
import platform
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from glyph_trainer.data.dataset import Dataset
from glyph_trainer.errors import ModelError
from glyph_trainer.staging import flush_entry, flush_to_disk, staging_directory

_MODEL = "model.keras"
_RECORD = "training.json"
_TEST = "test.npz"


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """How a model came about, in full.

    Attributes:
        recipe: the name of the recipe.
        seed: of the weights, the split and the order of the images.
        settings: of the training, by name.
        labels: the names of the classes, in the order of the outputs.
        source: the name of the folder of images.
        images: how many the model was trained with.
        data_fingerprint: of the whole data set, before the split.
        history: loss, accuracy and seconds, epoch by epoch.
        metrics: accuracy and more on each set of test images, by its name.
        software: versions of what trained it.
        left_out: how many files of the folder could not be used.
    """

    recipe: str
    seed: int
    settings: dict[str, Any]
    labels: tuple[str, ...]
    source: str
    images: int
    data_fingerprint: str
    history: tuple[dict[str, float], ...]
    metrics: dict[str, dict[str, Any]]
    software: dict[str, str]
    left_out: int = 0

    @property
    def seconds(self) -> float:
        """How long the training took, without reading, building the graph and evaluation."""
        return sum(epoch["seconds"] for epoch in self.history)


def software_versions() -> dict[str, str]:
    """Name what is at work here.

    Returns:
        version by name; `code` is the package's version and a digest of its sources.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return {
        "code": f"{version('glyph-trainer')}+{digest.hexdigest()[:12]}",
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained network and what is known about it.

    Attributes:
        model: from uint8 [N, 28, 28, 1] to probabilities float32 [N, K].
        record: how it came about.
        test: images that it was not trained with, by preference the official ones.
    """

    model: keras.Model
    record: TrainingRecord
    test: Dataset


def check_free(directory: Path) -> None:
    """Find out, before a long training, whether a trained model could be saved after it.

    Args:
        directory: the folder to make.

    Raises:
        ModelError: the folder holds something, or is none.
        OSError: the folder around it cannot be made or written.
    """
    directory = directory.absolute()
    if directory.is_dir() and any(directory.iterdir()):
        raise ModelError(f"{directory} is not empty. Remove it, or choose another folder for the trained model")
    if directory.exists() and not directory.is_dir():
        raise ModelError(f"{directory} is no folder. Choose another name for the trained model's")
    with staging_directory(directory.parent):
        pass


def save_trained(trained: TrainedModel, directory: Path) -> None:
    """Save a trained model. The folder appears whole or not at all.

    Args:
        trained: the model.
        directory: the folder to make; it must not exist yet, or be empty.

    Raises:
        ModelError: the folder holds something.
    """
    check_free(directory)
    directory = directory.absolute()
    with staging_directory(directory.parent) as staging:
        trained.model.save(staging / _MODEL)
        np.savez_compressed(staging / _TEST, images=trained.test.images, labels=trained.test.labels)
        (staging / _RECORD).write_text(json.dumps(dataclasses.asdict(trained.record), indent=2) + "\n")
        flush_to_disk(staging)
        try:
            staging.rename(directory)
        except OSError:
            check_free(directory)  # another process was faster
            raise
    flush_entry(directory.parent)


def load_trained(directory: Path) -> TrainedModel:
    """Load what `save_trained` saved.

    Args:
        directory: the folder.

    Returns:
        the model.

    Raises:
        ModelError: the folder has no trained model, or a damaged one.
    """
    for name in (_MODEL, _RECORD, _TEST):
        if not (directory / name).is_file():
            raise ModelError(f"{directory} has no {name}. Name a folder that 'glyph-train fit' has written")
    try:
        record = json.loads((directory / _RECORD).read_text())
        record["labels"], record["history"] = tuple(record["labels"]), tuple(record["history"])
        with np.load(io.BytesIO((directory / _TEST).read_bytes()), allow_pickle=False) as test:
            return TrainedModel(
                model=keras.saving.load_model(directory / _MODEL, compile=False),
                record=TrainingRecord(**record),
                test=Dataset(test["images"], test["labels"], record["labels"]),
            )
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"the model in {directory} is damaged ({error}). Train it again") from error
