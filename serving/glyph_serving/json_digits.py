"""Predict requests that are whole numbers in the signature's own shape, read without building lists of lists.

Pictures come as JSON in which every bracket and comma is known beforehand. What is left when the brackets are taken out
is read by NumPy, in a tenth of the time.
"""

import re
from functools import lru_cache

import numpy as np

from glyph_serving.servable import Array, TensorSpec

_ONLY_NUMBERS = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"instances"[ \t\r\n]*:[ \t\r\n]*(\[[][0-9, ]*\])[ \t\r\n]*\}')
_DIGITS = b"0123456789"
_TO_ZEROS = bytes.maketrans(_DIGITS, b"0" * 10)


def only_numbers(body: bytes) -> bytes | None:
    """The value of ``instances``; None if there is more in the JSON text than that and numbers without signs."""
    match = _ONLY_NUMBERS.fullmatch(body)
    return match[1] if match else None


def read_numbers(text: bytes, spec: TensorSpec) -> Array | None:
    """The tensor that such a text spells.

    Args:
        text: What ``only_numbers`` found.
        spec: What the tensor must be: whole numbers of at most 32 bits, of a known shape but for the batch.

    Returns:
        The array; None if the text is anything else than valid JSON of that shape and range.
    """
    dtype = spec.numpy_dtype
    if dtype.kind not in "iu" or dtype.itemsize > 4 or not spec.shape or -1 in spec.shape[1:] or 0 in spec.shape[1:]:
        return None
    comma = b", " if b" " in text else b","
    row = _brackets(spec.shape[1:], comma)
    brackets = text.translate(None, _DIGITS)
    rows = (len(brackets) + len(comma) - 2) // (len(row) + len(comma))
    if rows < 1 or brackets != b"[" + comma.join([row] * rows) + b"]":
        return None
    if len(comma) > 1 and text.count(b" ") != text.count(comma):
        return None  # a blank elsewhere, perhaps within a number
    zeros = text.translate(_TO_ZEROS)
    if b"0[" in zeros or b"]0" in zeros:
        return None  # a number outside of the innermost brackets
    listed = text.translate(None, b"[] ")
    if b",," in listed or not listed[:1].isdigit() or not listed[-1:].isdigit():
        return None  # a number is missing
    values = np.fromstring(listed, np.int64, sep=",")
    largest = np.iinfo(dtype).max
    if values.max() > largest:
        return None
    # There are as many digits as the numbers need: no zeros stand before them, and none was too large to be read.
    longer = sum([np.count_nonzero(values >= 10**power) for power in range(1, len(str(largest)))])
    if len(listed) != 2 * len(values) - 1 + longer:
        return None
    return values.astype(dtype).reshape(rows, *spec.shape[1:])


@lru_cache(maxsize=256)
def _brackets(shape: tuple[int, ...], comma: bytes) -> bytes:
    """The JSON text of an array of that shape without its numbers."""
    return b"[" + comma.join([_brackets(shape[1:], comma)] * shape[0]) + b"]" if shape else b""
