"""The deck's data set: a folder of JPEG files named `label.index.jpg`."""

import errno
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from glyph_trainer.data.dataset import Dataset
from glyph_trainer.data.mnist import read_mnist
from glyph_trainer.errors import DataError
from glyph_trainer.progress import task
from glyph_trainer.staging import flush_entry, staging_directory

DECK_IMAGES = 42_000
"""How many images the deck has. They are the first 42,000 of the 60,000 official training images, in their order; the
index in a file's name is the position there. The other 18,000 stay outside, for validation."""

_JPEG_QUALITY = 95
_NAME = re.compile(r"(?P<label>[^.]+)\.(?P<index>\d+)\.(jpe?g|png|bmp|gif)", re.IGNORECASE)
_JPEG_SUFFIXES = {".jpg", ".jpeg"}
_SIDE = 28
_SHOWN = 20


def build_digit_folder(directory: Path, mnist_directory: Path, count: int = DECK_IMAGES) -> bool:
    """Write training digits as `label.index.jpg`, unless they are there already.

    The folder appears whole or not at all: it is filled under a staging name beside it, flushed and renamed.

    Args:
        directory: the folder to make. It may exist if it is empty or already holds exactly these files.
        mnist_directory: where the MNIST files lie.
        count: how many images, from the first on.

    Returns:
        whether it was built now.

    Raises:
        DataError: the MNIST files cannot be used, or the folder holds something else.
    """
    if directory.is_dir() and any(directory.iterdir()):
        names = {path.name for path in directory.iterdir()}
        indices = {match["index"] for name in names if (match := _NAME.fullmatch(name))}
        if len(names) != count or len(indices) != count:
            raise DataError(
                f"{directory} already holds {len(names):,} files that are not the {count:,} digits "
                f"label.index.jpg. Remove it, or choose another folder"
            )
        return False
    digits = read_mnist(mnist_directory).train.take(slice(count))
    directory = directory.absolute()
    with staging_directory(directory.parent) as staging:
        with task(f"Writing {directory.name}", count, "images") as work:
            for index, (image, label) in enumerate(zip(digits.images[..., 0], digits.labels, strict=True)):
                content = io.BytesIO()  # given a file, Pillow overlooks what no longer fits onto the disk
                Image.fromarray(image).save(content, "JPEG", quality=_JPEG_QUALITY)
                (staging / f"{digits.names[label]}.{index}.jpg").write_bytes(content.getvalue())
                work.advance()
        os.sync()  # one fsync a file would take longer than writing them all
        _rename_into_place(staging, directory)
    return True


def read_image_folder(directory: Path) -> Dataset:
    """Read a folder of images named `label.index.jpg`.

    Every file is decoded exactly once. JPEG files take a fast way, many at a time inside one TensorFlow graph; its
    pixels are those of Pillow (the decoder is told to be as accurate).

    Args:
        directory: the folder. Files whose names begin with a dot are left alone.

    Returns:
        the images, in the order of their indices; the classes in the order of their names, numbers by value.

    Raises:
        DataError: the folder is missing or empty, a name has no label, or files cannot be decoded: all are listed.
    """
    paths, texts = _list_images(directory)
    images = _decode_jpegs(paths) if all(path.suffix.lower() in _JPEG_SUFFIXES for path in paths) else None
    if images is None:
        images = _decode_one_by_one(directory, paths)
    names = tuple(sorted(set(texts), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))
    position = {name: index for index, name in enumerate(names)}
    return Dataset(images, np.array([position[text] for text in texts], np.int32), names)


def _list_images(directory: Path) -> tuple[list[Path], list[str]]:
    if not directory.is_dir():
        raise DataError(f"{directory} is no folder. Name a folder of images called label.index.jpg")
    found, nameless = [], []
    for path in directory.iterdir():
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((int(match["index"]), path.name, match["label"]))
        elif not path.name.startswith("."):
            nameless.append((path, "its name has no label: it should look like 7.123.jpg (label.index.jpg)"))
    _refuse(directory, nameless)
    if not found:
        raise DataError(f"{directory} holds no images. Fill it with files called label.index.jpg")
    found.sort()
    return [directory / name for _, name, _ in found], [label for _, _, label in found]


def _decode_jpegs(paths: Sequence[Path]) -> NDArray[np.uint8] | None:
    """Decode 28 x 28 JPEG files fast; None if any of them is something else, for the slow way to find out which."""
    import tensorflow as tf

    def decode(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=1, dct_method="INTEGER_ACCURATE")
        return tf.ensure_shape(image, [_SIDE, _SIDE, 1])

    @tf.function  # type: ignore[untyped-decorator]  # tensorflow has no type information
    def decode_all(names: tf.Tensor) -> tf.Tensor:
        spec = tf.TensorSpec([_SIDE, _SIDE, 1], tf.uint8)
        return tf.map_fn(decode, names, fn_output_signature=spec, parallel_iterations=64)

    try:
        images: NDArray[np.uint8] = decode_all(tf.constant([str(path) for path in paths])).numpy()
    except tf.errors.OpError:
        return None
    return images


def _decode_one_by_one(directory: Path, paths: Sequence[Path]) -> NDArray[np.uint8]:
    images = np.empty((len(paths), _SIDE, _SIDE, 1), np.uint8)
    unusable = []
    for index, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("L"))
        except UnidentifiedImageError:
            unusable.append((path, "it is no image"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            unusable.append((path, f"it cannot be decoded ({error})"))
        else:
            if pixels.shape == (_SIDE, _SIDE):
                images[index, ..., 0] = pixels
            else:
                unusable.append((path, f"it is {pixels.shape[1]} x {pixels.shape[0]} pixels, not {_SIDE} x {_SIDE}"))
    _refuse(directory, unusable)
    return images


def _refuse(directory: Path, unusable: list[tuple[Path, str]]) -> None:
    if not unusable:
        return
    listed = "".join(f"\n  {path.name}: {reason}" for path, reason in sorted(unusable)[:_SHOWN])
    more = f"\n  and {len(unusable) - _SHOWN:,} more" if len(unusable) > _SHOWN else ""
    count = f"{len(unusable):,} file{'s' * (len(unusable) > 1)}"
    raise DataError(f"{directory}: {count} cannot be used. Repair or remove them:{listed}{more}")


def _rename_into_place(staging: Path, directory: Path) -> None:
    try:
        staging.rename(directory)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EXDEV):
            raise DataError(
                f"{directory} is a mount point and cannot be replaced by the finished folder. Name a folder inside it"
            ) from error
        raise
    flush_entry(directory.parent)
