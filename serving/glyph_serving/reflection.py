"""gRPC server reflection: tells clients such as grpcurl what there is to call."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from google.protobuf import descriptor, descriptor_pb2, descriptor_pool
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from glyph_serving.errors import Code
from glyph_serving.schema import message_classes

# Importing these modules is what puts the messages into the pool.
_DESCRIBED = (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_MESSAGES = message_classes(
    "grpc.reflection",
    {
        "Request": [
            ("host", 1, "string"),
            ("file_by_filename", 3, "string"),
            ("file_containing_symbol", 4, "string"),
            ("list_services", 7, "string"),
        ],
        "FileDescriptorResponse": [("file_descriptor_proto", 1, "repeated bytes")],
        "ServiceResponse": [("name", 1, "string")],
        "ListServiceResponse": [("service", 1, "repeated ServiceResponse")],
        "ErrorResponse": [("error_code", 1, "int32"), ("error_message", 2, "string")],
        "Response": [
            ("valid_host", 1, "string"),
            ("original_request", 2, "Request"),
            ("file_descriptor_response", 4, "FileDescriptorResponse"),
            ("list_services_response", 6, "ListServiceResponse"),
            ("error_response", 7, "ErrorResponse"),
        ],
    },
)
PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"


# The two services' files; their generated modules in tensorflow-serving-api cannot be imported with this protobuf.
_SERVICES: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "PredictionService": (
        "prediction_service",
        {
            "Classify": ("ClassificationRequest", "ClassificationResponse"),
            "Regress": ("RegressionRequest", "RegressionResponse"),
            "Predict": ("PredictRequest", "PredictResponse"),
            "MultiInference": ("MultiInferenceRequest", "MultiInferenceResponse"),
            "GetModelMetadata": ("GetModelMetadataRequest", "GetModelMetadataResponse"),
        },
    ),
    "ModelService": (
        "model_service",
        {
            "GetModelStatus": ("GetModelStatusRequest", "GetModelStatusResponse"),
            "HandleReloadConfigRequest": ("ReloadConfigRequest", "ReloadConfigResponse"),
        },
    ),
}


def _add_services(pool: descriptor_pool.DescriptorPool) -> None:
    """Puts the services' files into a pool that has their messages."""
    package = "tensorflow.serving"
    for service_name, (file_name, methods) in _SERVICES.items():
        file = descriptor_pb2.FileDescriptorProto(
            name=f"tensorflow_serving/apis/{file_name}.proto", package=package, syntax="proto3"
        )
        service = file.service.add(name=service_name)
        imported = set()
        for method, (request, response) in methods.items():
            service.method.add(name=method, input_type=f".{package}.{request}", output_type=f".{package}.{response}")
            imported |= {pool.FindMessageTypeByName(f"{package}.{name}").file.name for name in (request, response)}
        file.dependency.extend(sorted(imported))
        pool.AddSerializedFile(file.SerializeToString())


class Reflection:
    """Answers grpc.reflection.*.ServerReflection/ServerReflectionInfo.

    Args:
        services: The full names of all services, reflection included.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = services
        self._pool = descriptor_pool.Default()
        _add_services(self._pool)

    async def info(
        self, requests: AsyncIterator[bytes], _wait_until_gone: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[bytes]:
        """Answers every request of the stream."""
        async for payload in requests:
            request: Any = _MESSAGES["Request"].FromString(payload)
            response: Any = _MESSAGES["Response"](valid_host=request.host, original_request=request)
            self._answer(request, response)
            serialized: bytes = response.SerializeToString()
            yield serialized

    def _answer(self, request: Any, response: Any) -> None:
        if request.HasField("list_services"):
            for name in self._services:
                response.list_services_response.service.add(name=name)
            return
        try:
            if request.HasField("file_by_filename"):
                file = self._pool.FindFileByName(request.file_by_filename)
            elif request.HasField("file_containing_symbol"):
                file = self._pool.FindFileContainingSymbol(request.file_containing_symbol)
            else:
                _fail(response, Code.UNIMPLEMENTED, "extensions are not known here")
                return
        except KeyError as error:
            _fail(response, Code.NOT_FOUND, f"not found: {error}")
            return
        response.file_descriptor_response.file_descriptor_proto.extend(_with_dependencies(file))


def _fail(response: Any, code: Code, message: str) -> None:
    response.error_response.error_code = int(code)
    response.error_response.error_message = message


def _with_dependencies(file: descriptor.FileDescriptor) -> list[bytes]:
    """A file and all that it imports, serialized, each once."""
    seen: dict[str, bytes] = {}
    pending = [file]
    while pending:
        one = pending.pop()
        if one.name not in seen:
            proto = descriptor_pb2.FileDescriptorProto()
            one.CopyToProto(proto)
            seen[one.name] = proto.SerializeToString()
            pending.extend(one.dependencies)
    return list(seen.values())
