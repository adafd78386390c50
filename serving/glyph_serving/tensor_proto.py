"""TensorProto and NumPy arrays, by the rules of Tensor::FromProto and Tensor::AsProtoField.

Encoding writes the wire format itself: for the tensors that models answer with it is a header and a copy of the
array's memory, where building the message first costs ten times as much.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.python.framework import dtypes

from glyph_serving.errors import invalid_argument

Array = npt.NDArray[Any]

MAX_RANK = 254
_TOO_MANY = 2**40  # elements, which the genuine server fails to allocate
_LAST_SHIFT = 28  # of a 32-bit varint
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
_AS_IT_IS = frozenset(_FIELDS) - {types_pb2.DT_STRING, types_pb2.DT_BOOL}  # any content of the right size will do
_NUMBERS = {dtype: number for number, dtype in reversed(_NUMPY.items())}
# Types that a request may bring and no signature here takes: arrays of these stand for them, by their one field's name.
_STAND_INS = {
    number: np.dtype([(types_pb2.DataType.Name(number).removeprefix("DT_").lower(), np.uint8)])
    for number in (
        types_pb2.DT_RESOURCE,
        types_pb2.DT_VARIANT,
        types_pb2.DT_FLOAT8_E5M2,
        types_pb2.DT_FLOAT8_E4M3FN,
        types_pb2.DT_FLOAT8_E4M3FNUZ,
        types_pb2.DT_FLOAT8_E4M3B11FNUZ,
        types_pb2.DT_FLOAT8_E5M2FNUZ,
        types_pb2.DT_INT4,
        types_pb2.DT_UINT4,
        types_pb2.DT_INT2,
        types_pb2.DT_UINT2,
    )
}
_PACKED_FLOATS = {types_pb2.DT_FLOAT: 5, types_pb2.DT_DOUBLE: 6}  # field numbers whose payload is the array's memory
_TENSOR_CONTENT = 4
_STRING_VALUE = 8
_SHORT_STRING = 64  # bytes; longer ones are hardly labels
_MOST_STRINGS = 1024  # of one kind that are remembered
_KEY, _VALUE = 1, 2  # field numbers of a map's entry
_SHORT = [bytes((value,)) for value in range(0x80)]  # the numbers that take one byte


def decode(alias: str, proto: tensor_pb2.TensorProto) -> Array:
    """The array that a TensorProto describes.

    Typed fields may hold fewer values than the shape asks for: the last one is repeated, none means zeros; more are
    ignored. ``tensor_content`` must have exactly the shape's size. A tensor without elements is not looked into.

    Args:
        alias: The input's name, for the message.
        proto: The tensor.

    Returns:
        An array of the proto's shape; strings as ``bytes`` objects.

    Raises:
        ServingError: INVALID_ARGUMENT for what is no tensor.
    """
    number = proto.dtype
    shape = [dim.size for dim in proto.tensor_shape.dim]
    content = proto.tensor_content
    dtype = _NUMPY.get(number)
    try:
        if content and dtype is not None and len(content) == math.prod(shape) * dtype.itemsize and number in _AS_IT_IS:
            return np.frombuffer(content, dtype).reshape(shape)
        return _decode_other(proto, number, shape)
    except (MemoryError, ValueError):
        raise invalid_argument(f"tensor parsing error: {alias}") from None


def _decode_other(proto: tensor_pb2.TensorProto, number: int, shape: list[int]) -> Array:
    """As decode, for all but content that is the array's memory.

    Raises:
        ValueError: It is no tensor.
        MemoryError: It is too large.
    """
    count = math.prod(shape)
    dtype = _NUMPY.get(number, _STAND_INS.get(number))
    if dtype is None or len(shape) > MAX_RANK or any(size < 0 for size in shape) or count >= _TOO_MANY:
        raise ValueError
    content = proto.tensor_content
    if not count:
        return np.empty(shape, dtype)
    if content and number == types_pb2.DT_STRING:
        return _strings_in(content, count).reshape(shape)
    if content:
        if len(content) != count * dtype.itemsize or (
            number == types_pb2.DT_BOOL and np.frombuffer(content, np.uint8).max() > 1
        ):
            raise ValueError
        return np.frombuffer(content, dtype).reshape(shape)
    if number in _STAND_INS:
        return np.broadcast_to(np.zeros((), dtype), shape)
    field, held = _FIELDS[number]
    values: Any = getattr(proto, field)
    if number == types_pb2.DT_STRING:
        flat = np.full(count, b"", dtype=object)
        present = np.empty(len(values), dtype=object)
        present[:] = list(values)
    else:
        if number in (types_pb2.DT_HALF, types_pb2.DT_BFLOAT16):
            present = np.array(values, np.int64).astype(held).view(dtype)
        elif number in (types_pb2.DT_COMPLEX64, types_pb2.DT_COMPLEX128):
            present = np.array(values[: len(values) // 2 * 2], held).view(dtype)
        else:
            present = np.array(values, held).astype(dtype)
        flat = np.zeros(count, dtype)
    used = min(len(present), count)
    flat[:used] = present[:used]
    if 0 < used < count:
        flat[used:] = present[used - 1]
    return flat.reshape(shape)


def _strings_in(content: bytes, count: int) -> Array:
    """Strings as EncodeStringList writes them: the length of each as a varint, then all of their bytes.

    Raises:
        ValueError: It is no such list.
    """
    lengths, position = [], 0
    for _ in range(count):
        length = shift = 0
        more = True
        while more:
            if position == len(content) or shift > _LAST_SHIFT:
                raise ValueError
            byte = content[position]
            length |= (byte & 0x7F) << shift
            more, shift, position = byte > 0x7F, shift + 7, position + 1
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise ValueError
    strings = np.empty(count, dtype=object)
    for i, length in enumerate(lengths):
        strings[i] = content[position : position + length]
        position += length
    return strings


def varint(value: int) -> bytes:
    """Base-128 encoding of a whole number, negative ones as 64-bit two's complement."""
    if 0 <= value < 0x80:
        return _SHORT[value]
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
    header = _header(number, array.shape)
    if not array.size:
        return header
    if field := _memory_field(number, as_content):
        return header + delimited(field, array.tobytes())
    return header + _values(number, array)


def encode_entry(map_field: int, alias: str, array: Array, as_content: bool) -> bytes:
    """A serialized entry of a map from names to TensorProtos, tag included.

    Args:
        map_field: The map's field number.
        alias: The name.
        array: The tensor.
        as_content: As for ``encode``.
    """
    dtype, shape = array.dtype, array.shape
    if dtype.hasobject:
        if array.size == 1:
            return _string_entries(map_field, alias, shape)[array.item()]
    elif (prefix := _entry_prefix(map_field, alias, dtype, shape, as_content)) is not None:
        return prefix + array.tobytes()
    entry = delimited(_KEY, alias.encode()) + delimited(_VALUE, encode(array, as_content))
    return delimited(map_field, entry)


def encode_rows(map_field: int, alias: str, array: Array, as_content: bool) -> list[bytes]:
    """What ``encode_entry`` gives for each row by itself, ``array[i : i + 1]``, at a fraction of the cost."""
    rows, shape = len(array), (1, *array.shape[1:])
    if array.dtype.hasobject:
        if array.size == rows:
            entries = _string_entries(map_field, alias, shape)
            return [entries[value] for value in array.ravel().tolist()]
    elif (prefix := _entry_prefix(map_field, alias, array.dtype, shape, as_content)) is not None:
        memory = array.tobytes()
        size = len(memory) // rows
        return [prefix + memory[start : start + size] for start in range(0, len(memory), size)]
    return [encode_entry(map_field, alias, array[row : row + 1], as_content) for row in range(rows)]


@lru_cache(maxsize=1024)
def _entry_prefix(
    map_field: int, alias: str, dtype: np.dtype[Any], shape: tuple[int, ...], as_content: bool
) -> bytes | None:
    """What stands before the tensor's memory in an entry; None if the entry does not end with that memory.

    The answers of a model differ in nothing else.
    """
    number = _NUMBERS.get(dtype, types_pb2.DT_STRING)
    field = _memory_field(number, as_content)
    size = math.prod(shape) * dtype.itemsize
    if not field or not size:
        return None
    head = _header(number, shape) + varint(field << 3 | 2) + varint(size)
    value = varint(_VALUE << 3 | 2) + varint(len(head) + size) + head
    entry = delimited(_KEY, alias.encode()) + value
    return varint(map_field << 3 | 2) + varint(len(entry) + size) + entry


class _Encoded(dict[bytes | str, bytes]):
    """What strings are encoded to, the short ones remembered: there are as many as a model has labels."""

    def __init__(self, encode: Callable[[bytes], bytes]) -> None:
        self._encode = encode

    def __missing__(self, value: bytes | str) -> bytes:
        encoded = self._encode(value if isinstance(value, bytes) else value.encode())
        if len(value) <= _SHORT_STRING:
            if len(self) >= _MOST_STRINGS:
                self.clear()
            self[value] = encoded
        return encoded


_STRING_VALUES = _Encoded(lambda value: delimited(_STRING_VALUE, value))


@lru_cache(maxsize=64)
def _string_entries(map_field: int, alias: str, shape: tuple[int, ...]) -> _Encoded:
    """The entries of tensors of one string, by that string."""

    def encode(value: bytes) -> bytes:
        tensor = _header(types_pb2.DT_STRING, shape) + delimited(_STRING_VALUE, value)
        return delimited(map_field, delimited(_KEY, alias.encode()) + delimited(_VALUE, tensor))

    return _Encoded(encode)


def _memory_field(number: int, as_content: bool) -> int:
    """The field whose payload is the array's memory; 0 where values are encoded one by one."""
    if number == types_pb2.DT_STRING:
        return 0
    return _TENSOR_CONTENT if as_content else _PACKED_FLOATS.get(number, 0)


@lru_cache(maxsize=1024)
def _header(number: int, shape: tuple[int, ...]) -> bytes:
    dims = b"".join([delimited(2, b"\x08" + varint(size) if size else b"") for size in shape])
    return b"\x08" + varint(number) + delimited(2, dims)


def _values(number: int, array: Array) -> bytes:
    """The typed field of a tensor whose values are encoded one by one."""
    values = array.ravel()
    if number == types_pb2.DT_STRING:
        return b"".join([_STRING_VALUES[value] for value in values.tolist()])
    field, held = _FIELDS[number]
    if number in (types_pb2.DT_COMPLEX64, types_pb2.DT_COMPLEX128, types_pb2.DT_HALF, types_pb2.DT_BFLOAT16):
        values = values.view(held)
    proto = tensor_pb2.TensorProto()
    getattr(proto, field).extend(values.tolist())
    payload: bytes = proto.SerializeToString()
    return payload
