"""The stack as the tests see it: Compose's commands, the containers, and the gateway's address, CA and keys."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from glyph_client import TLS, Client, GlyphError, Retry
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLES = sorted((REPOSITORY / "client/samples").glob("*.png"))

# Compose as a program of its own: the Docker command line passes no signals on to its plugins.
COMPOSE = os.environ.get("COMPOSE", "docker-compose")
UP_WITHIN = 1200.0  # seconds, with all that has to be downloaded and built on a new machine


def compose(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMPOSE, "--ansi=never", *map(str, arguments)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=UP_WITHIN,
    )


def output(*arguments: object) -> str:
    """What a command of Compose prints; the test fails if the command does."""
    done = compose(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def execute(service: str, *command: str) -> str:
    """What a command prints that is run in the container of a service."""
    return output("exec", "--no-TTY", service, *command)


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def inspect(service: str) -> list[dict[str, Any]]:
    """What the engine says about the containers of a service."""
    containers = output("ps", "--all", "--quiet", service).split()
    return json.loads(docker("inspect", *containers)) if containers else []


def published_at() -> tuple[str, str]:
    """Where the gateway is published on this machine, with TLS and without."""
    tls, plain = (output("port", "gateway", inside).rsplit(":", 1)[1] for inside in (443, 8080))
    return f"localhost:{tls}", f"127.0.0.1:{plain}"


def wait_until(what: str, holds: Callable[[], bool], within: float = 60.0) -> None:
    """Asks until it holds; the test fails when the time has passed."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.1)


@dataclass(frozen=True)
class Gateway:
    """Where the gateway is published on this machine, and what is needed to be let in."""

    tls: str
    plain: str
    ca: Path
    client_key: str
    operator_key: str

    def client(self, key: str | None, retry: Retry = Retry(), label: str | None = None) -> Client:  # noqa: B008
        """The SDK over gRPC and TLS."""
        return Client(f"grpcs://{self.tls}", api_key=key, tls=TLS(ca=self.ca), retry=retry, label=label)

    def connect(self) -> ssl.SSLSocket:
        host, port = self.tls.split(":")
        context = ssl.create_default_context(cafile=self.ca)
        return context.wrap_socket(socket.create_connection((host, int(port)), 30), server_hostname=host)

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """A request over REST and TLS: the status and the JSON of the answer."""
        host, port = self.tls.split(":")
        context = ssl.create_default_context(cafile=self.ca)
        connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=30)
        try:
            connection.request(method, path, body if isinstance(body, bytes) else json.dumps(body), headers or {})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


@dataclass(frozen=True)
class Answer:
    """What one request of a load came to: when it was asked and answered, by which version, or why not."""

    asked: float
    answered: float
    version: int | None
    error: str | None


class Load:
    """Predictions at a steady rate by several callers, until it is ended."""

    RATE = 250  # requests a second
    CALLERS = 32  # enough for the rate while an answer takes up to an eighth of a second

    def __init__(self, client: Client) -> None:
        self.answers: list[Answer] = []
        self._client = client
        self._ended = threading.Event()
        self._began = time.monotonic()
        self._callers = [threading.Thread(target=self._call, args=(i,)) for i in range(self.CALLERS)]
        for caller in self._callers:
            caller.start()

    def _call(self, caller: int) -> None:
        picture = np.asarray(Image.open(SAMPLES[caller % len(SAMPLES)]))
        due = self._began + caller / self.RATE
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            asked = time.monotonic()
            try:
                version, error = self._client.predict(picture).version, None
            except GlyphError as problem:
                version, error = None, str(problem)
            self.answers.append(Answer(asked, time.monotonic(), version, error))
            due += self.CALLERS / self.RATE

    def end(self) -> None:
        self._ended.set()
        for caller in self._callers:
            caller.join()
        self.seconds = time.monotonic() - self._began

    def count(self, version: int) -> int:
        """How many answers a version has given so far."""
        return sum(answer.version == version for answer in self.answers.copy())

    @property
    def errors(self) -> list[str]:
        return [answer.error for answer in self.answers if answer.error is not None]

    @property
    def rate(self) -> float:
        return len(self.answers) / self.seconds


@contextmanager
def load(client: Client) -> Iterator[Load]:
    """Puts load on the gateway while the block runs."""
    running = Load(client)
    try:
        yield running
    finally:
        running.end()


def metric(text: str, name: str, **labels: str) -> float:
    """The sum of the samples of a metric that have these labels, in Prometheus' text format."""
    wanted: Sequence[str] = [f'{label}="{value}"' for label, value in labels.items()]
    samples = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in samples if all(each in line for each in wanted))
