"""From image files to the pixels that a model reads.

Pictures that are 28 x 28, white on black already are taken as they are. All others go through the preprocessing that
the served model applies to what it is sent, so that it learns from what it will see.
"""

import io
import os
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
_PLAIN_JPEG = b"\xff\xd8\xff\xe0\xff\xdb"  # the JFIF header, and straight behind it the quantization table
_SERVED_FORMATS = {"JPEG", "PNG", "GIF", "BMP"}
_MISREAD = {("BMP", "P"), ("BMP", "1")}  # TensorFlow takes an index into the palette for the pixel


@dataclass(frozen=True, eq=False)
class Decoded:
    """What the files hold.

    Attributes:
        images: uint8 [N, 28, 28, 1]; zeros where a file cannot be used.
        resized: the positions of the files that were of another size, or not white on black.
        unusable: why a file cannot be used, by its position.
    """

    images: NDArray[np.uint8]
    resized: frozenset[int]
    unusable: dict[int, str]


def decode(paths: Sequence[Path]) -> Decoded:
    """Decode image files, each once if all is well.

    Folders of nothing but 28 x 28 grey JPEG files, white on black and without metadata, take a fast way, many at a time
    inside one TensorFlow graph; its pixels are those of Pillow (the decoder is told to be as accurate).

    Args:
        paths: the files.

    Returns:
        their pixels.
    """
    are_jpegs = all(path.suffix.lower() in _JPEG_SUFFIXES for path in paths)
    if are_jpegs and all(map(os.path.isfile, paths)):
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
        except tf.errors.InvalidArgumentError as error:
            unusable[index] = f"it cannot be used ({_reason(error.message)})"
        except Exception as error:  # noqa: BLE001 (Pillow's decoders raise whatever they like at a damaged file)
            unusable[index] = f"it cannot be decoded ({error})"
    return Decoded(images, frozenset(resized), unusable)


def _decode_small_jpegs(paths: Sequence[Path]) -> NDArray[np.uint8] | None:
    """Decode 28 x 28 JPEG files; None if any of them is something else, for the slow way to find out which."""

    def read(paths: tf.Tensor) -> tf.Tensor:
        """Read a few files, as many as the graph says."""
        contents = tf.stack([tf.io.read_file(path) for path in tf.unstack(paths)])
        # Metadata, which would stand before the quantization table, could say that the picture lies on its side.
        begins = tf.strings.substr(contents, 0, 4) + tf.strings.substr(contents, 20, 2)
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(begins == _PLAIN_JPEG), [paths])]):
            pictures = [tf.io.decode_jpeg(content, dct_method="INTEGER_ACCURATE") for content in tf.unstack(contents)]
        return tf.stack([tf.ensure_shape(picture, [SIDE, SIDE, 1]) for picture in pictures])

    @tf.function  # type: ignore[untyped-decorator]  # tensorflow has no type information
    def read_all(names: tf.Tensor) -> tf.Tensor:
        blocks = tf.size(names) // _BLOCK
        together = tf.map_fn(
            read,
            tf.reshape(names[: blocks * _BLOCK], [blocks, _BLOCK]),
            fn_output_signature=tf.TensorSpec([_BLOCK, SIDE, SIDE, 1], tf.uint8),
            parallel_iterations=16,
        )
        spec = tf.TensorSpec([1, SIDE, SIDE, 1], tf.uint8)
        rest = tf.map_fn(read, names[blocks * _BLOCK :, tf.newaxis], fn_output_signature=spec)
        return tf.concat([tf.reshape(part, [-1, SIDE, SIDE, 1]) for part in (together, rest)], axis=0)

    try:
        images: NDArray[np.uint8] = read_all(tf.constant([str(path) for path in paths])).numpy()
    except tf.errors.OpError:
        return None
    return images if _are_white_on_black(images) else None


def _are_white_on_black(images: NDArray[np.uint8]) -> bool:
    """Whether the served model takes all these images, uint8 [N, 28, 28, 1], as they are.

    `preprocess.py` says it for the model; TensorFlow's operations, one by one, would take longer than reading the file.
    """
    ring = np.ones((SIDE, SIDE), bool)
    ring[1:-1, 1:-1] = False
    dark = np.count_nonzero(images[:, ring] <= 16, axis=(1, 2))
    return bool(np.all((2 * dark > np.count_nonzero(ring)) & (images.max(axis=(1, 2, 3)) >= 128)))


def _read(path: Path) -> NDArray[np.uint8] | bytes:
    """Decode a file: the pixels if it is opaque, 28 x 28, white on black; else a file that the served model reads."""
    if not path.is_file():  # a pipe would never end
        raise IsADirectoryError(path)
    content = path.read_bytes()
    with warnings.catch_warnings():  # Pillow warns of odd metadata; what matters is whether the pixels can be had
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if image.size == (SIDE, SIDE) and not image.has_transparency_data:
                pixels = np.asarray(_upright_in_8_bits(image).convert("L"))[..., np.newaxis]
                if _are_white_on_black(pixels[np.newaxis]):
                    return pixels
            if image.format in _SERVED_FORMATS and (image.format, image.mode) not in _MISREAD:
                return content
            converted = io.BytesIO()
            _upright_in_8_bits(image).convert("RGBA").save(converted, "PNG")
            return converted.getvalue()


def _upright_in_8_bits(image: Image.Image) -> Image.Image:
    """Turn a picture as its metadata says, and keep the upper half of 16-bit pixels: Pillow would cut them off."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    return upright


def _reason(message: str) -> str:
    """What TensorFlow says is wrong: where a graph failed, it says so first."""
    lines = [line for line in message.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Graph execution error", "Detected at", " ", "\t"))]
    return (told or lines or [message])[0].strip()
