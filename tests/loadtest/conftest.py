"""A server with known behaviour, and the command, each in a process of its own: Locust patches whatever imports it."""

import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.conftest import Certificates

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class KnownServer:
    """The process, and where it listens."""

    process: subprocess.Popen[str]
    grpc: str
    rest: str

    def target(self, protocol: str) -> str:
        return self.rest if protocol == "rest" else self.grpc


class StartServer(Protocol):
    def __call__(self, *arguments: str) -> KnownServer: ...


@contextmanager
def running_server(*arguments: str) -> Iterator[KnownServer]:
    """A server with the behaviour that the arguments name; see known_server.py."""
    command = [sys.executable, str(_HERE / "known_server.py"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            grpc_port, rest_port = process.stdout.readline().split()
            yield KnownServer(process, f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{rest_port}")
        finally:
            process.kill()


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts servers with the behaviour that the arguments name; see known_server.py."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(running_server(*arguments))


@pytest.fixture(scope="session")
def plain_server() -> Iterator[KnownServer]:
    """A server that answers at once, and rightly."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def tls_server(certificates: Certificates) -> Iterator[KnownServer]:
    """A server that answers at once, and speaks TLS."""
    with running_server(f"--certificate={certificates.certificate}", f"--key={certificates.key}") as server:
        yield KnownServer(server.process, f"grpcs://{server.grpc}", server.rest.replace("http:", "https:"))


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document


@pytest.fixture(scope="session")
def inside_locust(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Outcome]]:
    """Calls what the name says with the given arguments, each time in a process of its own; see prefork.py."""
    out, err = (tmp_path_factory.mktemp("glyph-load") / name for name in ("out", "err"))
    command = [sys.executable, str(_HERE / "prefork.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def run(call: str, *arguments: str) -> Outcome:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(
                json.dumps({"call": call, "arguments": arguments, "out": str(out), "err": str(err)}) + "\n"
            )
            process.stdin.flush()
            return Outcome(int(process.stdout.readline()), out.read_text(), err.read_text())

        yield run


@pytest.fixture(scope="session")
def glyph_load(inside_locust: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Runs `glyph-load` with the given arguments, each time in a process of its own."""
    return partial(inside_locust, "glyph-load")


def read_until(url: str, pattern: str) -> str:
    """The text at a URL as soon as it matches; the test fails if it does not within a minute."""
    text = ""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
            text = str(answer.read(), "utf-8")
            if re.search(pattern, text):
                return text
        time.sleep(0.2)
    pytest.fail(f"{url} did not show {pattern!r}: {text}")


def swarm(web_page: str, host: str) -> None:
    """Starts a test of four users, as the form on Locust's web page does."""
    form = urllib.parse.urlencode({"user_count": 4, "spawn_rate": 4, "host": host}).encode()
    with urllib.request.urlopen(f"{web_page}/swarm", form, timeout=10) as answer:  # noqa: S310
        assert json.load(answer)["success"]
