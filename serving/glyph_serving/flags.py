"""The flags of ``glyph-serve``: those of tensorflow_model_server, and a few of our own."""

import os
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any


class FlagError(Exception):
    """A flag whose value cannot be read."""


def _flag(default: bool | int | float | str, help_text: str, *, inapplicable: str = "") -> Any:
    """A dataclass field for one flag.

    Args:
        default: The value when the flag is absent; its type is the flag's type.
        help_text: What ``--help`` says.
        inapplicable: Why the flag, though accepted, has no effect in this server.
    """
    return field(default=default, metadata={"help": help_text, "inapplicable": inapplicable})


_CPUS = os.cpu_count() or 1
_INT_LIMITS = {"int32": 2**31, "int64": 2**63}
_WIDE = (  # int64; other whole numbers are int32
    "load_retry_interval_micros",
    "request_log_file_bytes",
    "tensorflow_session_parallelism",
    "tensorflow_intra_op_parallelism",
    "tensorflow_inter_op_parallelism",
)
_NO_POOL = "requests are answered on event loops, so there is no pool of request threads to size"
_NO_TFLITE = "only TensorFlow SavedModels are served"
_NO_PROFILER = "the profiler service is not part of this server"
_NO_DEVICE = "models run on the CPU"


@dataclass(frozen=True)
class Flags:
    """The values of all flags, under tensorflow_model_server's names and with its defaults."""

    port: int = _flag(8500, "TCP port to listen on for gRPC. Disabled if zero.")
    address: str = _flag("0.0.0.0", "IP address to listen on.")  # noqa: S104 (what the genuine server does)
    grpc_socket_path: str = _flag("", "If non-empty, also listen for gRPC on a UNIX socket at this path.")
    rest_api_port: int = _flag(0, "TCP port to listen on for REST. Disabled if zero. Must differ from --port.")
    rest_api_num_threads: int = _flag(4 * _CPUS, "Number of threads for REST.", inapplicable=_NO_POOL)
    rest_api_timeout_in_ms: int = _flag(30000, "Timeout for REST calls in milliseconds.")
    rest_api_enable_cors_support: bool = _flag(False, "Add CORS headers to REST answers.")
    enable_batching: bool = _flag(False, "Run requests that wait for the model together.")
    allow_version_labels_for_unavailable_models: bool = _flag(
        False, "Allow unused labels to be given to versions that are not available yet."
    )
    batching_parameters_file: str = _flag("", "Text BatchingParameters protobuf to use instead of the defaults.")
    enable_per_model_batching_parameters: bool = _flag(
        False,
        "Take the batching parameters of a model from batching_params.pbtxt in its SavedModel's folder; without that "
        "file it is not batched. Only with --enable_batching.",
    )
    model_config_file: str = _flag("", "Text ModelServerConfig protobuf: what to serve, instead of a single model.")
    model_config_file_poll_wait_seconds: int = _flag(
        0, "Seconds between reads of --model_config_file; 0: read once, and again at SIGHUP."
    )
    model_name: str = _flag("default", "Name of the model (ignored with --model_config_file).")
    model_base_path: str = _flag("", "Folder of the model's numbered versions (ignored with --model_config_file).")
    num_load_threads: int = _flag(0, "Threads that load models; 0: one.")
    num_unload_threads: int = _flag(0, "Threads that unload models.", inapplicable="the loading threads also unload")
    max_num_load_retries: int = _flag(5, "How often a failed load is tried again.")
    load_retry_interval_micros: int = _flag(60_000_000, "Microseconds between tries to load.")
    file_system_poll_wait_seconds: int = _flag(1, "Seconds between looks for new versions; 0: look once.")
    flush_filesystem_caches: bool = _flag(
        True, "Drop loaded files from the page cache.", inapplicable="that is left to the operating system"
    )
    tensorflow_session_parallelism: int = _flag(0, "Threads for a session; 0: chosen automatically.")
    tensorflow_session_config_file: str = _flag("", "Text ConfigProto protobuf for the sessions.")
    tensorflow_intra_op_parallelism: int = _flag(0, "Threads for one operation; 0: chosen automatically.")
    tensorflow_inter_op_parallelism: int = _flag(0, "Operations that run at once; 0: chosen automatically.")
    use_alts_credentials: bool = _flag(
        False, "Google ALTS security.", inapplicable="put a gateway that speaks TLS before this server"
    )
    ssl_config_file: str = _flag("", "Text SSLConfig protobuf: TLS for gRPC.")
    platform_config_file: str = _flag(
        "", "Text PlatformConfigMap protobuf.", inapplicable="the flags configure the one platform, tensorflow"
    )
    per_process_gpu_memory_fraction: float = _flag(0.0, "Share of GPU memory to use.", inapplicable=_NO_DEVICE)
    saved_model_tags: str = _flag("serve", "Comma-separated tags of the MetaGraphDef to load.")
    grpc_channel_arguments: str = _flag(
        "", "Comma-separated gRPC channel arguments.", inapplicable="Envoy, not gRPC's core, holds the connections"
    )
    grpc_max_threads: int = _flag(4 * _CPUS, "Most gRPC threads.", inapplicable=_NO_POOL)
    enable_model_warmup: bool = _flag(True, "Replay assets.extra/tf_serving_warmup_requests before serving.")
    num_request_iterations_for_warmup: int = _flag(0, "How often each warm-up request is replayed, if above 0.")
    version: bool = _flag(False, "Print the version and exit.")
    monitoring_config_file: str = _flag("", "Text MonitoringConfig protobuf: Prometheus metrics.")
    remove_unused_fields_from_bundle_metagraph: bool = _flag(
        True, "Drop parts of the MetaGraphDef after loading.", inapplicable="nothing of it is kept but its signatures"
    )
    prefer_tflite_model: bool = _flag(False, "Load model.tflite.", inapplicable=_NO_TFLITE)
    num_tflite_pools: int = _flag(_CPUS, "Pools of interpreters.", inapplicable=_NO_TFLITE)
    num_tflite_interpreters_per_pool: int = _flag(1, "Interpreters in a pool.", inapplicable=_NO_TFLITE)
    enable_signature_method_name_check: bool = _flag(
        False, "Refuse signatures whose method name is not that of the request."
    )
    xla_cpu_compilation_enabled: bool = _flag(
        False, "XLA on the CPU.", inapplicable="XLA-jitted models run as they are"
    )
    xla_gpu_compilation_enabled: bool = _flag(False, "XLA on the GPU.", inapplicable=_NO_DEVICE)
    enable_profiler: bool = _flag(True, "Serve the profiler.", inapplicable=_NO_PROFILER)
    thread_pool_factory_config_file: str = _flag(
        "", "Text ThreadPoolConfig protobuf.", inapplicable="size TensorFlow's own pools with --tensorflow_* instead"
    )
    mixed_precision: str = _flag("", "bfloat16.", inapplicable="a model runs in the precision it was saved with")
    skip_initialize_tpu: bool = _flag(False, "Do not initialize the TPU.", inapplicable=_NO_DEVICE)
    enable_grpc_healthcheck_service: bool = _flag(False, "Serve grpc.health.v1.Health.")
    enable_serialization_as_tensor_content: bool = _flag(False, "Answer with tensor_content instead of typed fields.")
    # Those of our own.
    workers: int = _flag(1, "Processes on the same ports, each with an interpreter and the models of its own.")
    rest_ssl_config_file: str = _flag("", "Text SSLConfig protobuf: TLS for REST.")
    rest_api_cors_origins: str = _flag(
        "", "Comma-separated origins that may read REST answers, instead of all (with --rest_api_enable_cors_support)."
    )
    rest_api_enable_gzip: bool = _flag(False, "Compress REST answers of 1 KB and more for those who accept gzip.")
    max_message_bytes: int = _flag(2**31 - 1, "The largest request, as sent and unzipped.")
    max_concurrent_requests: int = _flag(0, "Most requests at once for each protocol; 0: any number.")
    request_log_file_bytes: int = _flag(64 * 2**20, "Size at which the next file of a request log is begun.")
    request_log_files: int = _flag(10, "How many files of a request log are kept.")
    access_log_file: str = _flag("", "File for a line of JSON about every request, with its id; e.g. /dev/stdout.")
    log_format: str = _flag("text", "What the server says on stderr: text, or json.")
    grace_period_seconds: float = _flag(15.0, "How long SIGTERM waits for requests in flight.")

    @property
    def inapplicable(self) -> dict[str, str]:
        """The flags given a value of their own that has no effect, each with the reason."""
        return {
            flag.name: flag.metadata["inapplicable"]
            for flag in fields(self)
            if flag.metadata["inapplicable"] and getattr(self, flag.name) != flag.default
        }


def parse(arguments: Sequence[str]) -> tuple[Flags, list[str]]:
    """Reads ``--name=value``, as tensorflow_model_server does; a bare ``--name`` sets a boolean to true.

    Args:
        arguments: The command line without the program's name; after ``--`` nothing is a flag.

    Returns:
        The flags, and the arguments that are none, which tensorflow_model_server warns about and ignores.

    Raises:
        FlagError: A value that is not of the flag's type.
    """
    known = {flag.name: flag for flag in fields(Flags)}
    values: dict[str, Any] = {}
    unknown: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            unknown.extend(arguments[position:])
            break
        name, given, value = argument.removeprefix("--").partition("=")
        flag = known.get(name) if argument.startswith("--") else None
        if flag is not None and (given or isinstance(flag.default, bool)):
            values[name] = _convert(flag, value if given else "true")
        else:
            unknown.append(argument)
    return Flags(**values), unknown


def _convert(flag: Field[Any], value: str) -> object:
    kind = _kind(flag)
    if kind == "string":
        return value
    try:
        if kind == "bool":
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        if not value.isascii() or "_" in value or value != value.rstrip():
            raise ValueError
        if kind == "float":
            return float(value)
        number, limit = int(value), _INT_LIMITS[kind]
        if not -limit <= number < limit:
            raise ValueError
        return number
    except (KeyError, ValueError):
        what = {"bool": "true or false", "float": "a number"}.get(kind, f"a whole number of type {kind}")
        raise FlagError(f"--{flag.name} takes {what}. Received: {value!r}") from None


def _kind(flag: Field[Any]) -> str:
    """The type of a flag, as the usage names it."""
    kind = {bool: "bool", int: "int32", float: "float", str: "string"}[type(flag.default)]
    return "int64" if flag.name in _WIDE else kind


def usage() -> str:
    """The list of all flags, in the form that tensorflow_model_server prints."""
    lines = ["usage: glyph-serve", "Flags:"]
    for flag in fields(Flags):
        default = flag.default
        shown = str(default).lower() if isinstance(default, bool) else f'"{default}"' if default == "" else default
        note = f" No effect here: {flag.metadata['inapplicable']}." if flag.metadata["inapplicable"] else ""
        setting = f"--{flag.name}={shown}"
        lines.append(f"\t{setting:<33}\t{_kind(flag)}\t{flag.metadata['help']}{note}")
    return "\n".join(lines)
