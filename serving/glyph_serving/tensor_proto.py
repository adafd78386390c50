"""TensorProto and NumPy arrays, by the rules of Tensor::FromProto and Tensor::AsProtoField.

Encoding writes the wire format itself: for the tensors that models answer with it is a header and a copy of the
array's memory, where building the message first costs ten times as much.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.python.framework import dtypes

from glyph_serving.errors import ServingError, invalid_argument

Array = npt.NDArray[Any]

_MAX_RANK = 254
# The typed field of each data type, and the NumPy type of what that field holds.
_INT = ("int_val", np.int32)
_FIELDS: dict[int, tuple[str, Any]] = {
    types_pb2.DT_FLOAT: ("float_val", np.float32),
    types_pb2.DT_DOUBLE: ("double_val", np.float64),
    types_pb2.DT_INT32: _INT,
    types_pb2.DT_UINT8: _INT,
    types_pb2.DT_INT16: _INT,
    types_pb2.DT_INT8: _INT,
    types_pb2.DT_UINT16: _INT,
    types_pb2.DT_QINT8: _INT,
    types_pb2.DT_QUINT8: _INT,
    types_pb2.DT_QINT16: _INT,
    types_pb2.DT_QUINT16: _INT,
    types_pb2.DT_QINT32: _INT,
    types_pb2.DT_INT64: ("int64_val", np.int64),
    types_pb2.DT_BOOL: ("bool_val", np.bool_),
    types_pb2.DT_UINT32: ("uint32_val", np.uint32),
    types_pb2.DT_UINT64: ("uint64_val", np.uint64),
    types_pb2.DT_COMPLEX64: ("scomplex_val", np.float32),
    types_pb2.DT_COMPLEX128: ("dcomplex_val", np.float64),
    types_pb2.DT_HALF: ("half_val", np.uint16),
    types_pb2.DT_BFLOAT16: ("half_val", np.uint16),
    types_pb2.DT_STRING: ("string_val", object),
}
_NUMPY = {number: np.dtype(dtypes.as_dtype(number).as_numpy_dtype) for number in _FIELDS}
_NUMBERS = {dtype: number for number, dtype in reversed(_NUMPY.items())}
_PACKED_FLOATS = {types_pb2.DT_FLOAT: 5, types_pb2.DT_DOUBLE: 6}  # field numbers whose payload is the array's memory
_TENSOR_CONTENT = 4


def decode(alias: str, proto: tensor_pb2.TensorProto) -> Array:
    """The array that a TensorProto describes.

    Typed fields may hold fewer values than the shape asks for: the last one is repeated, none means zeros; more are
    ignored. ``tensor_content`` must have exactly the shape's size.

    Args:
        alias: The input's name, for the message.
        proto: The tensor.

    Returns:
        An array of the proto's shape; strings as ``bytes`` objects.

    Raises:
        ServingError: INVALID_ARGUMENT for what is no tensor.
    """
    number = proto.dtype
    dtype = _NUMPY.get(number)
    if dtype is None:
        raise _parsing_error(alias)
    shape = [dim.size for dim in proto.tensor_shape.dim]
    content = proto.tensor_content
    if content and dtype.hasobject is False:
        if len(shape) > _MAX_RANK or len(content) != math.prod(shape) * dtype.itemsize:
            raise _parsing_error(alias)
        try:
            return np.frombuffer(content, dtype).reshape(shape)
        except ValueError:
            raise _parsing_error(alias) from None
    return _decode_values(alias, proto, number, dtype, shape)


def _decode_values(
    alias: str, proto: tensor_pb2.TensorProto, number: int, dtype: np.dtype[Any], shape: list[int]
) -> Array:
    if len(shape) > _MAX_RANK or any(size < 0 for size in shape):
        raise _parsing_error(alias)
    count = math.prod(shape)
    if count >= 2**40:  # the genuine server fails to allocate it
        raise _parsing_error(alias)
    field, held = _FIELDS[number]
    values: Any = getattr(proto, field)
    if number == types_pb2.DT_STRING:
        if proto.tensor_content:
            raise _parsing_error(alias)
        flat = np.full(count, b"", dtype=object)
        present = np.empty(len(values), dtype=object)
        present[:] = list(values)
    else:
        if number in (types_pb2.DT_HALF, types_pb2.DT_BFLOAT16):
            present = np.array(values, np.uint32).astype(held).view(dtype)
        elif number in (types_pb2.DT_COMPLEX64, types_pb2.DT_COMPLEX128):
            present = np.array(values[: len(values) // 2 * 2], held).view(dtype)
        else:
            present = np.array(values, held).astype(dtype)
        try:
            flat = np.zeros(count, dtype)
        except (MemoryError, ValueError):
            raise _parsing_error(alias) from None
    used = min(len(present), count)
    flat[:used] = present[:used]
    if 0 < used < count:
        flat[used:] = present[used - 1]
    return flat.reshape(shape)


def _parsing_error(alias: str) -> ServingError:
    return invalid_argument(f"tensor parsing error: {alias}")


def varint(value: int) -> bytes:
    """Base-128 encoding of a whole number, negative ones as 64-bit two's complement."""
    value &= 2**64 - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def delimited(field: int, payload: bytes) -> bytes:
    """A length-delimited field: a string, bytes, a message or a packed repeated field."""
    return varint(field << 3 | 2) + varint(len(payload)) + payload


def encode(array: Array, as_content: bool) -> bytes:
    """A serialized TensorProto.

    Args:
        array: What a signature answered; strings as ``bytes`` objects.
        as_content: Whether to use ``tensor_content`` rather than the typed field (never for strings).
    """
    number = _NUMBERS.get(array.dtype, types_pb2.DT_STRING)
    shape = b"".join([delimited(2, b"\x08" + varint(size) if size else b"") for size in array.shape])
    header = b"\x08" + varint(number) + delimited(2, shape)
    if not array.size:
        return header
    if number != types_pb2.DT_STRING and as_content:
        return header + delimited(_TENSOR_CONTENT, array.tobytes())
    if number in _PACKED_FLOATS:
        return header + delimited(_PACKED_FLOATS[number], array.tobytes())
    proto = tensor_pb2.TensorProto()
    field, held = _FIELDS[number]
    values = array.ravel()
    if number == types_pb2.DT_STRING:
        getattr(proto, field).extend(values.tolist())
    else:
        if number in (types_pb2.DT_COMPLEX64, types_pb2.DT_COMPLEX128, types_pb2.DT_HALF, types_pb2.DT_BFLOAT16):
            values = values.view(held)
        getattr(proto, field).extend(values.tolist())
    payload: bytes = proto.SerializeToString()
    return header + payload
