"""The IDX format of the MNIST files: big-endian dimensions, then the bytes of an array."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glyph_trainer.errors import DataError

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes.

    Args:
        path: the file, plain or compressed with gzip.

    Returns:
        uint8, of the shape that the file states; read-only.

    Raises:
        DataError: the file is missing, truncated, corrupt, or another kind of IDX file.
    """
    return parse_idx(read_content(path), path)


def read_content(path: Path) -> bytes:
    """Read a file, decompressing it if it is gzip.

    Args:
        path: the file.

    Returns:
        the uncompressed content.

    Raises:
        DataError: the file is missing, unreadable or damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist. Put the file there, or name the folder that has it") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is truncated or corrupt ({error}). Replace it with an intact copy") from error


def parse_idx(content: bytes, path: Path) -> NDArray[np.uint8]:
    """Interpret the content of an IDX file.

    Args:
        content: the uncompressed bytes.
        path: where they come from, for messages.

    Returns:
        uint8, of the shape that the content states; read-only.

    Raises:
        DataError: this is no IDX file of unsigned bytes, or not a whole one.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE or not content[3]:
        raise DataError(
            f"{path} is no IDX file of unsigned bytes: it should begin with 00 00 08 and the number of dimensions, "
            f"and begins with {content[:4].hex(' ') or 'nothing'}. Replace it with an intact copy"
        )
    offset = 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:offset], ">u4"))
    if len(content) != offset + math.prod(shape) or len(shape) != content[3]:
        raise DataError(
            f"{path} is truncated or corrupt: its header promises {offset + math.prod(shape):,} bytes for the shape "
            f"{shape}, it has {len(content):,}. Replace it with an intact copy"
        )
    return np.frombuffer(content, np.uint8, offset=offset).reshape(shape)
