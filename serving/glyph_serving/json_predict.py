"""JSON predict requests, as TensorFlow Serving's REST API maps them to tensors.

A request in order is read by the standard library's parser and NumPy, or by NumPy alone if it is all whole numbers.
Anything out of the ordinary is read again, step by step, which either finds that all is well or says what is not, in
the genuine server's words.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorflow.python.framework import dtypes

from glyph_serving.errors import Code, ServingError, invalid_argument
from glyph_serving.json_digits import only_numbers, read_numbers
from glyph_serving.json_document import (
    decode_base64,
    decode_base64_object,
    format_error,
    is_base64,
    read_document,
    shown,
    signature_name,
)
from glyph_serving.json_value import MISSING, Object, type_name
from glyph_serving.servable import Array, Arrays, Signature, TensorSpec, shape_text, type_text
from glyph_serving.tensor_proto import MAX_RANK

_INT_RANGES: dict[dtypes.DType, tuple[int, int]] = {
    dtypes.int8: (-(2**7), 2**7),
    dtypes.int16: (-(2**15), 2**15),
    dtypes.int32: (-(2**31), 2**31),
    dtypes.int64: (-(2**63), 2**63),
    dtypes.uint8: (0, 2**8),
    dtypes.uint32: (0, 2**32),
    dtypes.uint64: (0, 2**64),
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
    if (numbers := only_numbers(body)) is not None and (request := _read_numbers(numbers, find_signature)):
        return request
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


def _read_numbers(numbers: bytes, find_signature: Callable[[str], Signature]) -> PredictRequest | None:
    try:
        signature = find_signature("")
    except ServingError:
        return None  # whether the body is JSON at all comes first
    if len(signature.inputs) != 1:
        return None
    array = read_numbers(numbers, next(iter(signature.inputs.values())))
    return PredictRequest(signature, [array], True) if array is not None else None


def _array_in_order(spec: TensorSpec, value: Any, has_words: bool) -> Array:
    dtype = spec.numpy_dtype
    if dtype.hasobject:
        if not isinstance(value, list):
            raise _OutOfOrder
        strings = np.empty(len(value), dtype)
        strings[:] = [item.encode() if isinstance(item, str) else _base64_in_order(item) for item in value]
        return strings
    array = np.array(value)
    if dtype.kind == "f" and array.dtype.kind in "fiu" and not has_words:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise _OutOfOrder
        with np.errstate(over="ignore"):
            return array.astype(np.float64).astype(dtype)  # by way of double, as RapidJSON does
    if dtype.kind in "iu" and array.dtype.kind in "iu" and array.size and not has_words:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise _OutOfOrder
        return array.astype(dtype)
    raise _OutOfOrder


def _base64_in_order(item: dict[str, str]) -> bytes:
    if len(item) != 1:
        raise _OutOfOrder
    return decode_base64(item["b64"].encode())


# --- all others, step by step


def _parse_by_steps(body: bytes, find_signature: Callable[[str], Signature]) -> PredictRequest:
    document = read_document(body)
    signature = find_signature(signature_name(document))
    instances, inputs = document.find(b"instances"), document.find(b"inputs")
    if instances is not MISSING:
        if inputs is not MISSING:
            raise format_error(
                document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
            )
        if not isinstance(instances, list):
            raise format_error(document, "Expecting 'instances' to be an list/array")
        if not instances:
            raise format_error(document, "No values in 'instances' array")
        return PredictRequest(signature, _from_instances(instances, signature), True)
    if inputs is not MISSING:
        return PredictRequest(signature, _from_inputs(inputs, signature), False)
    raise invalid_argument("Missing 'inputs' or 'instances' key")


class _Tensor:
    """The values of one input as they are collected, row by row or all at once."""

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self.values: list[Any] = []
        self.shape: tuple[int, ...] | None = None

    def add(self, item: Any) -> None:
        """Adds a row, which must be of the first one's shape."""
        shape = _dense_shape(item)
        size = math.prod(shape)
        if len(shape) <= MAX_RANK:  # no tensor has more, which `array` says
            before = len(self.values)
            self._fill(item, 0, shape)
            size = len(self.values) - before
        if self.shape is None:
            self.shape = shape
        elif math.prod(self.shape) != size:
            raise invalid_argument(f"Expecting tensor size: {math.prod(self.shape)} but got: {size}")
        elif self.shape != shape:
            raise invalid_argument(f"Expecting shape {shape_text(self.shape)} but got: {shape_text(shape)}")

    def array(self, rows: int | None = None) -> Array:
        """All rows as one array; without their number, the only row as it is.

        Where a row names an input twice there are more values than the array has room for: the first ones count.
        """
        shape = (self.shape or ()) if rows is None else (rows, *(self.shape or ()))
        values = self.values[: math.prod(shape)]
        try:
            array = np.empty(len(values), self._spec.numpy_dtype)
            with np.errstate(over="ignore"):
                array[:] = values
            return array.reshape(shape)
        except ValueError:
            raise invalid_argument(f"tensor parsing error: {self._spec.alias}") from None

    def _fill(self, value: Any, level: int, shape: tuple[int, ...]) -> None:
        rank = len(shape)
        if not isinstance(value, list):
            if level != rank:
                raise invalid_argument(
                    f"JSON Value: {shown(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at "
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
        name = key.partition(b"\0")[0].decode("utf-8", "surrogateescape")
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
            f"Failed to process element: {number} of 'instances' list. JSON object: {shown(row)} keys must be equal "
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


def _scalar(value: Any, dtype: dtypes.DType) -> Any:
    """A JSON value as a value of a data type.

    Raises:
        ServingError: INVALID_ARGUMENT for one of another type, UNIMPLEMENTED for a type without JSON.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if dtype == dtypes.string:
        if isinstance(value, Object):
            return decode_base64_object(value)
        if isinstance(value, bytes):
            return value
    elif dtype in (dtypes.float32, dtypes.float64):
        if number:
            return float(value)
    elif dtype == dtypes.bool:
        if isinstance(value, bool):
            return value
    elif dtype in _INT_RANGES:
        low, high = _INT_RANGES[dtype]
        if number and isinstance(value, int) and low <= value < high:
            return value
    elif not isinstance(value, Object):
        raise ServingError(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {shown(value)} to type: {dtype.name}")
    raise invalid_argument(
        f"JSON Value: {shown(value)} Type: {type_name(value)} is not of expected type: {type_text(dtype)}"
    )


def _dense_shape(value: Any) -> tuple[int, ...]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def _is_named(value: Any) -> bool:
    """Whether a value is an object of named inputs, not one that stands for a string."""
    return isinstance(value, Object) and not is_base64(value)
