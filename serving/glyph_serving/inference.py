"""What TensorFlow Serving's services do, independent of the protocol that carries the request."""

import contextlib
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from google.protobuf import any_pb2
from google.protobuf.message import Message
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    prediction_log_pb2,
)

from glyph_serving import tensor_proto
from glyph_serving.errors import Code, ServingError, UnloadedError, invalid_argument
from glyph_serving.harness import Loaded
from glyph_serving.manager import Manager
from glyph_serving.servable import (
    CLASSIFY_METHOD,
    DEFAULT_SIGNATURE,
    PREDICT_METHOD,
    REGRESS_METHOD,
    Arrays,
    Servable,
    Signature,
)

T = TypeVar("T")

_OUTPUTS, _MODEL_SPEC = 1, 2  # field numbers of PredictResponse
_METHODS = (PREDICT_METHOD, CLASSIFY_METHOD, REGRESS_METHOD)


def find(manager: Manager, spec: model_pb2.ModelSpec) -> Loaded:
    """The servable that a ModelSpec names.

    Raises:
        ServingError: It names none, or one that is not available.
    """
    if not spec.name:
        raise invalid_argument("ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    if choice == "version":
        return manager.get(spec.name, version=spec.version.value)
    return manager.get(spec.name, label=spec.version_label if choice else None)


async def while_served(answer: Callable[[], Awaitable[T]]) -> T:
    """What answers a request: anew if the version that it found was unloaded before it could run.

    Args:
        answer: Finds a version and runs it. One that is being unloaded is no longer found.
    """
    while True:
        with contextlib.suppress(UnloadedError):
            return await answer()


def check_has_spec(request: Message) -> None:
    """Raises INVALID_ARGUMENT for a request that says nothing about the model."""
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


async def predict(manager: Manager, request: predict_pb2.PredictRequest, as_content: bool, deadline: float) -> bytes:
    """Answers a PredictRequest.

    Args:
        manager: Knows the servables.
        request: The request.
        as_content: Whether tensors are answered as ``tensor_content``.
        deadline: The ``time.monotonic()`` after which nobody wants the answer.

    Returns:
        A serialized PredictResponse.

    Raises:
        ServingError: What is wrong with the request, or what the run ended with.
    """
    check_has_spec(request)
    loaded = find(manager, request.model_spec)
    signature, arrays = prepare(loaded.servable, request)
    outputs = await loaded.batchers[signature.name].run(arrays, deadline)
    return response(loaded.servable, signature.name, outputs, as_content, request.output_filter)


def response(
    servable: Servable, signature_name: str, outputs: Arrays, as_content: bool, wanted: Container[str] = ()
) -> bytes:
    """A serialized PredictResponse, with all outputs or those that are wanted."""
    entries = [
        tensor_proto.encode_entry(_OUTPUTS, alias, output, as_content)
        for alias, output in zip(servable.signatures[signature_name].outputs, outputs, strict=True)
        if not wanted or alias in wanted
    ]
    return b"".join(entries) + _model_spec(servable.name, servable.version, signature_name)


def responses(
    servable: Servable, signature_name: str, outputs: Arrays, requests: int, as_content: bool
) -> Sequence[bytes]:
    """As ``response``, for several requests of as many examples each: one after the other costs three times as much."""
    if requests == 1:
        return [response(servable, signature_name, outputs, as_content)]
    aliases = servable.signatures[signature_name].outputs
    if any(len(output) != requests for output in outputs):
        parts = zip(*(np.split(output, requests) for output in outputs), strict=True)
        return [response(servable, signature_name, list(part), as_content) for part in parts]
    columns = [
        tensor_proto.encode_rows(_OUTPUTS, alias, output, as_content)
        for alias, output in zip(aliases, outputs, strict=True)
    ]
    spec = _model_spec(servable.name, servable.version, signature_name)
    return [b"".join(row) + spec for row in zip(*columns, strict=True)]


def prepare(servable: Servable, request: predict_pb2.PredictRequest) -> tuple[Signature, Arrays]:
    """The signature that a PredictRequest asks for and the inputs that it brings.

    Raises:
        ServingError: FAILED_PRECONDITION for an unknown signature, INVALID_ARGUMENT for unsuitable inputs or outputs.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    check_method_name(signature)
    inputs, defaults = request.inputs, signature.definition.defaults
    if len(inputs) > len(signature.inputs) or (len(inputs) < len(signature.inputs) and not defaults):
        raise _size_mismatch(inputs, signature)
    arrays = []
    for alias in signature.inputs:
        source = inputs if alias in inputs else defaults
        if alias not in source:
            raise _missing_alias(alias, inputs, signature)
        arrays.append(tensor_proto.decode(alias, source[alias]))
    if unknown := set(inputs) - set(signature.inputs):
        used = ",".join(sorted(set(inputs) - unknown))
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {used}, request input: {','.join(sorted(inputs))}"
        )
    if request.output_filter:
        check_filter(request.output_filter, signature)
    return signature, arrays


def prediction_log(
    spec: model_pb2.ModelSpec, signature: Signature, inputs: Arrays, outputs: Arrays
) -> prediction_log_pb2.PredictionLog:
    """What a request log tells of a prediction that did not come as a PredictRequest."""
    log = prediction_log_pb2.PredictionLog()
    log.log_metadata.model_spec.CopyFrom(spec)
    request, response = log.predict_log.request, log.predict_log.response
    request.model_spec.CopyFrom(spec)
    response.model_spec.CopyFrom(spec)
    for tensors, aliases, arrays in (
        (request.inputs, signature.inputs, inputs),
        (response.outputs, signature.outputs, outputs),
    ):
        for alias, array in zip(aliases, arrays, strict=True):
            tensors[alias].ParseFromString(tensor_proto.encode(array, True))
    return log


def check_method_name(signature: Signature) -> None:
    """Raises INTERNAL, if method names are to be checked, for a signature that has none that Predict takes."""
    if signature.check_method_name and signature.definition.method_name not in _METHODS:
        raise ServingError(
            Code.INTERNAL,
            f"Expected prediction signature method_name to be one of {{{', '.join(_METHODS)}}}. Was: "
            f"{signature.definition.method_name}",
        )


def check_filter(wanted: Iterable[str], signature: Signature) -> None:
    """Raises INVALID_ARGUMENT for an output filter that names what is not there, or something twice."""
    seen = set()
    for alias in wanted:
        if alias not in signature.outputs:
            known = ",".join(signature.outputs)
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set {{{known}}}."
            )
        if alias in seen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.add(alias)


def status(manager: Manager, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
    """The states of a model's versions; a label in the request is ignored, as by the genuine server.

    Raises:
        ServingError: NOT_FOUND if there is nothing to tell.
    """
    version = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
    response = get_model_status_pb2.GetModelStatusResponse()
    for found in manager.status(spec.name, version):
        entry = response.model_version_status.add(version=found.version, state=int(found.state))
        entry.status.error_code = int(found.error.code) if found.error else 0
        entry.status.error_message = found.error.message if found.error else ""
    return response


def metadata(
    manager: Manager, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures of a servable.

    Raises:
        ServingError: The request names no model, no metadata or something other than ``signature_def``.
    """
    check_has_spec(request)
    if not request.metadata_field:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            raise invalid_argument(f"Metadata field {field} is not supported")
    servable = find(manager, request.model_spec).servable
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    packed = any_pb2.Any()
    packed.Pack(signature_def_map(servable.signature_defs))
    response.metadata["signature_def"].CopyFrom(packed)
    return response


def signature_def_map(
    definitions: Mapping[str, meta_graph_pb2.SignatureDef],
) -> get_model_metadata_pb2.SignatureDefMap:
    """SignatureDefs as the metadata that describes them."""
    message = get_model_metadata_pb2.SignatureDefMap()
    for key, definition in definitions.items():
        message.signature_def[key].CopyFrom(definition)
    return message


@lru_cache(maxsize=1024)
def _model_spec(name: str, version: int, signature_name: str) -> bytes:
    """The ``model_spec`` of a PredictResponse, serialized with its tag."""
    spec = model_pb2.ModelSpec(name=name, signature_name=signature_name)
    spec.version.value = version
    return tensor_proto.delimited(_MODEL_SPEC, spec.SerializeToString())


def _size_mismatch(inputs: Iterable[str], signature: Signature) -> ServingError:
    sent, required = set(inputs), set(signature.inputs)
    return invalid_argument(
        f"input size does not match signature: {len(sent)}!={len(required)} len({_set(sent)}) != "
        f"len({_set(required)}). Sent extra: {_set(sent - required)}. Missing but required: {_set(required - sent)}."
    )


def _missing_alias(alias: str, inputs: Iterable[str], signature: Signature) -> ServingError:
    return invalid_argument(
        f"Signature input alias: {alias}(feed name: {signature.inputs[alias].tensor}) not found in request and no "
        f"default value provided. Inputs expected to be in the request {_set(inputs)}, or default input alias set: "
        f"{','.join(sorted(signature.definition.defaults))}"
    )


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
