"""The gRPC services: which method takes and gives which message, and what is counted and logged of it."""

from collections.abc import Awaitable, Callable
from typing import Any

from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    regression_pb2,
)

from glyph_serving import classify, inference
from glyph_serving.fleet import Fleet
from glyph_serving.grpc_app import Handler, StreamHandler, awaited
from glyph_serving.health import CHECK, Health
from glyph_serving.inference import while_served
from glyph_serving.manager import Manager
from glyph_serving.metrics import Metrics
from glyph_serving.predictions import Predictions
from glyph_serving.reflection import MODEL_SERVICE, PREDICTION_SERVICE, Reflection
from glyph_serving.reflection import SERVICES as REFLECTION_SERVICES
from glyph_serving.request_log import RequestLogs

HEALTH_SERVICE = "grpc.health.v1.Health"


class Services:
    """PredictionService and ModelService.

    Args:
        manager: Knows the servables.
        fleet: Knows the other workers.
        metrics: Counts requests.
        logs: Where requests are logged.
        as_content: Whether tensors are answered as ``tensor_content``.

    Attributes:
        predictions: Answers Predict.
    """

    def __init__(self, manager: Manager, fleet: Fleet, metrics: Metrics, logs: RequestLogs, as_content: bool) -> None:
        self._manager = manager
        self._fleet = fleet
        self._metrics = metrics
        self._logs = logs
        self.predictions = Predictions(manager, metrics, logs, as_content)

    def handlers(self) -> dict[str, Handler]:
        """What answers each method, by its path."""
        unary = _unary
        return {
            f"/{PREDICTION_SERVICE}/Predict": self.predictions.take,
            f"/{PREDICTION_SERVICE}/Classify": unary(classification_pb2.ClassificationRequest, self._classify),
            f"/{PREDICTION_SERVICE}/Regress": unary(regression_pb2.RegressionRequest, self._regress),
            f"/{PREDICTION_SERVICE}/MultiInference": unary(inference_pb2.MultiInferenceRequest, self._multi_inference),
            f"/{PREDICTION_SERVICE}/GetModelMetadata": unary(
                get_model_metadata_pb2.GetModelMetadataRequest, self._metadata
            ),
            f"/{MODEL_SERVICE}/GetModelStatus": unary(get_model_status_pb2.GetModelStatusRequest, self._status),
            f"/{MODEL_SERVICE}/HandleReloadConfigRequest": unary(
                model_management_pb2.ReloadConfigRequest, self._reload
            ),
        }

    async def _classify(self, request: classification_pb2.ClassificationRequest, deadline: float) -> Any:
        name = request.model_spec.name
        with self._metrics.request(name, "Classify", "GRPC"):
            response = await while_served(lambda: classify.classify(self._manager, request, deadline))
        self._metrics.count_examples(name, len(response.result.classifications))
        self._logs.record(name, "classify_log", request, response)
        return response

    async def _regress(self, request: regression_pb2.RegressionRequest, deadline: float) -> Any:
        name = request.model_spec.name
        with self._metrics.request(name, "Regress", "GRPC"):
            response = await while_served(lambda: classify.regress(self._manager, request, deadline))
        self._metrics.count_examples(name, len(response.result.regressions))
        self._logs.record(name, "regress_log", request, response)
        return response

    async def _multi_inference(self, request: inference_pb2.MultiInferenceRequest, deadline: float) -> Any:
        name = request.tasks[0].model_spec.name if request.tasks else ""
        with self._metrics.request(name, "MultiInference", "GRPC"):
            response = await while_served(lambda: classify.multi_inference(self._manager, request, deadline))
        first = response.results[0]
        examples = first.classification_result.classifications or first.regression_result.regressions
        self._metrics.count_examples(name, len(examples))
        self._logs.record(name, "multi_inference_log", request, response)
        return response

    async def _metadata(self, request: get_model_metadata_pb2.GetModelMetadataRequest, _deadline: float) -> Any:
        return inference.metadata(self._manager, request)

    async def _status(self, request: get_model_status_pb2.GetModelStatusRequest, _deadline: float) -> Any:
        inference.check_has_spec(request)
        return await self._fleet.status(request.model_spec)

    async def _reload(self, request: model_management_pb2.ReloadConfigRequest, _deadline: float) -> Any:
        return await self._fleet.reload(request)


def _unary(request_type: Any, answer: Callable[[Any, float], Awaitable[Any]]) -> Handler:
    async def handle(payload: bytes, deadline: float) -> bytes:
        response: bytes = (await answer(request_type.FromString(payload), deadline)).SerializeToString()
        return response

    return awaited(handle)


def health_handlers(health: Health) -> tuple[dict[str, Handler], dict[str, StreamHandler]]:
    """What answers grpc.health.v1.Health, calls and streams."""
    return {CHECK: awaited(health.check)}, {f"/{HEALTH_SERVICE}/Watch": health.watch}


def reflection_handlers(services: list[str]) -> dict[str, StreamHandler]:
    """What answers server reflection about these services and itself."""
    reflection = Reflection([*services, *REFLECTION_SERVICES])
    return {f"/{name}/ServerReflectionInfo": reflection.info for name in REFLECTION_SERVICES}
