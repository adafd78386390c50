"""The configuration files: the same text protobufs that tensorflow_model_server reads."""

import ipaddress
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tensorflow_serving.config import model_server_config_pb2, platform_config_pb2

from glyph_serving import workers
from glyph_serving.errors import ServingError, invalid_argument
from glyph_serving.flags import Flags
from glyph_serving.text_proto import MESSAGES, read_file, read_message
from glyph_serving.tls import CANNOT_LISTEN, TlsConfig, read_tls

_PLATFORM = "tensorflow"
_UNKNOWN_ANY = "not found in descriptor pool"  # what the parser says of a message in an Any that it has no type for
_URI = re.compile(r"[a-zA-Z][0-9a-zA-Z.]*://")
_LEAST = {
    "workers": 1,
    "file_system_poll_wait_seconds": 0,
    "num_load_threads": 0,
    "max_num_load_retries": 0,
    "max_message_bytes": 1,
    "max_concurrent_requests": 0,
    "grace_period_seconds": 0,
}


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
        specific: Exactly these, which may be none; None, with ``latest`` 0: all.
    """

    latest: int = 1
    specific: tuple[int, ...] | None = None


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
        listed: The models as they are listed, in the protobuf.
    """

    flags: Flags
    models: Mapping[str, ModelConfig]
    batching: BatchingParameters | None
    metrics_path: str | None
    grpc_tls: TlsConfig | None
    rest_tls: TlsConfig | None
    listed: model_server_config_pb2.ModelServerConfig


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
    if values.get("num_batch_threads", 1) < 1:
        raise invalid_argument(f"num_batch_threads must be positive; was {parameters.num_batch_threads}", path)
    for name in ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "max_execution_batch_size"):
        if getattr(parameters, name) < 0:
            raise invalid_argument(f"{name} must be non-negative; was {getattr(parameters, name)}", path)
    if values.get("max_enqueued_batches") == 0 and not parameters.enable_large_batch_splitting:
        return replace(parameters, max_enqueued_batches=1)
    return parameters


def read_model_batching(path: str, common: BatchingParameters) -> BatchingParameters:
    """Reads the BatchingParameters in a model's own folder; the threads, which models share, stay the common ones.

    Raises:
        ServingError: As read_batching.
    """
    own = read_batching(path)
    return replace(own, num_batch_threads=common.num_batch_threads, thread_pool_name=common.thread_pool_name)


def check_batching(parameters: BatchingParameters) -> None:
    """Raises INVALID_ARGUMENT, as loading a model does, for sizes that do not go together."""
    largest, most_in_a_run = parameters.max_batch_size, parameters.max_execution_batch_size
    splits = parameters.enable_large_batch_splitting
    sizes = parameters.allowed_batch_sizes
    end = most_in_a_run or largest if splits else largest
    if sizes and sizes[-1] != end:
        raise invalid_argument(
            f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; expected {end}"
        )
    if largest == 0:
        raise invalid_argument("input_batch_size_limit must be positive; was 0", "that is max_batch_size")
    if splits and largest < most_in_a_run:
        raise invalid_argument(
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
            "max_execution_batch_size.",
            f"they are {largest} (max_batch_size) and {most_in_a_run}",
        )


def read_list(path: str) -> model_server_config_pb2.ModelServerConfig:
    """Reads a ModelServerConfig file; one with nothing but comments asks for no models.

    Raises:
        ServingError: The file is missing, empty or unreadable, or no list of models.
    """
    message: model_server_config_pb2.ModelServerConfig = read_message(path, model_server_config_pb2.ModelServerConfig())
    if message.WhichOneof("config") == "custom_model_config":
        raise invalid_argument(f"{path} has a custom_model_config, which no server reads: use a model_config_list")
    return message


def _listed_models(flags: Flags) -> model_server_config_pb2.ModelServerConfig:
    """The models that the workers serve already, or else that the flags name, one or a file of them."""
    if (in_effect := workers.models_in_effect()) is not None:
        return model_server_config_pb2.ModelServerConfig.FromString(in_effect)
    if flags.model_config_file:
        return read_list(flags.model_config_file)
    if not flags.model_base_path:
        raise invalid_argument("Both server_options.model_base_path and server_options.model_config_file are empty!")
    message = model_server_config_pb2.ModelServerConfig()
    message.model_config_list.config.add(
        name=flags.model_name, base_path=flags.model_base_path, model_platform=_PLATFORM
    )
    return message


def models_from_proto(
    message: model_server_config_pb2.ModelServerConfig, served: Container[str] = ()
) -> dict[str, ModelConfig]:
    """The models that a ModelServerConfig lists.

    Args:
        message: The configuration.
        served: The models that are served already, none of which may change its platform.

    Raises:
        ServingError: INVALID_ARGUMENT for a name listed twice, a relative base path, or a platform that is missing,
            unknown or another one than before.
    """
    entries = message.model_config_list.config
    names = set()
    for entry in entries:
        if entry.name in names:
            raise invalid_argument(f"Illegal to list model {entry.name} multiple times in config list")
        names.add(entry.name)
    base_paths = {entry.name: _base_path(entry.name, entry.base_path) for entry in entries}
    for entry in entries:
        if entry.name in served and (platform := _platform(entry)) != _PLATFORM:
            raise invalid_argument(
                f"Illegal to change a model's platform. For model {entry.name} platform was {_PLATFORM} and new "
                f"platform requested is {platform}"
            )
    for entry in entries:
        if (platform := _platform(entry)) != _PLATFORM:
            raise invalid_argument(f"Model {entry.name} requests unsupported platform {platform}")
    return {
        entry.name: ModelConfig(
            entry.name,
            base_paths[entry.name],
            _policy(entry, entry.name in served),
            dict(entry.version_labels),
            _logging(entry),
        )
        for entry in entries
    }


def _base_path(name: str, text: str) -> Path:
    """The folder that a base path, or its URI, names."""
    path = text.removeprefix("file://")
    if "\0" in path:
        raise invalid_argument(f"Model {name} must lie in a folder; got base_path()={text}, which holds a NUL")
    if path.startswith("/"):
        return Path(path)
    if _URI.match(text):
        raise invalid_argument(f"Model {name} must lie in a folder of this machine; got base_path()={text}")
    raise invalid_argument(f"Expected model {name} to have an absolute path or URI; got base_path()={text}")


def _platform(entry: model_server_config_pb2.ModelConfig) -> str:
    """The platform of a model, which an older field may name too."""
    model_type, platform = entry.model_type, entry.model_platform
    both = "ModelServerConfig::model_type (deprecated) %s ModelServerConfig::model_platform."
    if not model_type and not platform:
        raise invalid_argument(f"Illegal setting neither {both % 'nor'}")
    if model_type and platform:
        raise invalid_argument(f"Illegal setting both {both % 'and'}")
    if model_type not in (model_server_config_pb2.MODEL_TYPE_UNSPECIFIED, model_server_config_pb2.TENSORFLOW):
        raise invalid_argument(f"ModelServerConfig::model_type choice {model_type} not supported.")
    return platform or _PLATFORM


def _policy(entry: model_server_config_pb2.ModelConfig, is_served: bool) -> VersionPolicy:
    """The versions that are asked for; none at all of a model that is served already unloads it."""
    policy = entry.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return VersionPolicy(latest=0)
    if choice == "specific":
        versions = tuple(policy.specific.versions)
        if not versions and not is_served:
            raise invalid_argument(f"Model {entry.name} has a specific version policy without versions")
        return VersionPolicy(latest=0, specific=versions)
    return VersionPolicy(latest=max(1, policy.latest.num_versions))


def _logging(entry: model_server_config_pb2.ModelConfig) -> LoggingConfig | None:
    if not entry.HasField("logging_config"):
        return None
    collector = entry.logging_config.log_collector_config
    rate = entry.logging_config.sampling_config.sampling_rate
    if collector.type != "tfrecord":
        detail = f"model {entry.name} has a logging_config of type {collector.type!r}; there is one type: tfrecord"
        raise invalid_argument("No request-logger-creator provided.", detail)
    if not collector.filename_prefix.startswith("/") or not 0 <= rate <= 1:
        raise invalid_argument(
            f"the logging_config of model {entry.name} needs an absolute filename_prefix and a sampling_rate from 0 to "
            f"1. Received: {collector.filename_prefix!r} and {rate:g}"
        )
    return LoggingConfig(collector.filename_prefix, rate)


def _check_platforms(path: str, models: model_server_config_pb2.ModelServerConfig) -> None:
    """Raises INVALID_ARGUMENT for what is no PlatformConfigMap, or none for TensorFlow.

    The adapters' own settings in it have no types here.
    """
    try:
        message = read_message(path, platform_config_pb2.PlatformConfigMap())
    except ServingError as error:
        if _UNKNOWN_ANY in error.detail:
            return
        raise
    if _PLATFORM not in message.platform_configs:
        for model in models.model_config_list.config[:1]:
            raise invalid_argument(f"Model {model.name} requests unsupported platform {_PLATFORM}", f"by {path}")
    elif not message.platform_configs[_PLATFORM].source_adapter_config.type_url:
        raise invalid_argument("Supplied config's type_url could not be parsed: ", path)


def _check_threads(flags: Flags) -> None:
    """Raises INVALID_ARGUMENT for numbers of threads that do not go together, or cannot be."""
    threads = {
        f"tensorflow_{name}_parallelism": getattr(flags, f"tensorflow_{name}_parallelism")
        for name in ("session", "intra_op", "inter_op")
    }
    if min(threads.values()) > 0:
        raise invalid_argument(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all."
        )
    for name, number in threads.items():
        if not 0 <= number < 2**31:
            raise invalid_argument(f"--{name} must be 0 (chosen automatically) to 2147483647. Received: {number}")


def _check_values(flags: Flags) -> None:
    """Raises INVALID_ARGUMENT for numbers below the least that there can be, and an address that is none."""
    for name, least in _LEAST.items():
        value = getattr(flags, name)
        if not value >= least:
            raise invalid_argument(f"--{name} must be at least {least}. Received: {value}")
    try:
        ipaddress.ip_address(flags.address)
    except ValueError:
        raise invalid_argument(
            f"--address must be an IP address, 0.0.0.0 for all of this machine's. Received: {flags.address!r}"
        ) from None


def load(flags: Flags) -> ServerConfig:
    """Checks the flags and reads every file that they name.

    Raises:
        ServingError: What is wrong with them, in tensorflow_model_server's words and order.
    """
    if flags.port == 0 and not flags.grpc_socket_path:
        raise invalid_argument(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
        )
    if flags.use_alts_credentials and flags.ssl_config_file:
        raise invalid_argument("Either use_alts_credentials must be false or ssl_config_file must be empty.")
    _check_values(flags)
    listed = _listed_models(flags)
    if flags.platform_config_file:
        _check_platforms(flags.platform_config_file, listed)
    elif flags.batching_parameters_file and not flags.enable_batching:
        raise invalid_argument(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    batching = None
    if flags.enable_batching:
        path = flags.batching_parameters_file
        batching = read_batching(path) if path else BatchingParameters()
    _check_threads(flags)
    models = models_from_proto(listed)
    if flags.thread_pool_factory_config_file:
        read_file(flags.thread_pool_factory_config_file)
    metrics_path = None
    if flags.monitoring_config_file and flags.rest_api_port:
        prometheus = read_message(flags.monitoring_config_file, MESSAGES["MonitoringConfig"]()).prometheus_config
        if prometheus.enable:
            metrics_path = prometheus.path or "/monitoring/prometheus/metrics"
    grpc_tls = read_tls(flags.ssl_config_file, CANNOT_LISTEN) if flags.ssl_config_file else None
    rest_tls = (
        read_tls(flags.rest_ssl_config_file, "Failed to start HTTP server") if flags.rest_ssl_config_file else None
    )
    return ServerConfig(flags, models, batching, metrics_path, grpc_tls, rest_tls, listed)
