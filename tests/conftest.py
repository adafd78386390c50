"""What the tests of all rooms share: one small real model, published by the trainer, and one real server for it."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
BIN = Path(sysconfig.get_path("scripts"))
READY_WITHIN = 90.0  # seconds; TensorFlow alone takes several to import on a busy machine


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


@dataclass
class Server:
    """A running glyph-serve and where it listens."""

    process: subprocess.Popen[str]
    grpc: str
    rest: str
    lines: list[str] = field(default_factory=list)

    @property
    def log(self) -> str:
        return "".join(self.lines)


@contextlib.contextmanager
def running_server(*flags: str, ready: str = "glyph-serve: ready") -> Iterator[Server]:
    """Start glyph-serve with these flags on free loopback ports, wait for its ready line, end it by SIGTERM."""
    grpc_port, rest_port = free_ports(2)
    process = subprocess.Popen(
        [
            str(BIN / "glyph-serve"),
            "--address=127.0.0.1",
            f"--port={grpc_port}",
            f"--rest_api_port={rest_port}",
            *flags,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Server(process, f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{rest_port}")
    news: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            server.lines.append(line)
            news.put(line)
        news.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + READY_WITHIN
        while True:
            try:
                line = news.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"glyph-serve was not ready within {READY_WITHIN:.0f} s:\n{server.log}")
            if line is None:
                pytest.fail(f"glyph-serve ended with {process.wait()} before it was ready:\n{server.log}")
            if line.startswith(ready):
                break
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"glyph-serve did not end on SIGTERM:\n{server.log}")
        reader.join(timeout=10)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of 42,000 JPEG digits, built once (by whoever needs it first)."""
    folder = tmp_path_factory.mktemp("data") / "dataset"
    subprocess.run([BIN / "glyph-train", "dataset", "--data-dir", folder], check=True, timeout=120)
    return folder


@pytest.fixture(scope="session")
def models_dir(dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder that holds version 1 of `digits`: the deck's network after one epoch on all 30,000 images."""
    folder = tmp_path_factory.mktemp("published") / "models"
    command = [str(BIN / "glyph-train"), "run", "--recipe=deck", "--epochs=1", "--seed=1"]
    subprocess.run([*command, f"--data-dir={dataset_dir}", f"--models-dir={folder}"], check=True, timeout=240)
    return folder


@pytest.fixture(scope="session")
def serve() -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """`with serve("--model_name=digits", ...) as server:` starts a server of the test's own."""
    return running_server


@pytest.fixture(scope="session")
def server(models_dir: Path) -> Iterator[Server]:
    """One server of version 1 of `digits` for all tests that only ask."""
    with running_server("--model_name=digits", f"--model_base_path={models_dir / 'digits'}") as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def _quiet_tensorflow() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
