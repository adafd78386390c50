"""Requests to gRPC's bytes and back: no input, no output, the same for both clients."""

from collections.abc import Mapping
from functools import lru_cache
from typing import cast

import numpy as np
from google.protobuf.message import DecodeError

from glyph_client import _codec
from glyph_client._errors import CODES, InputError, call_error
from glyph_client._lookalikes import Lookalikes
from glyph_client._types import (
    INT64,
    Array,
    Class,
    ClassifyRequest,
    ClassifyResponse,
    Example,
    FeatureValue,
    MetadataRequest,
    MetadataResponse,
    ModelConfig,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    RegressRequest,
    RegressResponse,
    ReloadRequest,
    ReloadResponse,
    Request,
    Response,
    Signature,
    State,
    StatusRequest,
    StatusResponse,
    TensorSpec,
    VersionStatus,
    utf8,
)
from glyph_client.protos import serving_pb2 as pb

_PREDICTION = "/tensorflow.serving.PredictionService/"
_MODEL = "/tensorflow.serving.ModelService/"
METHODS: Mapping[type[Request], str] = {
    PredictRequest: _PREDICTION + "Predict",
    ClassifyRequest: _PREDICTION + "Classify",
    RegressRequest: _PREDICTION + "Regress",
    MetadataRequest: _PREDICTION + "GetModelMetadata",
    StatusRequest: _MODEL + "GetModelStatus",
    ReloadRequest: _MODEL + "HandleReloadConfigRequest",
}
_LOOKALIKES = Lookalikes()


def encode(request: Request) -> bytes:
    """The message of a request.

    Raises:
        InputError: a value cannot be sent.
    """
    match request:
        case PredictRequest():
            parts = [_head(request.spec, tuple(request.output_filter))]
            for name, array in request.inputs.items():
                parts += _predict_input(name, array)
            return b"".join(parts)
        case ClassifyRequest():
            return pb.ClassificationRequest(model_spec=_spec(request.spec), input=_input(request)).SerializeToString()
        case RegressRequest():
            return pb.RegressionRequest(model_spec=_spec(request.spec), input=_input(request)).SerializeToString()
        case StatusRequest():
            return pb.GetModelStatusRequest(model_spec=_spec(request.spec)).SerializeToString()
        case MetadataRequest():
            spec = _spec(request.spec)
            return pb.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"]).SerializeToString()
    try:
        models = pb.ModelConfigList(config=[_model_config(model) for model in request.models])
    except ValueError as error:
        raise InputError(f"a configuration cannot be sent ({error}). Received: {request.models!r:.300}.") from error
    return pb.ReloadConfigRequest(config=pb.ModelServerConfig(model_config_list=models)).SerializeToString()


def decode(request: Request, message: bytes) -> Response:
    """The response to a request.

    Raises:
        CallError: INTERNAL, the message is not understood; or the error that a reload reports.
    """
    try:
        return _decode(request, message)
    except (DecodeError, ValueError) as error:
        raise call_error("INTERNAL", f"the server's answer is not understood: {error}") from error


def _decode(request: Request, message: bytes) -> Response:
    match request:
        case PredictRequest():
            response = _LOOKALIKES.read(request.spec, message)
            if response is None:
                predict = pb.PredictResponse.FromString(message)
                outputs = {name: _codec.decode(tensor) for name, tensor in predict.outputs.items()}
                response = PredictResponse(outputs, _spec_back(predict.model_spec.SerializeToString()))
                _LOOKALIKES.learn(request.spec, message, response)
            return response
        case ClassifyRequest():
            classify = pb.ClassificationResponse.FromString(message)
            results = [
                [Class(one.label, one.score) for one in each.classes] for each in classify.result.classifications
            ]
            return ClassifyResponse(results, _spec_back(classify.model_spec.SerializeToString()))
        case RegressRequest():
            regress = pb.RegressionResponse.FromString(message)
            values = np.array([each.value for each in regress.result.regressions], np.float32)
            return RegressResponse(values, _spec_back(regress.model_spec.SerializeToString()))
        case StatusRequest():
            return StatusResponse(
                [_version(each) for each in pb.GetModelStatusResponse.FromString(message).model_version_status]
            )
        case MetadataRequest():
            metadata = pb.GetModelMetadataResponse.FromString(message)
            # The type URL names TensorFlow's package, so the Any is opened by hand.
            signatures = pb.SignatureDefMap.FromString(metadata.metadata["signature_def"].value).signature_def
            named = {
                name: _signature(name, each) for name, each in sorted(signatures.items()) if not name.startswith("__")
            }
            return MetadataResponse(named, _spec_back(metadata.model_spec.SerializeToString()))
    status = pb.ReloadConfigResponse.FromString(message).status
    if status.error_code:
        raise call_error("FAILED_PRECONDITION", status.error_message)
    return ReloadResponse()


@lru_cache(maxsize=256)
def _head(spec: ModelSpec, output_filter: tuple[str, ...]) -> bytes:
    """A PredictRequest without its inputs. Messages may be written one after the other: they are read as one."""
    return pb.PredictRequest(model_spec=_spec(spec), output_filter=output_filter).SerializeToString()


def _predict_input(name: str, array: Array) -> tuple[bytes, ...]:
    """A PredictRequest with this input alone, in parts."""
    number = _codec.plain_number(array)
    if number is None or not array.size:
        return (pb.PredictRequest(inputs={name: _codec.encode(array)}).SerializeToString(),)
    return _before_content(name, number, array.shape, array.nbytes), array.tobytes()


@lru_cache(maxsize=256)
def _before_content(name: str, number: pb.DataType, shape: tuple[int, ...], size: int) -> bytes:
    """What stands before a tensor's content, which is the last field: the same for each array of this shape."""
    dims = [pb.TensorShapeProto.Dim(size=length) for length in shape]
    tensor = pb.TensorProto(dtype=number, tensor_shape=pb.TensorShapeProto(dim=dims), tensor_content=bytes(size))
    return pb.PredictRequest(inputs={name: tensor}).SerializeToString()[:-size]


def _spec(spec: ModelSpec) -> pb.ModelSpec:
    message = pb.ModelSpec(name=spec.name, signature_name=spec.signature or "")
    if spec.version is not None:
        message.version.value = spec.version
    elif spec.label is not None:
        message.version_label = spec.label
    return message


@lru_cache(maxsize=256)
def _spec_back(serialised: bytes) -> ModelSpec:
    message = pb.ModelSpec.FromString(serialised)
    version = message.version.value if message.HasField("version") else None
    return ModelSpec(message.name, version, message.version_label or None, message.signature_name or None)


def _input(request: ClassifyRequest | RegressRequest) -> pb.Input:
    examples = [_example(example) for example in request.examples]
    if request.context is None:
        return pb.Input(example_list=pb.ExampleList(examples=examples))
    context = _example(request.context)
    return pb.Input(example_list_with_context=pb.ExampleListWithContext(examples=examples, context=context))


def _example(example: Example) -> pb.Example:
    return pb.Example(features=pb.Features(feature={name: _feature(name, value) for name, value in example.items()}))


def feature_values(name: str, value: FeatureValue) -> list[bytes] | list[float] | list[int]:
    """A feature's values as one list of bytes, floats or integers.

    Raises:
        InputError: they are none of these, or a text or an integer cannot be sent.
    """
    utf8(name)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    items: list[object] = list(value) if isinstance(value, list | tuple) else [value]
    items = [item.item() if isinstance(item, np.generic) else item for item in items]
    if all(isinstance(item, bytes | str) for item in items):
        return [utf8(item) if isinstance(item, str) else item for item in cast("list[bytes | str]", items)]
    if all(isinstance(item, int | float) for item in items):
        for item in items:
            if isinstance(item, int) and not INT64.min <= item <= INT64.max:
                raise InputError(f"the feature {name!r} of an example holds integers of 64 bits. Received: {item}.")
        return cast("list[float] | list[int]", items)
    raise InputError(
        f"the feature {name!r} of an example must be bytes, a string, numbers, or a list of these. "
        f"Received: {value!r:.100}"
    )


def _feature(name: str, value: FeatureValue) -> pb.Feature:
    values = feature_values(name, value)
    if all(isinstance(item, bytes) for item in values):
        return pb.Feature(bytes_list=pb.BytesList(value=cast("list[bytes]", values)))
    if all(isinstance(item, int) for item in values):
        return pb.Feature(int64_list=pb.Int64List(value=cast("list[int]", values)))
    return pb.Feature(float_list=pb.FloatList(value=cast("list[float]", values)))


def _model_config(model: ModelConfig) -> pb.ModelConfig:
    message = pb.ModelConfig(
        name=model.name, base_path=model.base_path, model_platform="tensorflow", version_labels=dict(model.labels)
    )
    policy = message.model_version_policy
    if model.versions == "all":
        policy.all.SetInParent()
    elif isinstance(model.versions, int):
        policy.latest.num_versions = model.versions
    elif model.versions != "latest":
        policy.specific.versions.extend(model.versions)
    return message


def _version(message: pb.ModelVersionStatus) -> VersionStatus:
    state = cast("State", pb.ModelVersionStatus.State.Name(message.state))
    number = message.status.error_code
    code = CODES[number - 1] if 0 < number <= len(CODES) else "UNKNOWN" if number else "OK"
    return VersionStatus(message.version, state, code, message.status.error_message)


def _signature(name: str, message: pb.SignatureDef) -> Signature:
    inputs = {key: _tensor_spec(tensor) for key, tensor in sorted(message.inputs.items())}
    outputs = {key: _tensor_spec(tensor) for key, tensor in sorted(message.outputs.items())}
    return Signature(name, message.method_name, inputs, outputs)


def _tensor_spec(message: pb.TensorInfo) -> TensorSpec:
    shape = message.tensor_shape
    sizes = None if shape.unknown_rank else tuple(None if dim.size < 0 else dim.size for dim in shape.dim)
    return TensorSpec(message.name, _codec.dtype_name(message.dtype), sizes)
