"""The four genuine MNIST files (Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0), checked before they are used."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glyph_trainer.data.dataset import Dataset
from glyph_trainer.data.idx import parse_idx, read_content
from glyph_trainer.errors import DataError

DEFAULT_DIRECTORY = Path(__file__).parents[2] / "data" / "mnist"
"""Where the files lie in the source tree."""

SHA256 = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of the uncompressed content of each file."""

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Mnist:
    """The official images: 60,000 to train, 10,000 to test."""

    train: Dataset
    test: Dataset


def read_mnist(directory: Path = DEFAULT_DIRECTORY) -> Mnist:
    """Read the four files.

    Args:
        directory: where they lie.

    Returns:
        the official training and test images.

    Raises:
        DataError: a file is missing, truncated, or not the genuine one.
    """
    return Mnist(_read_part(directory, "train"), read_mnist_test(directory))


def read_mnist_test(directory: Path = DEFAULT_DIRECTORY) -> Dataset:
    """Read the 10,000 official test images alone; see `read_mnist`."""
    return _read_part(directory, "t10k")


def _read_part(directory: Path, part: str) -> Dataset:
    images = _read_verified(directory / f"{part}-images-idx3-ubyte.gz")
    labels = _read_verified(directory / f"{part}-labels-idx1-ubyte.gz")
    return Dataset(images[..., np.newaxis], labels.astype(np.int32), DIGITS)


def _read_verified(path: Path) -> NDArray[np.uint8]:
    content = read_content(path)
    received = hashlib.sha256(content).hexdigest()
    if received != SHA256[path.name]:
        raise DataError(
            f"{path} is not the genuine MNIST file: the SHA-256 of its content is {received}, "
            f"not {SHA256[path.name]}. Replace it with an intact copy (git checkout restores the repository's)"
        )
    return parse_idx(content, path)
