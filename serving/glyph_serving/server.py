"""The server: puts the parts together, loads, announces that it is ready, and ends in good order."""

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from glyph_serving import config as configuration
from glyph_serving import denormals, flags, log, workers
from glyph_serving.cli import EXIT_FAILURE
from glyph_serving.config import ServerConfig
from glyph_serving.engine import Engine
from glyph_serving.envoy import ACCESS_LOG_SECONDS, ARGUMENTS_VARIABLE
from glyph_serving.errors import ServingError
from glyph_serving.fleet import Fleet
from glyph_serving.gate import Gate, Receive, Send
from glyph_serving.grpc_app import GrpcApp, StreamHandler, task_factory
from glyph_serving.handover import Handover
from glyph_serving.harness import RetryPolicy, failure_error
from glyph_serving.health import Health
from glyph_serving.loader import Loader
from glyph_serving.log import LOGGER
from glyph_serving.manager import Manager
from glyph_serving.metrics import Gauge, Metrics
from glyph_serving.reflection import MODEL_SERVICE, PREDICTION_SERVICE
from glyph_serving.request_log import RequestLogs
from glyph_serving.rest_app import RestApp
from glyph_serving.services import HEALTH_SERVICE, Services, health_handlers, reflection_handlers

_ML_METADATA_KEY = Path("assets.extra") / "mlmd_uuid"
_EMPTY_TIMES = 2
_FLUSH_SECONDS = 0.05  # for Envoy to go on writing to a connection that has taken what it was sent


class Server:
    """Everything inside one process: the manager, the two applications and what they share.

    Args:
        config: The checked configuration.

    Attributes:
        grpc: The gRPC application.
        rest: The REST application.
        fleet: The application by which workers ask one another.

    Raises:
        ServingError: The session config file is missing or unreadable.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        options = config.flags
        self._metrics = Metrics()
        self._gates = gates = [Gate(options.max_message_bytes, options.max_concurrent_requests) for _ in range(2)]
        self._handover = Handover()
        engine = Engine(os.cpu_count() or 1, self._handover)
        self._manager = Manager(
            config.models,
            Loader(config, self._metrics, engine, lambda: sum([len(gate.in_flight) for gate in gates]) == 1),
            RetryPolicy(options.max_num_load_retries, options.load_retry_interval_micros / 1e6),
            options.num_load_threads or 1,
            options.file_system_poll_wait_seconds,
            options.allow_version_labels_for_unavailable_models,
            in_effect=workers.is_replacement(),
        )
        self._metrics.is_configured = lambda name: name in self._manager.model_names
        self._metrics.add(
            Gauge(":glyph:serving:queue_depth", ["model_name", "version", "signature"], self._queue_depths)
        )
        self._metrics.add(Gauge(":tensorflow:serving:mlmd_map", ["model_name", "version"], self._with_ml_metadata))
        self._logs = RequestLogs(
            self._manager.logging,
            options.request_log_file_bytes,
            options.request_log_files,
            self._metrics.request_log_count.add,
        )
        self._models_ready = threading.Event()
        crew = workers.sockets(options.workers)
        self._crew = (crew[0], *crew[1]) if crew else ()
        self.fleet = fleet = Fleet(self._manager, self._metrics, self._crew[1:], self._live)
        self._health = Health(fleet.ready)
        self.grpc = self._grpc_app(fleet, self._gates[0])
        self.rest = RestApp(
            config, self._manager, fleet, self._health, self._metrics, self._logs, self._gates[1], self._live
        )
        threading.Thread(target=self._start, name="start", daemon=True).start()

    @classmethod
    def from_environment(cls) -> "Server":
        """The server for the command line that ``glyph-serve`` passed on; ends the process if it is wrong."""
        options, _ = flags.parse(json.loads(os.environ[ARGUMENTS_VARIABLE]))
        log.configure(options.log_format)
        # Envoy has the keys; a worker that takes another's place must not fail for a file from which it takes nothing.
        options = replace(options, ssl_config_file="", rest_ssl_config_file="")
        try:
            return cls(configuration.load(options))
        except ServingError as error:
            _fail(error)

    def drain(self) -> None:
        """Refuses new requests and waits until those in flight are answered, at most the grace period."""
        self._health.draining = True
        self._manager.stop()
        deadline = time.monotonic() + self._config.flags.grace_period_seconds
        while any(gate.in_flight for gate in self._gates) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._logs.close()
        if self._models_ready.is_set():
            _wait_until_sent(deadline)
        if self._config.flags.access_log_file:
            time.sleep(2 * ACCESS_LOG_SECONDS)
        if path := self._config.flags.grpc_socket_path:
            Path(path).unlink(missing_ok=True)

    def reload(self) -> None:
        """Reads the model config file again and serves what it says; on an error, what is served stays."""
        path = self._config.flags.model_config_file
        if not path:
            LOGGER.warning("SIGHUP: nothing to read again without --model_config_file")
            return
        if problem := self._apply(path):
            LOGGER.warning(problem)

    def _apply(self, path: str) -> str:
        """Serves what a model config file says; why not, if that cannot be."""
        try:
            listed = configuration.read_list(path)
            self._manager.replace(configuration.models_from_proto(listed, self._manager.model_names))
            workers.keep_models(listed.SerializeToString(deterministic=True))
        except ServingError as error:
            return f"{path} is not in effect: {error.in_full}"
        except Exception as error:  # noqa: BLE001 (the thread that reads it has other things to do, too)
            return f"{path} is not in effect: {type(error).__name__}: {error}"
        return ""

    def _start(self) -> None:
        """Opens the ports once the models are available, and says so; ends the process if they cannot be."""
        options = self._config.flags
        if options.model_config_file and options.model_config_file_poll_wait_seconds > 0:
            polled = options.model_config_file, options.model_config_file_poll_wait_seconds
            threading.Thread(target=self._poll_config, args=polled, name="config", daemon=True).start()
        if failures := self._manager.wait_until_settled(self._config.models):
            _fail(failure_error("servable", failures))
        self._models_ready.set()
        if workers.is_first():
            self._announce()

    def _announce(self) -> None:
        """Says that the server is ready, once all its ports are open and all its workers are there."""
        options = self._config.flags
        served = [
            f"{name} version {', '.join(map(str, versions))}" for name, versions in self._manager.available().items()
        ]
        for protocol, port in (("gRPC", options.port), ("REST", options.rest_api_port)):
            if port:
                _wait_for(socket.AF_INET6 if ":" in options.address else socket.AF_INET, (options.address, port))
                served.append(f"{protocol} {options.address}:{port}")
        for path in (*self._crew, *([options.grpc_socket_path] if options.grpc_socket_path else [])):
            _wait_for(socket.AF_UNIX, str(path))
        print(f"glyph-serve: ready: {', '.join(served)}", flush=True)

    def _poll_config(self, path: str, seconds: int) -> NoReturn:
        """Applies the model config file again and again: what could not be may have become possible."""
        said = ""
        while True:
            time.sleep(seconds)
            problem = self._apply(path)
            if problem and problem != said:
                LOGGER.warning(problem)
            said = problem

    def _grpc_app(self, fleet: Fleet, gate: Gate) -> GrpcApp:
        options = self._config.flags
        as_content = options.enable_serialization_as_tensor_content
        services = Services(self._manager, fleet, self._metrics, self._logs, as_content)
        handlers = services.handlers()
        names = [PREDICTION_SERVICE, MODEL_SERVICE]
        streams: dict[str, StreamHandler] = {}
        if options.enable_grpc_healthcheck_service:
            calls, streams = health_handlers(self._health)
            handlers |= calls
            names.append(HEALTH_SERVICE)
        return GrpcApp(
            handlers,
            streams | reflection_handlers(names),
            self._health,
            gate,
            services.predictions.arrivals,
            self._live,
        )

    async def _live(self, receive: Receive, send: Send) -> None:
        """An application's life: its start-up, and with it the opening of its port, waits for the models."""
        await receive()
        loop = asyncio.get_running_loop()
        loop.set_task_factory(task_factory)  # type: ignore[arg-type]  # a call is a task to pyvoy
        denormals.flush_in_this_thread()  # small models run on the event loop
        await asyncio.to_thread(self._models_ready.wait)
        self._handover.watch(loop)  # from now on it is requests that are handed over
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    def _queue_depths(self) -> Iterator[tuple[tuple[str, ...], float]]:
        for loaded in self._manager.loaded():
            for signature, batcher in loaded.batchers.items():
                yield (loaded.servable.name, str(loaded.servable.version), signature), batcher.queue_depth

    def _with_ml_metadata(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """The versions that bring the key of an ML Metadata entry; as from the genuine server, it is not shown."""
        for loaded in self._manager.loaded():
            servable = loaded.servable
            if (servable.path / _ML_METADATA_KEY).is_file():
                yield (servable.name, str(servable.version)), 0


def _wait_until_sent(deadline: float) -> None:
    """Waits until every connection has had nothing left to send, or the deadline has passed.

    What Envoy itself holds back is for a connection whose own buffer is full, and follows as soon as that is empty: so
    each has to be empty twice in a row. Not all at once: callers may go on asking, and being refused.
    """
    empty = dict.fromkeys(_open_sockets(), 0)
    while empty and time.monotonic() < deadline:
        time.sleep(_FLUSH_SECONDS)
        looks = {descriptor: 0 if _unsent(descriptor) else times + 1 for descriptor, times in empty.items()}
        empty = {descriptor: times for descriptor, times in looks.items() if times < _EMPTY_TIMES}


def _open_sockets() -> Iterator[int]:
    """The descriptors of this process that are sockets (on Linux; elsewhere none is found)."""
    folder = Path("/proc/self/fd")
    for descriptor in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            if descriptor.readlink().name.startswith("socket:"):
                yield int(descriptor.name)


def _unsent(descriptor: int) -> int:
    """How many bytes of a connection are on their way; none of a socket that is no connection."""
    count = struct.pack("i", 0)
    try:
        (unsent,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, count))
    except OSError:
        return 0
    return int(unsent)


def _wait_for(family: socket.AddressFamily, address: Any) -> None:
    """Waits until Envoy accepts connections, which it does once its applications have started."""
    while True:
        with socket.socket(family) as probe:
            probe.settimeout(1)
            try:
                probe.connect(address)  # to 0.0.0.0 or :: is to this machine
            except OSError:
                time.sleep(0.01)
            else:
                return


def _fail(error: ServingError) -> NoReturn:
    print(f"Failed to start server. Error: {error}", flush=True)
    LOGGER.error("%s", error.in_full)
    os._exit(EXIT_FAILURE)
