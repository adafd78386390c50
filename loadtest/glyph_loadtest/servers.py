"""Starts the servers that a sweep measures."""

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import gevent

from glyph_loadtest.channel import CallError
from glyph_loadtest.generator import probe
from glyph_loadtest.payload import AnswerError
from glyph_loadtest.target import Target

_READY_WITHIN = 120.0  # seconds
_STOPPED_WITHIN = 20.0


class ServerError(RuntimeError):
    """A server did not start; the message says what it said."""


@dataclass(frozen=True)
class Ports:
    """Where a server is to listen, on 127.0.0.1."""

    grpc: int
    rest: int


@dataclass(frozen=True)
class Command:
    """A server that is a command with tensorflow_model_server's flags.

    Attributes:
        words: the command, with all flags that do not change.
    """

    words: tuple[str, ...]

    def arguments(self, ports: Ports, batching: Path | None, flags: list[str]) -> list[str]:
        """The whole command."""
        where = [f"--port={ports.grpc}", f"--rest_api_port={ports.rest}"]
        return [*self.words, *where, *_batching_flags(batching), *flags]

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Ends the server, which may be the child of a shell."""
        _signal_group(process, signal.SIGTERM)


@dataclass(frozen=True)
class Container:
    """A server that is a container of the official image, or of one like it.

    Attributes:
        image: the image's name.
        models: the folder of the models.
        model: the name of the one to serve.
    """

    image: str
    models: Path
    model: str

    @property
    def _name(self) -> str:
        return f"glyph-sweep-{os.getpid()}"

    def arguments(self, ports: Ports, batching: Path | None, flags: list[str]) -> list[str]:
        """The whole command."""
        publish = ["-p", f"127.0.0.1:{ports.grpc}:8500", "-p", f"127.0.0.1:{ports.rest}:8501"]
        mounts = ["-v", f"{self.models.absolute()}:/models:ro"]
        if batching is not None:
            mounts += ["-v", f"{batching.absolute()}:/batching.config:ro"]
        # Not the image's own entry point, which is a shell that takes the model from the environment.
        start = ["docker", "run", "--rm", "--name", self._name, "--entrypoint", "tensorflow_model_server"]
        model = [f"--model_name={self.model}", f"--model_base_path=/models/{self.model}"]
        inside = ["--port=8500", "--rest_api_port=8501", *_batching_flags(batching and Path("/batching.config"))]
        return [*start, *publish, *mounts, self.image, *model, *inside, *flags]

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Ends the server, which as the first process of its container would not heed a signal."""
        subprocess.run(["docker", "rm", "--force", self._name], capture_output=True, check=False)
        _signal_group(process, signal.SIGTERM)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _batching_flags(batching: Path | None) -> list[str]:
    return [] if batching is None else ["--enable_batching", f"--batching_parameters_file={batching}"]


def command(text: str) -> Command:
    """Reads a command line."""
    return Command(tuple(shlex.split(text)))


def free_ports() -> Ports:
    """Two ports that nobody listens on."""
    with socket.socket() as one, socket.socket() as other:
        for sock in (one, other):
            sock.bind(("127.0.0.1", 0))
        return Ports(one.getsockname()[1], other.getsockname()[1])


@contextmanager
def running(server: Command | Container, target: Target, arguments: list[str], log: Path) -> Iterator[None]:
    """Runs a server, from when it answers the target's requests to the end of the context.

    Args:
        server: how to end it.
        target: what must be answered.
        arguments: the whole command.
        log: the file that takes what it says.

    Raises:
        ServerError: it ended, did not answer within two minutes, or answered with something else than digits.
    """
    try:
        with log.open("wb") as said:
            # A process group of its own: Ctrl-C is for the sweep, which then ends the group.
            process = subprocess.Popen(arguments, stdout=said, stderr=said, start_new_session=True)
    except OSError as error:
        raise ServerError(f"{arguments[0]} cannot be started: {error.strerror}") from error
    try:
        _await(process, target, log)
        yield
    finally:
        server.stop(process)
        deadline = time.monotonic() + _STOPPED_WITHIN
        while process.poll() is None and time.monotonic() < deadline:
            gevent.sleep(0.02)
        _signal_group(process, signal.SIGKILL)  # also what a shell that ended has left behind
        process.wait()


def _await(process: subprocess.Popen[bytes], target: Target, log: Path) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while True:
        try:
            probe(target)
        except CallError as error:
            said = " | ".join(log.read_text(errors="replace").splitlines()[-3:])
            if process.poll() is not None:
                raise ServerError(f"the server ended with code {process.returncode}: {said}") from error
            if time.monotonic() > deadline:
                raise ServerError(f"the server does not answer after {_READY_WITHIN:g} s ({error}): {said}") from error
        except AnswerError as error:
            raise ServerError(f"the server does not answer with digits: {error}") from error
        else:
            return
        gevent.sleep(0.1)
