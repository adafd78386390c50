"""Requests to REST's JSON and back: no input, no output, the same for both clients."""

import base64
import json
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import quote

import numpy as np

from glyph_client import _codec, _wire
from glyph_client._errors import CODES, CallError, Code, InputError, call_error
from glyph_client._retry import seconds_to_wait
from glyph_client._types import (
    Array,
    Class,
    ClassifyRequest,
    ClassifyResponse,
    Example,
    MetadataRequest,
    MetadataResponse,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    RegressRequest,
    RegressResponse,
    Request,
    Response,
    Signature,
    State,
    StatusRequest,
    StatusResponse,
    TensorSpec,
    VersionStatus,
)
from glyph_client.protos import serving_pb2 as pb

_CODES: Final[dict[int, Code]] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
# What reading an answer may raise: JSON may be nested too deeply, and its numbers too large.
_UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
_NON_FINITE: Final = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}


def encode(request: Request) -> tuple[str, str, bytes | None]:
    """The method, the path and the body of a request.

    Raises:
        InputError: a value cannot be sent.
        CallError: UNIMPLEMENTED, REST has no such call.
    """
    match request:
        case PredictRequest():
            inputs = {name: _tensor(name, array) for name, array in request.inputs.items()}
            return "POST", _path(request.spec) + ":predict", _body(request.spec, inputs=inputs)
        case ClassifyRequest() | RegressRequest():
            verb = "classify" if isinstance(request, ClassifyRequest) else "regress"
            fields: dict[str, Any] = {"examples": [_example(example) for example in request.examples]}
            if request.context is not None:
                fields["context"] = _example(request.context)
            return "POST", f"{_path(request.spec)}:{verb}", _body(request.spec, **fields)
        case StatusRequest():
            return "GET", _path(request.spec), None
        case MetadataRequest():
            return "GET", _path(request.spec) + "/metadata", None
    raise call_error("UNIMPLEMENTED", "REST has no call to change the server's configuration")


def decode(request: Request, status: int, body: bytes, headers: Mapping[str, str] = {}) -> Response:
    """The response to a request.

    Raises:
        CallError: the server answered with an error, or its answer is not understood.
    """
    if status != 200:
        raise _error(status, body, headers)
    try:
        return _decode(request, json.loads(body))
    except _UNREADABLE as error:  # InputError is a ValueError.
        reason = f"{type(error).__name__}: {error}"  # Its repr may hold the whole answer.
        raise call_error("INTERNAL", f"the server's answer is not understood: {reason}") from error


def _path(spec: ModelSpec) -> str:
    path = f"/v1/models/{quote(spec.name, safe='')}"
    if spec.version is not None:
        return f"{path}/versions/{spec.version}"
    return f"{path}/labels/{quote(spec.label, safe='')}" if spec.label is not None else path


def _body(spec: ModelSpec, **fields: Any) -> bytes:
    signature = {"signature_name": spec.signature} if spec.signature else {}
    return json.dumps({**signature, **fields}, separators=(",", ":")).encode()


def _tensor(name: str, array: Array) -> Any:
    if array.dtype.kind in "OSU":
        return _nested([_string(item) for item in _codec.encode(array).string_val], array.shape)
    if array.dtype.kind == "c":
        raise InputError(f"JSON has no complex numbers. Received: input {name!r} of {array.dtype}. Use gRPC.")
    # float16 and bfloat16 become floats that JSON can spell.
    return (array if array.dtype.kind in "biuf" else array.astype(np.float32)).tolist()


def _nested(flat: list[Any], shape: tuple[int, ...]) -> Any:
    values = np.empty(len(flat), object)
    values[:] = flat
    return values.reshape(shape).tolist()


def _string(item: bytes) -> str | dict[str, str]:
    try:
        return item.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(item).decode()}


def _example(example: Example) -> dict[str, Any]:
    return {name: _feature(name, value) for name, value in example.items()}


def _feature(name: str, value: Any) -> Any:
    values = [_string(item) if isinstance(item, bytes) else item for item in _wire.feature_values(name, value)]
    return values if isinstance(value, list | tuple | np.ndarray) else values[0]


def _error(status: int, body: bytes, headers: Mapping[str, str]) -> CallError:
    try:
        message = str(json.loads(body)["error"])
    except _UNREADABLE:
        elsewhere = f"to {headers['location']} " if "location" in headers else ""  # which is not followed
        message = f"HTTP status {status} {elsewhere}{body[:200].decode(errors='replace')}".strip()
    retry_after = seconds_to_wait(headers.get("retry-after", ""))
    return call_error(_CODES.get(status, "UNKNOWN"), message, retry_after=retry_after)


def _decode(request: Request, answer: dict[str, Any]) -> Response:
    match request:
        case PredictRequest():
            return PredictResponse(_outputs(request, answer["outputs"]), ModelSpec(request.spec.name))
        case ClassifyRequest():
            results = [[Class(str(label), _number(score)) for label, score in each] for each in answer["results"]]
            return ClassifyResponse(results, ModelSpec(request.spec.name))
        case RegressRequest():
            values = np.array([_number(each) for each in answer["results"]], np.float32)
            return RegressResponse(values, ModelSpec(request.spec.name))
        case StatusRequest():
            return StatusResponse([_version(each) for each in answer["model_version_status"]])
    spec = answer["model_spec"]
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    named = {name: _signature(name, each) for name, each in sorted(signatures.items()) if not name.startswith("__")}
    return MetadataResponse(named, ModelSpec(spec["name"], int(spec["version"]) if spec.get("version") else None))


def _number(value: Any) -> float:
    return float(_NON_FINITE.get(value, value)) if isinstance(value, str) else float(value)


def _outputs(request: PredictRequest, outputs: Any) -> dict[str, Array]:
    # JSON tells neither the types nor, for a single output, the name: the signature does.
    specs = request.signature.outputs if request.signature else {}
    if len(specs) == 1:
        outputs = {next(iter(specs)): outputs}
    # REST knows no filter: the whole answer has come.
    wanted = request.output_filter or list(outputs)
    return {name: _array(outputs[name], specs.get(name)) for name in wanted}


def _array(values: Any, spec: TensorSpec | None) -> Array:
    if spec is not None and spec.dtype == "string":
        shape, flat = _strings(values)
        array = np.empty(len(flat), object)
        array[:] = flat
        return array.reshape(shape)
    dtype = None if spec is None else np.dtype("float32" if spec.dtype == "bfloat16" else spec.dtype.removeprefix("q"))
    return _codec.as_array(values) if dtype is None else np.array(values, dtype)


def _strings(values: Any) -> tuple[tuple[int, ...], list[bytes]]:
    if isinstance(values, dict):
        return (), [base64.b64decode(values["b64"])]
    if isinstance(values, str):
        return (), [values.encode()]
    inner = [_strings(value) for value in values]
    shape = inner[0][0] if inner else ()
    return (len(inner), *shape), [item for _, items in inner for item in items]


def _version(message: Mapping[str, Any]) -> VersionStatus:
    status = message.get("status", {})
    state = message["state"] if message["state"] in pb.ModelVersionStatus.State.keys() else "UNKNOWN"  # noqa: SIM118
    code = status.get("error_code", "OK")
    known = code if code == "OK" or code in CODES else "UNKNOWN"
    return VersionStatus(
        int(message["version"]), cast("State", state), cast("Code", known), status.get("error_message", "")
    )


def _signature(name: str, message: Mapping[str, Any]) -> Signature:
    inputs = {key: _tensor_spec(tensor) for key, tensor in sorted(message.get("inputs", {}).items())}
    outputs = {key: _tensor_spec(tensor) for key, tensor in sorted(message.get("outputs", {}).items())}
    return Signature(name, message.get("method_name", ""), inputs, outputs)


def _tensor_spec(message: Mapping[str, Any]) -> TensorSpec:
    shape = message.get("tensor_shape", {})
    sizes = [int(dim["size"]) for dim in shape.get("dim", [])]
    number = pb.DataType.Value(message["dtype"])
    known = None if shape.get("unknown_rank") else tuple(None if size < 0 else size for size in sizes)
    return TensorSpec(message.get("name", ""), _codec.dtype_name(number), known)
