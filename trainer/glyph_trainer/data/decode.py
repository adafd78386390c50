"""From image files to the pixels that a model reads.

Pictures that are 28 x 28 already are taken as they are. All others go through the preprocessing that the served model
applies to what it is sent, so that it learns from what it will see.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from glyph_trainer.preprocess import preprocess_images

SIDE = 28
_BLOCK = 8  # files for each step of the loop over files: a step costs as much as the reading of one
_JPEG_SUFFIXES = {".jpg", ".jpeg"}
_SERVED_FORMATS = {"JPEG", "PNG", "GIF", "BMP"}


@dataclass(frozen=True, eq=False)
class Decoded:
    """What the files hold.

    Attributes:
        images: uint8 [N, 28, 28, 1]; zeros where a file cannot be used.
        resized: the positions of the files that were of another size.
        unusable: why a file cannot be used, by its position.
    """

    images: NDArray[np.uint8]
    resized: frozenset[int]
    unusable: dict[int, str]


def decode(paths: Sequence[Path]) -> Decoded:
    """Decode image files, each once if all is well.

    Folders of nothing but 28 x 28 JPEG files take a fast way, many at a time inside one TensorFlow graph; its pixels
    are those of Pillow (the decoder is told to be as accurate).

    Args:
        paths: the files.

    Returns:
        their pixels.
    """
    if all(path.suffix.lower() in _JPEG_SUFFIXES for path in paths):
        images = _decode_small_jpegs(paths)
        if images is not None:
            return Decoded(images, frozenset(), {})
    images = np.zeros((len(paths), SIDE, SIDE, 1), np.uint8)
    resized, unusable = set(), {}
    preprocess = tf.function(preprocess_images, input_signature=[tf.TensorSpec([None], tf.string)])
    for index, path in enumerate(paths):
        try:
            pixels = _read(path)
            if isinstance(pixels, bytes):
                pixels = preprocess(tf.constant([pixels]))[0].numpy()
                resized.add(index)
            images[index] = pixels
        except (UnidentifiedImageError, IsADirectoryError):
            unusable[index] = "it is no image"
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            unusable[index] = f"it cannot be decoded ({error})"
        except tf.errors.InvalidArgumentError as error:
            unusable[index] = f"it cannot be used ({error.message.splitlines()[0]})"
    return Decoded(images, frozenset(resized), unusable)


def _decode_small_jpegs(paths: Sequence[Path]) -> NDArray[np.uint8] | None:
    """Decode 28 x 28 JPEG files; None if any of them is something else, for the slow way to find out which."""

    def read(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=1, dct_method="INTEGER_ACCURATE")
        return tf.ensure_shape(image, [SIDE, SIDE, 1])

    @tf.function  # type: ignore[untyped-decorator]  # tensorflow has no type information
    def read_all(names: tf.Tensor) -> tf.Tensor:
        blocks = tf.size(names) // _BLOCK
        together = tf.map_fn(
            lambda block: tf.stack([read(name) for name in tf.unstack(block)]),
            tf.reshape(names[: blocks * _BLOCK], [blocks, _BLOCK]),
            fn_output_signature=tf.TensorSpec([_BLOCK, SIDE, SIDE, 1], tf.uint8),
            parallel_iterations=16,
        )
        spec = tf.TensorSpec([SIDE, SIDE, 1], tf.uint8)
        rest = tf.map_fn(read, names[blocks * _BLOCK :], fn_output_signature=spec)
        return tf.concat([tf.reshape(together, [-1, SIDE, SIDE, 1]), rest], axis=0)

    try:
        images: NDArray[np.uint8] = read_all(tf.constant([str(path) for path in paths])).numpy()
    except tf.errors.OpError:
        return None
    return images


def _read(path: Path) -> NDArray[np.uint8] | bytes:
    """Decode a file: the pixels if it is 28 x 28 and opaque, else a file that the served model can read."""
    content = path.read_bytes()
    with warnings.catch_warnings():  # Pillow warns of odd metadata; what matters is whether the pixels can be had
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if image.size == (SIDE, SIDE) and not image.has_transparency_data:
                return np.asarray(ImageOps.exif_transpose(image).convert("L"))[..., np.newaxis]
            if image.format in _SERVED_FORMATS:
                return content
            converted = io.BytesIO()
            ImageOps.exif_transpose(image).convert("RGBA").save(converted, "PNG")
            return converted.getvalue()
