"""Inputs against a model's signature, before anything is sent."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from glyph_client import _codec
from glyph_client._errors import InputError
from glyph_client._types import Array, MetadataResponse, Signature, TensorSpec

DEFAULT_SIGNATURE = "serving_default"


def choose(metadata: MetadataResponse, name: str | None) -> Signature:
    """The signature of that name.

    Raises:
        InputError: the model has none.
    """
    wanted = name or DEFAULT_SIGNATURE
    if wanted not in metadata.signatures:
        known = ", ".join(metadata.signatures) or "none"
        raise InputError(f"model {metadata.spec.name} has no such signature. Received: {wanted!r} (it has: {known}).")
    return metadata.signatures[wanted]


def fit(inputs: Mapping[str, Any], output_filter: Sequence[str], signature: Signature) -> dict[str, Array]:
    """The inputs as arrays that the signature takes.

    Raises:
        InputError: a name, a type or a shape does not fit.
    """
    if inputs.keys() != signature.inputs.keys():
        takes = "; ".join(f"{name}: {spec}" for name, spec in signature.inputs.items())
        raise InputError(
            f"signature {signature.name} takes other inputs. Received: {sorted(inputs)} (it takes {takes})."
        )
    if output_filter and not signature.outputs.keys() >= set(output_filter):
        unknown = [name for name in output_filter if name not in signature.outputs]
        known = ", ".join(signature.outputs)
        raise InputError(f"signature {signature.name} has no such output. Received: {unknown} (it has: {known}).")
    return {name: _fit(name, inputs[name], spec, signature.name) for name, spec in signature.inputs.items()}


def _fit(name: str, value: Any, spec: TensorSpec, signature: str) -> Array:
    array = _codec.as_array(value, spec.dtype)
    dtype = _codec.array_dtype_name(array)
    if dtype == spec.dtype and (spec.shape is None or _matches(array.shape, spec.shape)):
        return array
    remedy = (
        "Reshape it; the first dimension is the batch."
        if dtype == spec.dtype
        else f"Convert it: array.astype({spec.dtype!r})."
    )
    raise InputError(
        f"input {name!r} of signature {signature} must be {spec}. Received: {dtype} {list(array.shape)}. {remedy}"
    )


@lru_cache(maxsize=256)
def _matches(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        size is None or size == got for size, got in zip(wanted, shape, strict=True)
    )
