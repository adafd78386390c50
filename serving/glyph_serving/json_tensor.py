"""JSON requests and tensors, as TensorFlow Serving's REST API maps one to the other.

A request in order is read by the standard library's parser and NumPy; anything out of the ordinary is read again, step
by step, which either finds that all is well or says what is not, in the genuine server's words.
"""

import binascii
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import input_pb2

from glyph_serving.errors import Code, ServingError, invalid_argument
from glyph_serving.json_value import MISSING, Object, parse, quote, to_text, type_name
from glyph_serving.servable import Array, Arrays, Signature, TensorSpec, type_text

_MAX_SHOWN = 256  # characters of a value in a message
_BASE64 = re.compile(rb"([A-Za-z0-9+/]*)(=*)")
_BASE64_SPACE = b" \t\n\v\f\r"
_INT_RANGES: dict[tf.DType, tuple[int, int]] = {
    tf.int8: (-(2**7), 2**7),
    tf.int16: (-(2**15), 2**15),
    tf.int32: (-(2**31), 2**31),
    tf.int64: (-(2**63), 2**63),
    tf.uint8: (0, 2**8),
    tf.uint32: (0, 2**32),
    tf.uint64: (0, 2**64),
}


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


class _OutOfOrder(Exception):  # noqa: N818 (no error yet)
    """The request has to be read step by step."""


def parse_predict(body: bytes, find_signature: Callable[[str], Signature]) -> PredictRequest:
    """Reads a predict request.

    Args:
        body: The JSON text.
        find_signature: Gives the signature of a name ("" for the default); raises ServingError.

    Raises:
        ServingError: INVALID_ARGUMENT for what cannot be read; whatever ``find_signature`` raises.
    """
    try:
        return _parse_in_order(body, find_signature)
    except (_OutOfOrder, AttributeError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return _parse_by_steps(body, find_signature)


# --- requests in order


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _OutOfOrder
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _parse_in_order(body: bytes, find_signature: Callable[[str], Signature]) -> PredictRequest:
    if b"\\u" in body:
        raise _OutOfOrder  # the standard library lets lone surrogates pass
    document = _DECODER.raw_decode(body.decode().lstrip(" \t\r\n"))[0]
    name = document.get("signature_name", "")
    if not isinstance(name, str) or ("instances" in document) == ("inputs" in document):
        raise _OutOfOrder
    signature = find_signature(name)
    specs = list(signature.inputs.values())
    has_words = b"true" in body or b"false" in body
    if "inputs" in document:
        given = document["inputs"]
        named = isinstance(given, dict) and given.keys() != {"b64"}
        values = [given[spec.alias] for spec in specs] if named else [given]
        row_format = False
    else:
        rows = document["instances"]
        if not rows or not isinstance(rows, list):
            raise _OutOfOrder
        row_format = True
        if isinstance(rows[0], dict) and rows[0].keys() != {"b64"}:
            if any(row.keys() != signature.inputs.keys() for row in rows):
                raise _OutOfOrder
            values = [[row[spec.alias] for row in rows] for spec in specs]
        else:
            values = [rows]
    if len(values) != len(specs):
        raise _OutOfOrder
    arrays = [_array_in_order(spec, value, has_words) for spec, value in zip(specs, values, strict=True)]
    return PredictRequest(signature, arrays, row_format)


def _array_in_order(spec: TensorSpec, value: Any, has_words: bool) -> Array:
    dtype = spec.numpy_dtype
    if dtype.hasobject:
        if not isinstance(value, list):
            raise _OutOfOrder
        strings = np.empty(len(value), dtype)
        strings[:] = [item.encode() if isinstance(item, str) else _base64(item["b64"].encode()) for item in value]
        return strings
    array = np.array(value)
    if dtype.kind == "f" and array.dtype.kind in "fiu" and not has_words:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise _OutOfOrder
        return array.astype(dtype)
    if dtype.kind in "iu" and array.dtype.kind in "iu" and array.size and not has_words:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise _OutOfOrder
        return array.astype(dtype)
    raise _OutOfOrder


# --- all others, step by step


def _parse_by_steps(body: bytes, find_signature: Callable[[str], Signature]) -> PredictRequest:
    document = _document(body)
    signature = find_signature(_signature_name(document))
    instances, inputs = document.find(b"instances"), document.find(b"inputs")
    if instances is not MISSING:
        if inputs is not MISSING:
            raise _format_error(
                document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
            )
        if not isinstance(instances, list):
            raise _format_error(document, "Expecting 'instances' to be an list/array")
        if not instances:
            raise _format_error(document, "No values in 'instances' array")
        return PredictRequest(signature, _from_instances(instances, signature), True)
    if inputs is not MISSING:
        return PredictRequest(signature, _from_inputs(inputs, signature), False)
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def _document(body: bytes) -> Object:
    document = parse(body)
    if not isinstance(document, Object):
        raise _format_error(document, "Is not object")
    return document


def _signature_name(document: Object) -> str:
    name = document.find(b"signature_name")
    if name is MISSING:
        return ""
    if not isinstance(name, bytes):
        raise _format_error(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return name.decode("utf-8", "surrogateescape")


class _Tensor:
    """The values of one input as they are collected, row by row or all at once."""

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self.values: list[Any] = []
        self.shape: tuple[int, ...] | None = None

    def add(self, item: Any) -> None:
        """Adds a row, which must be of the first one's shape."""
        shape = _dense_shape(item)
        before = len(self.values)
        self._fill(item, 0, shape)
        size = len(self.values) - before
        if self.shape is None:
            self.shape = shape
        elif math.prod(self.shape) != size:
            raise invalid_argument(f"Expecting tensor size: {math.prod(self.shape)} but got: {size}")
        elif self.shape != shape:
            raise invalid_argument(f"Expecting shape {_shape_text(self.shape)} but got: {_shape_text(shape)}")

    def array(self, rows: int | None = None) -> Array:
        """All rows as one array; without their number, the only row as it is."""
        shape = (self.shape or ()) if rows is None else (rows, *(self.shape or ()))
        try:
            array = np.empty(len(self.values), self._spec.numpy_dtype)
            with np.errstate(over="ignore"):
                array[:] = self.values
            return array.reshape(shape)
        except ValueError:
            raise invalid_argument(f"tensor parsing error: {self._spec.alias}") from None

    def _fill(self, value: Any, level: int, shape: tuple[int, ...]) -> None:
        rank = len(shape)
        if not isinstance(value, list):
            if level != rank:
                raise invalid_argument(
                    f"JSON Value: {_shown(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at "
                    f"level: {rank}"
                )
            self.values.append(_scalar(value, self._spec.dtype))
            return
        if level >= rank:
            raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {rank}")
        if len(value) != shape[level]:
            raise invalid_argument(
                f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
            )
        for item in value:
            self._fill(item, level + 1, shape)


def _from_instances(instances: list[Any], signature: Signature) -> Arrays:
    if not isinstance(instances[0], Object) and len(signature.inputs) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    by_name = _is_named(instances[0])
    tensors = {alias: _Tensor(spec) for alias, spec in signature.inputs.items()}
    for number, row in enumerate(instances):
        if by_name != _is_named(row):
            expected = "object but got list" if by_name else "value/list but got object"
            raise invalid_argument(f"Expecting {expected} at item {number} of input list")
        if by_name:
            _add_named_row(tensors, number, row)
        else:
            try:
                next(iter(tensors.values())).add(row)
            except ServingError as error:
                raise invalid_argument(
                    f"Failed to process element: {number} of 'instances' list. Error: {error}"
                ) from None
    return [tensor.array(len(instances)) for tensor in tensors.values()]


def _add_named_row(tensors: Mapping[str, _Tensor], number: int, row: Object) -> None:
    names = set()
    for key, item in row:
        name = key.decode("utf-8", "surrogateescape")
        names.add(name)
        try:
            if name not in tensors:
                raise invalid_argument(f"JSON object: does not have named input: {name}")
            tensors[name].add(item)
        except ServingError as error:
            raise invalid_argument(
                f"Failed to process element: {number} key: {name} of 'instances' list. Error: {error}"
            ) from None
    if names != tensors.keys():
        raise invalid_argument(
            f"Failed to process element: {number} of 'instances' list. JSON object: {_shown(row)} keys must be equal "
            f"to: {','.join(tensors)}"
        )


def _from_inputs(inputs: Any, signature: Signature) -> Arrays:
    specs = list(signature.inputs.values())
    if _is_named(inputs):
        values = []
        for spec in specs:
            value = inputs.find(spec.alias.encode())
            if value is MISSING:
                raise invalid_argument(f"Missing named input: {spec.alias} in 'inputs' object.")
            values.append(value)
    elif len(specs) > 1:
        raise invalid_argument(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    else:
        values = [inputs]
    arrays = []
    for spec, value in zip(specs, values, strict=True):
        tensor = _Tensor(spec)
        tensor.add(value)
        arrays.append(tensor.array())
    return arrays


def _scalar(value: Any, dtype: tf.DType) -> Any:
    """A JSON value as a value of a data type.

    Raises:
        ServingError: INVALID_ARGUMENT for one of another type, UNIMPLEMENTED for a type without JSON.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if dtype == tf.string:
        if isinstance(value, Object):
            return _base64_object(value)
        if isinstance(value, bytes):
            return value
    elif dtype in (tf.float32, tf.float64):
        if number:
            return float(value)
    elif dtype == tf.bool:
        if isinstance(value, bool):
            return value
    elif dtype in _INT_RANGES:
        low, high = _INT_RANGES[dtype]
        if number and isinstance(value, int) and low <= value < high:
            return value
    elif not isinstance(value, Object):
        raise ServingError(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {_shown(value)} to type: {dtype.name}")
    raise invalid_argument(
        f"JSON Value: {_shown(value)} Type: {type_name(value)} is not of expected type: {type_text(dtype)}"
    )


def _dense_shape(value: Any) -> tuple[int, ...]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def _shape_text(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _is_base64(value: Any) -> bool:
    return isinstance(value, Object) and len(value.members) == 1 and isinstance(value.find(b"b64"), bytes)


def _is_named(value: Any) -> bool:
    """Whether a value is an object of named inputs, not one that stands for a string."""
    return isinstance(value, Object) and not _is_base64(value)


def _base64_object(value: Object) -> bytes:
    if not _is_base64(value):
        raise invalid_argument(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    try:
        return _base64(value.find(b"b64"))
    except ValueError:
        raise invalid_argument("Unable to base64 decode") from None


def _base64(text: bytes) -> bytes:
    """Decodes base64, with or without padding, white space ignored.

    Raises:
        ValueError: It is none.
    """
    match = _BASE64.fullmatch(text.translate(None, _BASE64_SPACE))
    if match is None:
        raise ValueError("not base64")
    digits, padding = match.groups()
    missing = -len(digits) % 4
    if missing == 3 or (padding and len(padding) != missing):
        raise ValueError("not base64")
    return binascii.a2b_base64(digits + b"=" * missing)


def _shown(value: Any) -> str:
    return to_text(value)[:_MAX_SHOWN]


def _format_error(value: Any, problem: str) -> ServingError:
    return invalid_argument(f"JSON Value: {_shown(value)} {problem}")


# --- classify and regress


def parse_examples(body: bytes) -> tuple[str, input_pb2.Input]:
    """Reads a classify or regress request.

    Args:
        body: The JSON text.

    Returns:
        The signature's name, "" for the default, and the examples.

    Raises:
        ServingError: INVALID_ARGUMENT for what cannot be read.
    """
    document = _document(body)
    name = _signature_name(document)
    given = input_pb2.Input()
    context = document.find(b"context")
    target = given.example_list.examples
    if context is not MISSING:
        _fill_example(context, given.example_list_with_context.context)
        target = given.example_list_with_context.examples
    examples = document.find(b"examples")
    if examples is MISSING:
        raise _format_error(document, "When method is classify, key 'examples' is expected and was not found")
    if not isinstance(examples, list):
        raise _format_error(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise _format_error(document, "'examples' value is an empty array")
    for example in examples:
        _fill_example(example, target.add())
    return name, given


def _fill_example(value: Any, example: Any) -> None:
    if not isinstance(value, Object):
        raise invalid_argument(f"Example must be JSON object but got JSON {type_name(value)}")
    for key, content in value:
        name = key.decode("utf-8", "surrogateescape")
        feature = example.features.feature[name]
        feature.Clear()
        for item in content if isinstance(content, list) else [content]:
            _add_feature_value(name, item, feature)


def _add_feature_value(name: str, value: Any, feature: Any) -> None:
    if isinstance(value, bool):
        kind, value = "int64", int(value)
    elif isinstance(value, float):
        kind = "float"
    elif isinstance(value, int):
        kind = "int64"
        if value >= 2**63:
            raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
    elif isinstance(value, bytes):
        kind = "bytes"
    elif _is_base64(value):
        kind, value = "bytes", _base64_object(value)
    else:
        raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")
    field = f"{kind}_list"
    present = feature.WhichOneof("kind")
    if present not in (None, field):
        expected = present.removesuffix("_list")
        raise invalid_argument(f"Unexpected element type in feature: {name} expecting type: {expected}")
    getattr(feature, field).value.append(value)


# --- answers


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
