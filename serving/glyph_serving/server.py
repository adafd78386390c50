"""The server: puts the parts together, loads, announces that it is ready, and ends in good order."""

import asyncio
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn, Protocol

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    prediction_log_pb2,
    regression_pb2,
    status_pb2,
)

from glyph_serving import classify, denormals, inference, servable
from glyph_serving import config as configuration
from glyph_serving import flags as command_line
from glyph_serving.batching import Batcher
from glyph_serving.cli import EXIT_FAILURE, warn
from glyph_serving.config import BatchingParameters, ServerConfig
from glyph_serving.envoy import ARGUMENTS_VARIABLE
from glyph_serving.errors import Code, ServingError, invalid_argument
from glyph_serving.grpc_app import GrpcApp, Handler, StreamHandler
from glyph_serving.health import Health
from glyph_serving.manager import Loaded, Manager, RetryPolicy, failure_error
from glyph_serving.metrics import Gauge, Metrics
from glyph_serving.reflection import MODEL_SERVICE, PREDICTION_SERVICE, Reflection
from glyph_serving.reflection import SERVICES as REFLECTION_SERVICES
from glyph_serving.rest_app import RestApp
from glyph_serving.warmup import MAX_RECORDS, WARMUP_FILE, read_records, replay

_FLUSH_SECONDS = 0.1  # for Envoy to write what the last requests were answered
_PREDICTION = "/tensorflow.serving.PredictionService/"
_MODEL = "/tensorflow.serving.ModelService/"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Mapping[str, Any], Receive, Send], Awaitable[None]]


class App(Protocol):
    """An ASGI application that knows how many requests it is answering."""

    in_flight: int

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answers one request."""


class Server:
    """Everything inside one process: the manager, the two applications and what they share.

    Args:
        config: The checked configuration.

    Attributes:
        grpc: The gRPC application.
        rest: The REST application.
    """

    def __init__(self, config: ServerConfig) -> None:
        flags = config.flags
        self._config = config
        self._metrics = Metrics()
        self._engine = ThreadPoolExecutor(
            os.cpu_count(), thread_name_prefix="engine", initializer=denormals.flush_in_this_thread
        )
        self._session_config = session_config(flags)
        self._manager = Manager(
            config.models,
            self._load,
            RetryPolicy(flags.max_num_load_retries, flags.load_retry_interval_micros / 1e6),
            flags.num_load_threads or 1,
            flags.file_system_poll_wait_seconds,
            flags.allow_version_labels_for_unavailable_models,
        )
        self._metrics.add(
            Gauge(":glyph:serving:queue_depth", ["model_name", "version", "signature"], self._queue_depths)
        )
        self._health = Health(lambda: self._manager.ready)
        grpc = GrpcApp(
            self._handlers(),
            self._streams(),
            lambda: "The server is shutting down" if self._health.draining else "",
        )
        rest = RestApp(
            self._manager, self._health, self._metrics, config.metrics_path, flags.rest_api_timeout_in_ms / 1000
        )
        self._apps: list[App] = [grpc, rest]
        self._models_ready = threading.Event()
        self.grpc = _with_lifespan(grpc, self._models_ready)
        self.rest = _with_lifespan(rest, self._models_ready)
        threading.Thread(target=self._start, name="start", daemon=True).start()

    @classmethod
    def from_environment(cls) -> "Server":
        """The server for the command line that ``glyph-serve`` passed on; ends the process if it is wrong."""
        flags, _ = command_line.parse(json.loads(os.environ[ARGUMENTS_VARIABLE]))
        try:
            return cls(configuration.load(flags))
        except ServingError as error:
            _fail(error)

    def drain(self) -> None:
        """Refuses new requests and waits until those in flight are answered, at most the grace period."""
        self._health.draining = True
        self._manager.stop()
        deadline = time.monotonic() + self._config.flags.grace_period_seconds
        while any(app.in_flight for app in self._apps) and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._models_ready.is_set():
            time.sleep(_FLUSH_SECONDS)

    def reload(self) -> None:
        """Reads the model config file again and serves what it says; on an error, what is served stays."""
        path = self._config.flags.model_config_file
        if not path:
            warn("SIGHUP: nothing to read again without --model_config_file")
            return
        try:
            self._manager.reload(configuration.read_models(path))
        except ServingError as error:
            warn(f"{path} is not in effect: {error}")

    def _start(self) -> None:
        """Opens the ports once the models are available, and says so; ends the process if they cannot be."""
        if failures := self._manager.wait_until_settled():
            _fail(failure_error(failures))
        self._models_ready.set()
        flags = self._config.flags
        addresses = []
        for protocol, port in (("gRPC", flags.port), ("REST", flags.rest_api_port)):
            if port:
                _wait_for_port(flags.address, port)
                addresses.append(f"{protocol} {flags.address}:{port}")
        models = ", ".join(
            f"{name} version {', '.join(map(str, versions))}" for name, versions in self._manager.available().items()
        )
        print(f"glyph-serve: ready: {', '.join([models, *addresses])}", flush=True)

    def _queue_depths(self) -> Iterator[tuple[tuple[str, ...], float]]:
        for loaded in self._manager.loaded():
            for signature, batcher in loaded.batchers.items():
                yield (loaded.servable.name, str(loaded.servable.version), signature), batcher.queue_depth

    def _load(self, name: str, version: int, path: Path) -> Loaded:
        began = time.perf_counter()
        try:
            flags = self._config.flags
            loaded = servable.load(name, version, path, flags.saved_model_tags.split(","), self._session_config)
            if flags.enable_model_warmup:
                self._warm_up(loaded)
        except BaseException:
            self._metrics.load_attempts.add(str(path), "fail")
            raise
        self._metrics.load_attempts.add(str(path), "success")
        self._metrics.load_latency.add(str(path), amount=int((time.perf_counter() - began) * 1e6))
        batching = self._config.batching
        if batching is not None:
            configuration.check_allowed_sizes(batching)
        observer = _BatchMetrics(self._metrics, batching, name, version)
        batchers = {
            key: Batcher(signature, batching, self._engine, observer) for key, signature in loaded.signatures.items()
        }
        return Loaded(loaded, batchers)

    def _warm_up(self, loaded: servable.Servable) -> None:
        """Replays the recorded requests.

        Raises:
            ServingError: One of them fails, and with it the load.
        """
        path = loaded.path / WARMUP_FILE
        if not path.is_file():
            return
        repeats = self._config.flags.num_request_iterations_for_warmup or 1
        count = 0
        for count, record in enumerate(read_records(path), 1):
            if count > MAX_RECORDS:
                raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")
            try:
                log = prediction_log_pb2.PredictionLog.FromString(record)
            except DecodeError:
                raise ServingError(Code.DATA_LOSS, f"Failed to parse warmup record {count} of {path}") from None
            for _ in range(repeats):
                began = time.perf_counter()
                try:
                    replay(loaded, log)
                except ServingError as error:
                    self._metrics.warmup_latency.observe(0, str(loaded.path), error.code.name)
                    raise ServingError(error.code, f"warm-up request {count} failed: {error.message}") from error
                micros = (time.perf_counter() - began) * 1e6
                self._metrics.warmup_latency.observe(micros, str(loaded.path), "OK")
        self._metrics.warmup_records.add(str(loaded.path), "OK", amount=count)

    def _handlers(self) -> dict[str, Handler]:
        manager, metrics = self._manager, self._metrics
        as_content = self._config.flags.enable_serialization_as_tensor_content

        async def predict(payload: bytes, deadline: float) -> bytes:
            request = predict_pb2.PredictRequest.FromString(payload)
            answer = inference.predict(manager, request, as_content, deadline)
            return await metrics.record(request.model_spec.name, "Predict", "GRPC", answer)

        async def classification(request: classification_pb2.ClassificationRequest, deadline: float) -> Any:
            answer = classify.classify(manager, request, deadline)
            response = await metrics.record(request.model_spec.name, "Classify", "GRPC", answer)
            metrics.count_examples(request.model_spec.name, len(response.result.classifications))
            return response

        async def regression(request: regression_pb2.RegressionRequest, deadline: float) -> Any:
            answer = classify.regress(manager, request, deadline)
            response = await metrics.record(request.model_spec.name, "Regress", "GRPC", answer)
            metrics.count_examples(request.model_spec.name, len(response.result.regressions))
            return response

        async def multi_inference(request: inference_pb2.MultiInferenceRequest, deadline: float) -> Any:
            name = request.tasks[0].model_spec.name if request.tasks else ""
            answer = classify.multi_inference(manager, request, deadline)
            return await metrics.record(name, "MultiInference", "GRPC", answer)

        async def metadata(request: get_model_metadata_pb2.GetModelMetadataRequest, _deadline: float) -> Any:
            return inference.metadata(manager, request)

        async def status(request: get_model_status_pb2.GetModelStatusRequest, _deadline: float) -> Any:
            return inference.status(manager, request.model_spec)

        async def reload(request: model_management_pb2.ReloadConfigRequest, _deadline: float) -> Any:
            if request.config.WhichOneof("config") != "model_config_list":
                raise invalid_argument(
                    "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is "
                    "currently supported"
                )
            await asyncio.to_thread(manager.reload, configuration.models_from_proto(request.config))
            return model_management_pb2.ReloadConfigResponse(status=status_pb2.StatusProto())

        def unary(request_type: Any, answer: Callable[[Any, float], Awaitable[Any]]) -> Handler:
            async def handle(payload: bytes, deadline: float) -> bytes:
                response: bytes = (await answer(request_type.FromString(payload), deadline)).SerializeToString()
                return response

            return handle

        handlers: dict[str, Handler] = {
            f"{_PREDICTION}Predict": predict,
            f"{_PREDICTION}Classify": unary(classification_pb2.ClassificationRequest, classification),
            f"{_PREDICTION}Regress": unary(regression_pb2.RegressionRequest, regression),
            f"{_PREDICTION}MultiInference": unary(inference_pb2.MultiInferenceRequest, multi_inference),
            f"{_PREDICTION}GetModelMetadata": unary(get_model_metadata_pb2.GetModelMetadataRequest, metadata),
            f"{_MODEL}HandleReloadConfigRequest": unary(model_management_pb2.ReloadConfigRequest, reload),
            f"{_MODEL}GetModelStatus": unary(get_model_status_pb2.GetModelStatusRequest, status),
        }
        if self._config.flags.enable_grpc_healthcheck_service:
            handlers["/grpc.health.v1.Health/Check"] = self._health.check
        return handlers

    def _streams(self) -> dict[str, StreamHandler]:
        services = [PREDICTION_SERVICE, MODEL_SERVICE, *REFLECTION_SERVICES]
        streams: dict[str, StreamHandler] = {}
        if self._config.flags.enable_grpc_healthcheck_service:
            services.append("grpc.health.v1.Health")
            streams["/grpc.health.v1.Health/Watch"] = self._health.watch
        reflection = Reflection(services)
        for name in REFLECTION_SERVICES:
            streams[f"/{name}/ServerReflectionInfo"] = reflection.info
        return streams


class _BatchMetrics:
    """Feeds what the batchers see into the metrics."""

    def __init__(self, metrics: Metrics, batching: BatchingParameters | None, name: str, version: int) -> None:
        self._metrics = metrics
        self._batching = batching
        self._labels = (name, str(version))
        self._name = name

    def queued(self, examples: int, seconds: float) -> None:
        self._metrics.queue_time.observe(seconds * 1e6, *self._labels)
        if self._batching is not None:
            self._metrics.input_batch_size.observe(examples)
            self._metrics.queuing_latency.observe(seconds * 1e6, self._batching.thread_pool_name)

    def ran(self, examples: int, padding: int, seconds: float) -> None:
        self._metrics.run_time.observe(seconds * 1e6, *self._labels)
        self._metrics.run_size.observe(examples, *self._labels)
        self._metrics.runtime_latency.observe(seconds * 1e6, self._name, "Predict", "TF1")
        self._metrics.graph_runs.add()
        self._metrics.graph_run_time.add(amount=int(seconds * 1e6))
        if self._batching is not None:
            self._metrics.wrapped_runs.add()
            self._metrics.processed_batch_size.observe(examples + padding)
            self._metrics.padding_size.observe(padding, str(examples + padding))


def session_config(flags: command_line.Flags) -> config_pb2.ConfigProto:
    """The sessions' thread pools.

    Raises:
        ServingError: The session config file is missing or unreadable.
    """
    config = config_pb2.ConfigProto()
    if path := flags.tensorflow_session_config_file:
        try:
            text_format.Parse(Path(path).read_text(encoding="utf-8"), config)
        except FileNotFoundError:
            raise ServingError(Code.NOT_FOUND, f"{path}; No such file or directory") from None
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise invalid_argument(f"Invalid protobuf file: '{path}' ({error})") from None
    config.intra_op_parallelism_threads = (
        flags.tensorflow_session_parallelism
        or flags.tensorflow_intra_op_parallelism
        or config.intra_op_parallelism_threads
    )
    config.inter_op_parallelism_threads = (
        flags.tensorflow_session_parallelism
        or flags.tensorflow_inter_op_parallelism
        or config.inter_op_parallelism_threads
    )
    return config


def _with_lifespan(app: Application, ready: threading.Event) -> Application:
    """An application whose start-up, and with it the opening of its port, waits for the models."""

    async def with_lifespan(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)
            return
        await receive()
        denormals.flush_in_this_thread()  # small models run on the event loop
        await asyncio.to_thread(ready.wait)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return with_lifespan


def _wait_for_port(address: str, port: int) -> None:
    """Waits until Envoy accepts connections, which it does once both applications have started."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    while True:
        try:
            socket.create_connection((target, port), timeout=1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return


def _fail(error: ServingError) -> NoReturn:
    print(f"Failed to start server. Error: {error}", flush=True)
    print(f"glyph-serve: error: {error}", file=sys.stderr, flush=True)
    os._exit(EXIT_FAILURE)
