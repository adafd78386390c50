"""Where the images of a training come from: a folder of image files, or of IDX files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glyph_trainer.data.dataset import Dataset
from glyph_trainer.data.digits import build_digit_folder
from glyph_trainer.data.folder import read_folder
from glyph_trainer.data.idx import read_idx
from glyph_trainer.data.mnist import DIGITS, read_mnist_test
from glyph_trainer.data.validation import UnusableFile
from glyph_trainer.errors import DataError

_SIDE = 28


@dataclass(frozen=True)
class Source:
    """Images for a training.

    Attributes:
        name: of the folder.
        images: to train with, and to hold some out of.
        official: test images that are given apart, if any.
        resized: how many images were not 28 x 28, white on black.
        unlabelled: files whose names do not say what they show; left out.
        unreadable: files that cannot be decoded; left out.
        cached: whether the images come from the cache.
    """

    name: str
    images: Dataset
    official: Dataset | None
    resized: int = 0
    unlabelled: Sequence[UnusableFile] = ()
    unreadable: Sequence[UnusableFile] = ()
    cached: bool = False


def open_source(directory: Path, mnist_directory: Path, count: int) -> Source:
    """Read the images of a training.

    Args:
        directory: files called `label.index.ext`, one folder of files for each class, or the four IDX files of a data
            set like MNIST. If it is missing or empty, it is built of MNIST digits.
        mnist_directory: where the MNIST files lie. Their test images are the official ones of every data set whose
            classes are the ten digits, unless it brings its own.
        count: how many digits to build a missing folder of.

    Returns:
        the images.

    Raises:
        DataError: they cannot be used.
    """
    name = directory.resolve().name
    if _find(directory, "train-images"):
        (images, labels), (test_images, test_labels) = (_read_idx_part(directory, part) for part in ("train", "t10k"))
        names = tuple(str(label) for label in range(int(max(labels.max(), test_labels.max())) + 1))
        return Source(name, Dataset(images, labels, names), Dataset(test_images, test_labels, names))
    if not directory.is_dir() or not any(directory.iterdir()):
        build_digit_folder(directory, mnist_directory, count)
    folder = read_folder(directory)
    return Source(
        name=name,
        images=folder.dataset,
        official=read_mnist_test(mnist_directory) if folder.dataset.names == DIGITS else None,
        resized=folder.resized,
        unlabelled=folder.unlabelled,
        unreadable=folder.unreadable,
        cached=folder.cached,
    )


def _find(directory: Path, prefix: str) -> Path | None:
    return next(iter(sorted(directory.glob(f"{prefix}-idx?-ubyte*"))), None)


def _read_idx_part(directory: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    paths = [_find(directory, f"{part}-{kind}") for kind in ("images", "labels")]
    if None in paths:
        raise DataError(
            f"{directory} has no {part}-images and {part}-labels. A folder of IDX files has train-images-idx3-ubyte, "
            f"train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each plain or .gz"
        )
    images, labels = (read_idx(path) for path in paths if path)
    if images.ndim != 3 or images.shape[1:] != (_SIDE, _SIDE):
        raise DataError(f"{paths[0]} holds an array of shape {images.shape}; images are N x {_SIDE} x {_SIDE}")
    if labels.shape != images.shape[:1] or not len(labels):
        raise DataError(f"{paths[1]} holds labels of shape {labels.shape} for {len(images):,} images in {paths[0]}")
    return images[..., np.newaxis], labels.astype(np.int32)
