"""The configuration files: the same text protobufs that tensorflow_model_server reads."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tensorflow_serving.config import model_server_config_pb2

from glyph_serving.errors import Code, ServingError, invalid_argument
from glyph_serving.flags import Flags
from glyph_serving.text_proto import MESSAGES, read_message
from glyph_serving.tls import TlsConfig, read_tls


@dataclass(frozen=True)
class BatchingParameters:
    """How requests are gathered into runs; the defaults are the genuine server's.

    Attributes:
        max_batch_size: Most examples in a batch, and in a request unless large ones are split.
        batch_timeout_micros: How long a batch that is not full waits for company.
        max_enqueued_batches: Batches that may wait; a request beyond is refused with UNAVAILABLE. 0, where the file
            does not say: the genuine server's 10, and as many as hold 1,000 examples, for the pool of request threads
            that keeps the genuine server from being asked more at once does not exist here.
        num_batch_threads: Batches of one model that may run at once; 0: as many as there are CPUs.
        allowed_batch_sizes: Sizes that a batch is padded up to, ascending; empty: any size.
        pad_variable_length_inputs: Pad differing inner dimensions with the batch's first value.
        enable_large_batch_splitting: Split requests that exceed the size of a run.
        max_execution_batch_size: Most examples in a run when splitting; 0: ``max_batch_size``.
        thread_pool_name: The label of the queueing metrics.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 0
    num_batch_threads: int = 0
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0
    thread_pool_name: str = "batch_threads"


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions on disk are to be served.

    Attributes:
        latest: The number of newest versions; 0: not by recency.
        specific: Exactly these; empty, with ``latest`` 0: all.
    """

    latest: int = 1
    specific: tuple[int, ...] = ()


@dataclass(frozen=True)
class LoggingConfig:
    """How the requests of a model are logged.

    Attributes:
        filename_prefix: What the files' names begin with, folder included.
        sampling_rate: The share of requests that is logged, 0 to 1.
    """

    filename_prefix: str
    sampling_rate: float


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve; ``logging`` is None where its requests are not logged."""

    name: str
    base_path: Path
    policy: VersionPolicy
    labels: Mapping[str, int]
    logging: LoggingConfig | None = None


@dataclass(frozen=True)
class ServerConfig:
    """Everything that the flags and the files say.

    Attributes:
        flags: The flags.
        models: The models by name.
        batching: The parameters of batching; None: every request runs by itself.
        metrics_path: The REST path of Prometheus metrics; None: not served.
        grpc_tls: How gRPC is encrypted; None: it is not.
        rest_tls: How REST is encrypted; None: it is not.
    """

    flags: Flags
    models: Mapping[str, ModelConfig]
    batching: BatchingParameters | None
    metrics_path: str | None
    grpc_tls: TlsConfig | None
    rest_tls: TlsConfig | None


def read_batching(path: str) -> BatchingParameters:
    """Reads a BatchingParameters file.

    Raises:
        ServingError: The file is missing, is no BatchingParameters, or asks for what cannot be.
    """
    message = read_message(path, MESSAGES["BatchingParameters"]())
    values: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        values[descriptor.name] = tuple(value) if descriptor.is_repeated else getattr(value, "value", value)
    parameters = BatchingParameters(**values)
    for name in ("max_batch_size", "max_enqueued_batches"):
        if name in values and values[name] < 1:
            raise invalid_argument(f"{name} must be positive; was {values[name]} ({path})")
    for name in ("batch_timeout_micros", "num_batch_threads", "max_execution_batch_size"):
        if getattr(parameters, name) < 0:
            raise invalid_argument(f"{name} must be non-negative; was {getattr(parameters, name)} ({path})")
    return parameters


def read_model_batching(path: str, common: BatchingParameters) -> BatchingParameters:
    """Reads the BatchingParameters in a model's own folder; the threads, which models share, stay the common ones.

    Raises:
        ServingError: As read_batching.
    """
    own = read_batching(path)
    return replace(own, num_batch_threads=common.num_batch_threads, thread_pool_name=common.thread_pool_name)


def check_allowed_sizes(parameters: BatchingParameters) -> None:
    """Raises INVALID_ARGUMENT, as loading a model does, unless the allowed sizes end with the largest batch."""
    largest = parameters.max_batch_size
    if parameters.enable_large_batch_splitting and parameters.max_execution_batch_size:
        largest = parameters.max_execution_batch_size
    sizes = parameters.allowed_batch_sizes
    if sizes and sizes[-1] != largest:
        raise invalid_argument(
            f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; "
            f"expected {largest}"
        )


def read_models(path: str) -> dict[str, ModelConfig]:
    """Reads a ModelServerConfig file.

    Raises:
        ServingError: The file is missing, unreadable, empty, or lists what cannot be served.
    """
    message = read_message(path, model_server_config_pb2.ModelServerConfig())
    if message.WhichOneof("config") != "model_config_list":
        raise invalid_argument(f"{path}; Invalid argument (it must hold a model_config_list)")
    return models_from_proto(message)


def models_from_proto(message: model_server_config_pb2.ModelServerConfig) -> dict[str, ModelConfig]:
    """The models that a ModelServerConfig lists.

    Raises:
        ServingError: INVALID_ARGUMENT for a name listed twice, a relative base path or an unknown platform.
    """
    models: dict[str, ModelConfig] = {}
    for entry in message.model_config_list.config:
        if entry.name in models:
            raise invalid_argument(f"Illegal to list model {entry.name} multiple times in config list")
        if not entry.base_path.startswith("/"):
            raise invalid_argument(
                f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path}"
            )
        if entry.model_platform not in ("", "tensorflow"):
            raise invalid_argument(f"Model {entry.name} requests unsupported platform {entry.model_platform}")
        choice = entry.model_version_policy.WhichOneof("policy_choice")
        policy = VersionPolicy()
        if choice == "latest":
            policy = VersionPolicy(latest=max(1, entry.model_version_policy.latest.num_versions))
        elif choice == "all":
            policy = VersionPolicy(latest=0)
        elif choice == "specific":
            versions = tuple(entry.model_version_policy.specific.versions)
            if not versions:
                raise invalid_argument(f"Model {entry.name} has a specific version policy without versions")
            policy = VersionPolicy(latest=0, specific=versions)
        models[entry.name] = ModelConfig(
            entry.name, Path(entry.base_path), policy, dict(entry.version_labels), _logging(entry)
        )
    return models


def _logging(entry: model_server_config_pb2.ModelConfig) -> LoggingConfig | None:
    if not entry.HasField("logging_config"):
        return None
    collector = entry.logging_config.log_collector_config
    rate = entry.logging_config.sampling_config.sampling_rate
    if not collector.type:
        return None
    if collector.type != "tfrecord":
        raise ServingError(
            Code.NOT_FOUND, f"Cannot find LogCollector::Factory for type: {collector.type} (there is one: tfrecord)"
        )
    if not collector.filename_prefix.startswith("/") or not 0 <= rate <= 1:
        raise invalid_argument(
            f"the logging_config of model {entry.name} needs an absolute filename_prefix and a sampling_rate from 0 to "
            f"1. Received: {collector.filename_prefix!r} and {rate:g}"
        )
    return LoggingConfig(collector.filename_prefix, rate)


def load(flags: Flags) -> ServerConfig:
    """Checks the flags and reads every file that they name.

    Raises:
        ServingError: What is wrong with them, in tensorflow_model_server's words.
    """
    if flags.port == 0 and not flags.grpc_socket_path:
        raise invalid_argument(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
        )
    if flags.workers < 1:
        raise invalid_argument(f"--workers must be at least 1. Received: {flags.workers}")
    if flags.file_system_poll_wait_seconds < 0:
        seconds = flags.file_system_poll_wait_seconds
        raise invalid_argument(f"--file_system_poll_wait_seconds must be 0 (look once) or more. Received: {seconds}")
    parallelism = (flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism)
    if flags.tensorflow_session_parallelism and any(parallelism):
        raise invalid_argument(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all."
        )
    if flags.model_config_file:
        models = read_models(flags.model_config_file)
    elif flags.model_base_path:
        base_path = Path(flags.model_base_path).absolute()
        models = {flags.model_name: ModelConfig(flags.model_name, base_path, VersionPolicy(), {})}
    else:
        raise invalid_argument("Both server_options.model_base_path and server_options.model_config_file are empty!")
    batching = None
    if flags.batching_parameters_file and not flags.enable_batching:
        raise invalid_argument(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    if flags.enable_batching:
        path = flags.batching_parameters_file
        batching = read_batching(path) if path else BatchingParameters()
    metrics_path = None
    if flags.monitoring_config_file:
        prometheus = read_message(flags.monitoring_config_file, MESSAGES["MonitoringConfig"]()).prometheus_config
        if prometheus.enable:
            metrics_path = prometheus.path or "/monitoring/prometheus/metrics"
    grpc_tls = read_tls(flags.ssl_config_file) if flags.ssl_config_file else None
    rest_tls = read_tls(flags.rest_ssl_config_file) if flags.rest_ssl_config_file else None
    return ServerConfig(flags, models, batching, metrics_path, grpc_tls, rest_tls)
