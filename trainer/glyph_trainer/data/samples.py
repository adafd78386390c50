"""Test images as picture files, for trying a served model."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from glyph_trainer.data.mnist import read_mnist_test
from glyph_trainer.errors import DataError
from glyph_trainer.staging import write_atomically


def write_samples(directory: Path, mnist_directory: Path, count: int, seed: int) -> list[Path]:
    """Write official test images as `label.index.png`, 8-bit grey, 28 x 28.

    Args:
        directory: the folder to write into; made if missing.
        mnist_directory: where the MNIST files lie.
        count: how many, at most 10,000.
        seed: decides which.

    Returns:
        the files, in the order of their indices (the positions among the official test images).

    Raises:
        DataError: there are not so many, or the MNIST files cannot be used.
    """
    digits = read_mnist_test(mnist_directory)
    if count > len(digits):
        raise DataError(f"there are {len(digits):,} official test images; {count:,} were asked for")
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in sorted(np.random.default_rng(seed).permutation(len(digits))[:count]):
        content = io.BytesIO()
        Image.fromarray(digits.images[index, ..., 0]).save(content, "PNG")
        path = directory / f"{digits.names[digits.labels[index]]}.{index}.png"
        write_atomically(path, content.getvalue())
        paths.append(path)
    return paths
