"""JSON answers, in the genuine server's layout: four spaces, floats with as few digits as tell them apart."""

import binascii
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from glyph_serving.errors import invalid_argument
from glyph_serving.json_value import quote
from glyph_serving.servable import Array


def format_predictions(outputs: Mapping[str, Array], row_format: bool) -> bytes:
    """The JSON text of a predict answer.

    Args:
        outputs: The output arrays by alias.
        row_format: Whether to write ``predictions``, one an instance, or ``outputs``, one a tensor.

    Raises:
        ServingError: INVALID_ARGUMENT for outputs that cannot be told apart by instance.
    """
    writers = {alias: _writer(array.dtype, alias) for alias, array in outputs.items()}
    values = {alias: array.tolist() for alias, array in outputs.items()}
    if row_format:
        return _text(_rows(outputs, values, writers))
    texts = {alias: _nested(value, writers[alias]) for alias, value in values.items()}
    return _text(f'"outputs": {_members(texts, 4)}')


def format_classifications(result: Any) -> bytes:
    """The JSON text of a ClassificationResult: label and score of every class of every example."""
    rows = [
        "[" + ", ".join(f"[{quote(one.label.encode())}, {_decimal(one.score, 9)}]" for one in entry.classes) + "]"
        for entry in result.classifications
    ]
    return _text(f'"results": [{", ".join(rows)}\n    ]')


def format_regressions(result: Any) -> bytes:
    """The JSON text of a RegressionResult: the value of every example."""
    return _text(f'"results": [{", ".join(_decimal(entry.value, 9) for entry in result.regressions)}]')


def format_error(message: str) -> bytes:
    """The JSON text of an error."""
    return _text(f'"error": {quote(message.encode("utf-8", "surrogateescape"))}')


def _text(member: str) -> bytes:
    return f"{{\n    {member}\n}}".encode("utf-8", "surrogateescape")


_Writer = Callable[[Any], str]


def _rows(outputs: Mapping[str, Array], values: Mapping[str, Any], writers: Mapping[str, _Writer]) -> str:
    batch = -1
    for alias, array in outputs.items():
        if array.ndim == 0:
            raise invalid_argument(f"Tensor name: {alias} has no shape information ")
        if batch >= 0 and array.shape[0] != batch:
            raise invalid_argument(
                f"Tensor name: {alias} has inconsistent batch size: {array.shape[0]} expecting: {batch}"
            )
        batch = array.shape[0]
    rows = [
        _members({alias: _nested(value[i], writers[alias]) for alias, value in values.items()}, 8) for i in range(batch)
    ]
    lead, separator = ("\n        ", ",\n        ") if len(outputs) > 1 else ("", ", ")
    return f'"predictions": [{lead}{separator.join(rows)}\n    ]'


def _members(texts: Mapping[str, str], indent: int) -> str:
    """Several texts as an object, one as itself."""
    if len(texts) == 1:
        return next(iter(texts.values()))
    lines = ",\n".join(f"{' ' * indent}    {quote(alias.encode())}: {text}" for alias, text in texts.items())
    return f"{{\n{lines}\n{' ' * indent}}}"


def _writer(dtype: np.dtype[Any], alias: str) -> _Writer:
    """What writes one value of a tensor; strings of tensors named ``*_bytes`` go out as base64."""
    if dtype == np.float64:
        return lambda value: _decimal(value, 17)
    if dtype.kind in "fV":
        return lambda value: _decimal(value, 9)
    if dtype.kind == "b":
        return lambda value: "true" if value else "false"
    if dtype.kind == "O":
        if alias.endswith("_bytes"):
            return lambda value: f'{{"b64": "{binascii.b2a_base64(value, newline=False).decode()}"}}'
        return quote
    return str


def _nested(value: Any, write: _Writer) -> str:
    if isinstance(value, list):
        return "[" + ", ".join([_nested(item, write) for item in value]) + "]"
    return write(value)


def _decimal(value: float, digits: int) -> str:
    """A number as the genuine server writes it: six digits if they suffice, else all that the type has."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    text = f"{value:.6g}"
    exact = np.float32(text) == np.float32(value) if digits == 9 else float(text) == value
    if not exact:
        text = f"{value:.{digits}g}"
    return text if "." in text or "e" in text else f"{text}.0"
