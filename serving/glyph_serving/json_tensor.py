"""JSON and tensors, as TensorFlow Serving's REST API maps one to the other."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from glyph_serving.errors import invalid_argument
from glyph_serving.servable import Array, Arrays, Signature, TensorSpec

Writer = Callable[[Any], str]


@dataclass(frozen=True)
class PredictRequest:
    """A REST predict request.

    Attributes:
        signature: The signature that it asks for.
        arrays: The inputs in the order of ``signature.inputs``.
        row_format: Whether it came as ``instances`` and wants ``predictions``, one an instance.
    """

    signature: Signature
    arrays: Arrays
    row_format: bool


def parse_predict(body: bytes, find_signature: Callable[[str], Signature]) -> PredictRequest:
    """Reads a predict request.

    Args:
        body: The JSON text.
        find_signature: Gives the signature of a name; raises ServingError.

    Raises:
        ServingError: INVALID_ARGUMENT, in the genuine server's words.
    """
    document = _parse(body)
    signature = find_signature(document.get("signature_name", ""))
    specs = list(signature.inputs.values())
    if "instances" in document:
        if "inputs" in document:
            raise invalid_argument(
                "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist"
            )
        instances = document["instances"]
        if not isinstance(instances, list) or not instances:
            raise invalid_argument("Expecting 'instances' to be an list/array")
        if isinstance(instances[0], dict) and set(instances[0]) != {"b64"}:
            columns = [[row[spec.alias] for row in instances] for spec in specs]
        elif len(specs) > 1:
            raise invalid_argument(
                "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
                "tensorinfo_map"
            )
        else:
            columns = [instances]
        return PredictRequest(signature, list(map(_array, specs, columns)), True)
    if "inputs" in document:
        inputs = document["inputs"]
        if isinstance(inputs, dict) and set(inputs) != {"b64"}:
            for spec in specs:
                if spec.alias not in inputs:
                    raise invalid_argument(f"Missing named input: {spec.alias} in 'inputs' object.")
            columns = [inputs[spec.alias] for spec in specs]
        else:
            columns = [inputs]
        return PredictRequest(signature, list(map(_array, specs, columns)), False)
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def _parse(body: bytes) -> dict[str, Any]:
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except ValueError as error:
        raise invalid_argument(f"JSON Parse error: {error}") from None
    if not isinstance(document, dict):
        raise invalid_argument("JSON Value: Is not object")
    return document


def _array(spec: TensorSpec, value: Any) -> Array:
    if spec.numpy_dtype.hasobject:
        return _strings(value)
    array: Array = np.array(value)
    if array.dtype == object or (array.dtype.kind == "f" and spec.numpy_dtype.kind in "iu"):
        raise invalid_argument(f"JSON Value is not of expected type: {spec.dtype.name}")
    return array.astype(spec.numpy_dtype)


def _strings(value: Any) -> Array:
    shape = []
    probe = value
    while isinstance(probe, list):
        shape.append(len(probe))
        probe = probe[0] if probe else None
    flat: list[bytes] = []

    def collect(item: Any) -> None:
        if isinstance(item, list):
            for element in item:
                collect(element)
        elif isinstance(item, dict):
            flat.append(base64.b64decode(item["b64"]))
        else:
            flat.append(item.encode())

    collect(value)
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(shape)


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
        body = _rows(outputs, values, writers)
    else:
        texts = {alias: _nested(value, writers[alias]) for alias, value in values.items()}
        body = f'"outputs": {_members(texts, 4)}'
    return f"{{\n    {body}\n}}".encode("utf-8", "surrogateescape")


def _rows(outputs: Mapping[str, Array], values: Mapping[str, Any], writers: Mapping[str, Writer]) -> str:
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
    separator = ",\n        " if len(outputs) > 1 else ", "
    return f'"predictions": [{separator.join(rows)}\n    ]'


def _members(texts: Mapping[str, str], indent: int) -> str:
    """Several texts as an object, one as itself."""
    if len(texts) == 1:
        return next(iter(texts.values()))
    lines = ",\n".join(f"{' ' * indent}    {_quote(alias.encode())}: {text}" for alias, text in texts.items())
    return f"{{\n{lines}\n{' ' * indent}}}"


def format_error(message: str) -> bytes:
    """The JSON text of an error."""
    return f'{{\n    "error": {_quote(message.encode("utf-8", "surrogateescape"))}\n}}'.encode(
        "utf-8", "surrogateescape"
    )


_ESCAPES = {i: f"\\u{i:04X}" for i in range(0x20)} | {
    ord('"'): '\\"',
    ord("\\"): "\\\\",
    ord("\b"): "\\b",
    ord("\f"): "\\f",
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}


def _quote(value: bytes) -> str:
    """A JSON string; bytes that are no UTF-8 pass through as they are."""
    return '"' + value.decode("utf-8", "surrogateescape").translate(_ESCAPES) + '"'


def _writer(dtype: np.dtype[Any], alias: str) -> Writer:
    """What writes one value of a tensor; strings of tensors named ``*_bytes`` go out as base64."""
    if dtype == np.float64:
        return lambda value: _decimal(value, 17)
    if dtype.kind in "fV":
        return lambda value: _decimal(value, 9)
    if dtype.kind == "b":
        return lambda value: "true" if value else "false"
    if dtype.kind == "O":
        if alias.endswith("_bytes"):
            return lambda value: f'{{"b64": "{base64.b64encode(value).decode()}"}}'
        return _quote
    return str


def _nested(value: Any, write: Writer) -> str:
    if isinstance(value, list):
        return "[" + ", ".join([_nested(item, write) for item in value]) + "]"
    return write(value)


def _decimal(value: float, digits: int) -> str:
    """A number as the genuine server writes it: six digits if they suffice, else all that the type has."""
    text = f"{value:.6g}"
    if text == "nan":
        return "NaN"
    if text in ("inf", "-inf"):
        return "Infinity" if value > 0 else "-Infinity"
    exact = np.float32(text) == np.float32(value) if digits == 9 else float(text) == value
    if not exact:
        text = f"{value:.{digits}g}"
    return text if "." in text or "e" in text else f"{text}.0"
