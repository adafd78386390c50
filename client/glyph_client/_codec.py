"""NumPy arrays to TensorProto and back, every TensorFlow type that NumPy can hold."""

import math
from functools import lru_cache
from typing import Any, Final

import numpy as np

from glyph_client._errors import InputError
from glyph_client._types import Array, utf8
from glyph_client.protos import serving_pb2 as pb

# TensorFlow's name, its number, NumPy's type (in the wire's little-endian order) and the typed field.
# NumPy has no bfloat16: it is read as float32, which holds every bfloat16, and written from ml_dtypes' arrays.
_TYPES: Final = [
    ("float32", pb.DT_FLOAT, "<f4", "float_val"),
    ("float64", pb.DT_DOUBLE, "<f8", "double_val"),
    ("int32", pb.DT_INT32, "<i4", "int_val"),
    ("uint8", pb.DT_UINT8, "u1", "int_val"),
    ("int16", pb.DT_INT16, "<i2", "int_val"),
    ("int8", pb.DT_INT8, "i1", "int_val"),
    ("complex64", pb.DT_COMPLEX64, "<c8", "scomplex_val"),
    ("int64", pb.DT_INT64, "<i8", "int64_val"),
    ("bool", pb.DT_BOOL, "?", "bool_val"),
    ("uint16", pb.DT_UINT16, "<u2", "int_val"),
    ("complex128", pb.DT_COMPLEX128, "<c16", "dcomplex_val"),
    ("float16", pb.DT_HALF, "<f2", "half_val"),
    ("uint32", pb.DT_UINT32, "<u4", "uint32_val"),
    ("uint64", pb.DT_UINT64, "<u8", "uint64_val"),
    ("bfloat16", pb.DT_BFLOAT16, "<u2", "half_val"),
    ("qint8", pb.DT_QINT8, "i1", "int_val"),
    ("quint8", pb.DT_QUINT8, "u1", "int_val"),
    ("qint32", pb.DT_QINT32, "<i4", "int_val"),
    ("qint16", pb.DT_QINT16, "<i2", "int_val"),
    ("quint16", pb.DT_QUINT16, "<u2", "int_val"),
]
_BY_NUMBER: Final[dict[int, tuple[str, np.dtype[Any], str]]] = {
    number: (name, np.dtype(dtype), field) for name, number, dtype, field in _TYPES
}
_BY_NAME: Final = {name: number for name, number, *_ in _TYPES}
# What NumPy has itself and the wire takes as it lies in memory: to look a type up is quicker than to spell its name.
_PLAIN: Final = {np.dtype(dtype): (name, number) for name, number, dtype, _ in _TYPES if np.dtype(dtype).name == name}
_OBJECT: Final = np.dtype(object)
_RAW_BITS: Final = {pb.DT_HALF, pb.DT_BFLOAT16}
# Whose typed field, when packed, is the array's memory.
_MEMORY: Final = {pb.DT_FLOAT, pb.DT_DOUBLE, pb.DT_COMPLEX64, pb.DT_COMPLEX128}
# NumPy's kinds of numbers (bool, integers, floats, complex numbers): each can be told in those of its rank and above.
_RANK: Final = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}


def dtype_name(number: int) -> str:
    """TensorFlow's name of a data type, such as "float32"; "type N" for one this package does not know."""
    if number == pb.DT_STRING:
        return "string"
    return _BY_NUMBER[number][0] if number in _BY_NUMBER else f"type {number}"


def array_dtype_name(array: Array) -> str:
    """TensorFlow's name of the data type that an array is sent as."""
    if array.dtype in _PLAIN:
        return _PLAIN[array.dtype][0]
    return "string" if array.dtype.kind in "OSU" else array.dtype.name


def plain_number(array: Array) -> pb.DataType | None:
    """The number of the array's data type if the wire takes its bytes as they lie in memory, else None."""
    plain = _PLAIN.get(array.dtype)
    return plain[1] if plain else None


def as_array(value: Any, dtype: str | None = None) -> Array:
    """An array of anything array-like.

    Args:
        value: arrays keep their type. Numbers in lists take the type asked for, if they are of its kind or of a
            narrower one (a bool may become an integer and an integer a float, but no float an integer, even if it is
            a whole number); else float32 or, where they fit, int32, as in TensorFlow.
        dtype: TensorFlow's name of the type that numbers in lists become.

    Raises:
        InputError: nothing that makes an array, or an integer that the type cannot hold.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, np.generic):
        return np.asarray(value)
    try:
        if dtype == "string":
            return np.asarray(value, _OBJECT)
        array = np.asarray(value)
        if array.dtype.kind == "S":
            return np.asarray(value, _OBJECT)  # NumPy's own strings of bytes lose the zeros at their end.
    except (ValueError, TypeError) as error:
        raise InputError(f"an input must be an array or nested lists of one shape ({error}).") from error
    if dtype in _BY_NAME and array.dtype.kind in _RANK:
        number = _BY_NAME[dtype]
        wanted = np.dtype(np.float32) if number == pb.DT_BFLOAT16 else _BY_NUMBER[number][1]
        if not array.size or _RANK[array.dtype.kind] <= _RANK[wanted.kind]:
            return _as_held(array, wanted)
    if dtype in _BY_NAME and array.dtype == _OBJECT:
        raise InputError(f"an input of {dtype} is made of numbers that fit into it. Received: {value!r:.100}.")
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.dtype == np.int64 and array.size and array.min() >= -(2**31) and array.max() < 2**31:
        return array.astype(np.int32)
    return array


def _as_held(array: Array, dtype: np.dtype[Any]) -> Array:
    if array.size and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        for extreme in (int(array.min()), int(array.max())):
            if not limits.min <= extreme <= limits.max:
                raise InputError(f"{dtype} holds {limits.min} to {limits.max}. Received: {extreme}.")
    return array.astype(dtype)


def encode(array: Array) -> pb.TensorProto:
    """An array as a TensorProto.

    Args:
        array: of any shape. Strings are bytes or str, in arrays of type S, U or object.

    Raises:
        InputError: TensorFlow has no such type, or an object is no string that can be sent.
    """
    dtype = array.dtype
    if dtype.kind in "OSU":
        return _fill(pb.TensorProto(dtype=pb.DT_STRING, string_val=[_as_bytes(item) for item in array.flat]), array)
    number = _BY_NAME.get(dtype.name)
    if number is None:
        raise InputError(
            f"an array of type {dtype} cannot be sent. Received: shape {list(array.shape)}. "
            f"Convert it to one of: string, {', '.join(_BY_NAME)}."
        )
    little = array if dtype.byteorder != ">" else array.astype(dtype.newbyteorder("<"))
    return _fill(pb.TensorProto(dtype=number, tensor_content=little.tobytes()), array)


def _fill(tensor: pb.TensorProto, array: Array) -> pb.TensorProto:
    dim = tensor.tensor_shape.dim
    for size in array.shape:
        dim.add().size = size
    return tensor


def _as_bytes(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return utf8(item)
    raise InputError(f"an array of objects must hold bytes or str only. Received: {item!r:.100}")


def decode(tensor: pb.TensorProto) -> Array:
    """A TensorProto as an array, from its content or from its typed field.

    As in TensorFlow, a typed field with too few values repeats its last one, and an empty one means zeros.

    Returns:
        The array, read-only; strings as objects of type bytes, bfloat16 widened to float32.

    Raises:
        ValueError: the tensor contradicts itself, or NumPy has no such type.
    """
    number, shape = tensor.dtype, _shape(tensor.tensor_shape.SerializeToString())
    count = math.prod(shape)
    if number == pb.DT_STRING:
        strings = np.array(_repeat_last(list(tensor.string_val), count), _OBJECT)
        return strings if len(shape) == 1 else strings.reshape(shape)
    if number not in _BY_NUMBER:
        raise ValueError(f"NumPy has no array for a tensor of {dtype_name(number)}")
    name, dtype, field = _BY_NUMBER[number]
    content = tensor.tensor_content
    if not content and number in _MEMORY:
        content = getattr(pb.PackedTensorProto.FromString(tensor.SerializeToString()), field)
        if len(content) < count * dtype.itemsize:
            content = _filled(np.frombuffer(content, dtype), count)
    elif not content:
        values = getattr(tensor, field)
        flat = np.array(values, np.uint16).view(dtype) if number in _RAW_BITS else np.array(values, dtype)
        content = _filled(flat, count)
    if len(content) != count * dtype.itemsize:
        raise ValueError(f"a tensor {name} {list(shape)} cannot hold {len(content) / dtype.itemsize:g} values")
    array: Array = np.ndarray(shape, dtype, content)
    return array if number != pb.DT_BFLOAT16 else (array.astype(np.uint32) << 16).view(np.float32)


@lru_cache(maxsize=256)
def _shape(message: bytes) -> tuple[int, ...]:
    shape = tuple(dim.size for dim in pb.TensorShapeProto.FromString(message).dim)
    if any(size < 0 for size in shape):
        raise ValueError(f"a tensor cannot have the shape {list(shape)}")
    return shape


def _filled(flat: Array, count: int) -> bytes:
    """The memory of values of which the last is repeated; of zeros if there are none."""
    if 0 < flat.size < count:
        flat = np.concatenate([flat, np.full(count - flat.size, flat[-1])])
    return (flat if flat.size else np.zeros(count, flat.dtype)).tobytes()


def _repeat_last(values: list[bytes], count: int) -> list[bytes]:
    if len(values) == count:
        return values
    if len(values) > count:
        raise ValueError(f"a tensor of {count} strings cannot hold {len(values)}")
    return values + [values[-1] if values else b""] * (count - len(values))
