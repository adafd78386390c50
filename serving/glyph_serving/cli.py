"""``glyph-serve``: checks everything that can be checked without TensorFlow, then becomes the server."""

import errno
import os
import signal
import socket
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from glyph_serving import config as configuration
from glyph_serving import envoy, flags, log, workers
from glyph_serving.config import ModelConfig, ServerConfig
from glyph_serving.errors import ServingError, invalid_argument
from glyph_serving.log import LOGGER
from glyph_serving.source import versions_on_disk
from glyph_serving.tls import CANNOT_LISTEN

EXIT_FAILURE = 255  # tensorflow_model_server returns -1 from main


def main() -> NoReturn:
    """The entry point of ``glyph-serve``."""
    signal.pthread_sigmask(signal.SIG_BLOCK, envoy.HANDLED_SIGNALS)  # until there is somebody to wait for them
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until Envoy heeds it, once the models are there
    arguments = sys.argv[1:]
    log.configure(log.TEXT)
    try:
        values, unknown = flags.parse(arguments)
    except flags.FlagError as error:
        print(flags.usage(), flush=True)
        fail(str(error))
    if unknown[:1] == ["--help"]:
        print(flags.usage())
        sys.exit(EXIT_FAILURE)
    if values.log_format not in (log.TEXT, log.JSON):
        fail(f"--log_format takes text or json. Received: {values.log_format!r}")
    log.configure(values.log_format)
    if values.version:
        print(f"Glyph ModelServer: {metadata.version('glyph-serving')}")
        print(f"TensorFlow Library: {metadata.version('tensorflow')}")
        sys.exit(0)
    if unknown:
        print(f"unknown argument: {unknown[0]}\n{flags.usage()}", flush=True)
    for argument in unknown:
        LOGGER.warning(f"{argument} is no flag of this server, or has no =value, and is ignored")
    for name, reason in values.inapplicable.items():
        LOGGER.warning(f"--{name} has no effect: {reason}")
    if values.rest_api_cors_origins and not values.rest_api_enable_cors_support:
        LOGGER.warning("--rest_api_cors_origins has no effect without --rest_api_enable_cors_support")
    if values.rest_api_port and values.rest_api_port == values.port:
        LOGGER.warning("--rest_api_port and --port are both %d: REST is not served. Choose another", values.port)
        arguments = ["--rest_api_port=0", *(one for one in arguments if not one.startswith("--rest_api_port="))]
        values, _ = flags.parse(arguments)
    if values.workers > 1 or values.ssl_config_file or values.rest_ssl_config_file:
        check_temporary_files()
    try:
        config = configuration.load(values)
    except ServingError as error:
        print(f"Failed to start server. Error: {error}", flush=True)
        fail(error.in_full)
    check_ports(config)
    check_access_log(config.flags.access_log_file)
    for model in config.models.values():
        if missing := explain_missing(model):
            if not values.file_system_poll_wait_seconds:
                fail(missing)
            LOGGER.warning(f"{missing}. Waiting for it")

    def become_server() -> NoReturn:
        try:
            envoy.execute(config, arguments)
        except envoy.EnvoyError as error:
            fail(str(error))

    if config.flags.workers > 1:
        workers.supervise(config.flags.workers, config.listed.SerializeToString(), become_server)
    become_server()


def fail(message: str) -> NoReturn:
    """Prints one line on stderr and exits."""
    LOGGER.error(message)
    sys.exit(EXIT_FAILURE)


def check_ports(config: ServerConfig) -> None:
    """Fails unless every port can be bound; Envoy would say so only after TensorFlow has been loaded."""
    for name in ("port", "rest_api_port"):
        port: int = getattr(config.flags, name)
        if port and (problem := _port_problem(config.flags.address, name, port)):
            if name == "port":
                print(f"Failed to start server. Error: {invalid_argument(CANNOT_LISTEN)}", flush=True)
            fail(problem)
    if problem := _socket_problem(config.flags.grpc_socket_path):
        print(f"Failed to start server. Error: {invalid_argument(CANNOT_LISTEN)}", flush=True)
        fail(problem)


def check_temporary_files() -> None:
    """Fails unless they can be made: workers have their sockets in a folder, and certificates are read from a file."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        fail(f"--workers and TLS need temporary files: {error.strerror}. Set TMPDIR to a folder that can be written to")


def check_access_log(path: str) -> None:
    """Fails unless a file can be written to; Envoy would say nothing but that it ends."""
    if path:
        try:
            Path(path).open("a").close()
        except OSError as error:
            fail(f"cannot write to {path} (--access_log_file): {error.strerror}")


def _socket_problem(path: str) -> str:
    """Why no UNIX socket can be made there; empty if it can, or takes the place of one that was left."""
    if not path or Path(path).is_socket():
        return ""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(path)
    except OSError as error:
        return f"cannot listen on {path} (--grpc_socket_path): {error.strerror or error}"
    Path(path).unlink()
    return ""


def _port_problem(address: str, name: str, port: int) -> str:
    """Why nothing can listen there; empty if it can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OverflowError:
            return f"--{name} must lie between 0 and 65535. Received: {port}"
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"port {port} on {address} is already taken. Free it, or choose another --{name}"
            return f"cannot listen on {address}:{port} (--address, --{name}): {os.strerror(error.errno or 0)}"
    return ""


def explain_missing(model: ModelConfig) -> str:
    """What is wrong with a model's folder and what to do; empty when there is something to serve."""
    path = model.base_path
    publish = f"publish one as {path / '1' / 'saved_model.pb'}"
    try:
        versions = versions_on_disk(path)
    except (FileNotFoundError, NotADirectoryError):
        return f"the base path {path} of model {model.name} does not exist: {publish}, or correct the path"
    except OSError as error:
        return (
            f"the base path {path} of model {model.name} cannot be read: {error.strerror}. Let this user read it, or "
            "correct the path"
        )
    if not versions:
        return f"no versions of model {model.name} under {path} (folders named by a number): {publish}"
    return ""
