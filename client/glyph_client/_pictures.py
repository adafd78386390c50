"""Whatever a user holds in hand, as an opened picture."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from glyph_client._errors import AmbiguousPicture, PictureError, PictureTooLarge

Picture = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | NDArray[Any]
Group = Sequence[Picture] | NDArray[Any]
"""Several pictures; an array [N, height, width] is N."""

MAX_PIXELS = 89_478_485
"""Pictures with more pixels are refused before they are decoded: Pillow's own limit against decompression bombs."""

_EXIF_ORIENTATION = 0x0112
_DARK = 24.0  # A picture whose brightest value is below this, of 255, cannot hold ink.


def in_groups(pictures: Iterable[Picture], size: int) -> Iterator[Group]:
    """So many pictures at a time; of an array, slices."""
    if isinstance(pictures, np.ndarray):
        return (pictures[start : start + size] for start in range(0, len(pictures), size))
    remaining = iter(pictures)
    return iter(lambda: list(islice(remaining, size)), [])


def name_of(picture: Picture) -> str:
    """How messages call a picture."""
    if isinstance(picture, str | os.PathLike):
        return str(picture)
    if isinstance(picture, np.ndarray):
        return f"array {picture.dtype} {list(picture.shape)}"
    return str(getattr(picture, "name", "") or type(picture).__name__)


def open_picture(picture: Picture) -> Image.Image:
    """Opens a picture, its first frame, and decodes it.

    Args:
        picture: a path; the bytes of an image file; an open binary file; a PIL image; or an array [height, width] or
            [height, width, 1 | 3 | 4] of uint8 0-255, of bool, of other integers 0-255, or of floats. Floats are 0 to
            1 if none is above 1, and 0 to 255 if the greatest is at least 24; between the two lies an error.

    Raises:
        PictureError: it is no picture that can be read.
        AmbiguousPicture: an array that could mean two things.
        PictureTooLarge: it has more than 89,478,485 pixels.
    """
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    if isinstance(picture, Image.Image):
        return _decoded(picture, name_of(picture))
    try:
        data = read_bytes(picture)
        image = Image.open(io.BytesIO(data))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PictureTooLarge(f"{name_of(picture)}: {error}") from error
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{name_of(picture)}: no image that can be read. Received: {len(data):,} bytes that begin with "
            f"{bytes(data[:8])!r}. Give a PNG, JPEG or another format that Pillow reads."
        ) from error
    except PictureError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a broken file drives them to.
        raise _damaged(name_of(picture), error) from error
    if image.format == "EPS":
        raise PictureError(f"{name_of(picture)}: PostScript is a program, and not run. Give a PNG or a JPEG.")
    return _decoded(image, name_of(picture))


def read_bytes(picture: Picture) -> bytes:
    """The bytes of an image file, not decoded.

    Raises:
        PictureError: there is no such file, or the picture is not a file.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | os.PathLike):
        try:
            return Path(picture).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: no path can be like that
            reason = getattr(error, "strerror", None) or error
            raise PictureError(f"{picture}: {reason}. Give the path of an image file.") from error
    if hasattr(picture, "read"):
        try:
            data = picture.read()
        except Exception as error:  # Whatever it is that was opened: a socket, an archive.
            raise PictureError(f"{name_of(picture)}: the file cannot be read ({error}).") from error
        if isinstance(data, bytes | bytearray | memoryview):
            return bytes(data)
        raise PictureError("a picture's file must be open in binary mode. Received: text. Open it with mode 'rb'.")
    raise PictureError(
        f"no picture that can be read. Received: {type(picture).__name__}. "
        "Give a path, bytes, a binary file, a PIL image or a NumPy array."
    )


def _decoded(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise PictureTooLarge(
            f"{name}: too many pixels. Received: {image.width:,} x {image.height:,} (limit {MAX_PIXELS:,}). Shrink it."
        )
    if not image.width or not image.height:
        raise PictureError(f"{name}: the picture is empty. Received: {image.width} x {image.height} pixels.")
    try:
        image.load()
    except Exception as error:  # Pillow's decoders do, too.
        raise _damaged(name, error) from error
    return _with_8_bits(image) if image.mode.startswith(("I", "F")) else image


def _damaged(name: str, error: Exception) -> PictureError:
    return PictureError(f"{name}: the image is damaged and cannot be decoded ({error}).")


def orientation_of(image: Image.Image) -> int:
    """How a picture is to be turned, 1 to 8 as EXIF has it; 1 if that cannot be read."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 (what stands there may be anything)
        return 1
    return orientation if orientation in range(1, 9) else 1


def _with_8_bits(image: Image.Image) -> Image.Image:
    """A grey picture of more bits with their upper 8, as transparent and as turned as it was."""
    values = np.asarray(image)
    # Pillow scales a PPM file of more than 8 bits to 16; of others only the values tell.
    is_wide = image.mode == "I" and (image.format == "PPM" or values.max() > 255)
    is_deep = image.mode.startswith("I;16") or (is_wide and values.min() >= 0 and values.max() < 65536)
    narrow = Image.fromarray((values >> 8).astype(np.uint8) if is_deep else _as_uint8(values))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        narrow.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    narrow.getexif()[_EXIF_ORIENTATION] = orientation_of(image)
    return narrow


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.ndim not in {2, 3} or (array.ndim == 3 and array.shape[2] not in {1, 3, 4}):
        advice = "Give [height, width] or [height, width, 1 | 3 | 4]; a batch goes to predict_many."
        raise PictureError(f"an array of this shape is no picture. Received: {list(array.shape)}. {advice}")
    if not array.size:
        raise PictureError(f"the picture is empty. Received: an array of shape {list(array.shape)}.")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise PictureTooLarge(f"too many pixels. Received: {list(array.shape)} (limit {MAX_PIXELS:,}). Shrink it.")
    values = _as_uint8(array)
    return Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[2:] == (1,) else values))


def _as_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array * np.uint8(255)
    if array.dtype.kind not in "iuf":
        raise PictureError(f"an array of type {array.dtype} is no picture. Give uint8, or floats from 0 to 1.")
    low, high = float(array.min()), float(array.max())
    received = f"Received: {array.dtype} from {low:g} to {high:g}"
    if not (low >= 0.0 and high <= 255.0):  # NaN lands here as well.
        raise PictureError(f"an array's values must lie between 0 and 255, or 0 and 1. {received}.")
    if array.dtype.kind != "f" and high != 1:
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and high <= 1.0:
        return np.floor(array * 255.0 + 0.5).astype(np.uint8)
    if array.dtype.kind == "f" and high >= _DARK:
        return np.floor(array + 0.5).astype(np.uint8)
    raise AmbiguousPicture(f"the array could mean 0 to 1 or 0 to 255. {received}. Give uint8, or floats from 0 to 1.")
