"""What the tests of all rooms share: one small real model, published by the trainer, and one real server for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import shutil
import signal
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

REPOSITORY = Path(__file__).resolve().parent.parent
BIN = Path(sysconfig.get_path("scripts"))
READY_WITHIN = 90.0  # seconds; TensorFlow alone takes several to import on a busy machine
ENDED_WITHIN = 30.0

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes that share the cores have one thread each: TensorFlow's spin while they wait for one another.
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")


class Started:
    """A process, the lines that it has printed so far, and a way to wait for one of them."""

    def __init__(self, command: Sequence[object], **options: object) -> None:
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,  # type: ignore[call-overload]
        )
        self.lines: list[str] = []
        self._news: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            self._news.put(line)
        self._news.put(None)

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str, timeout: float = READY_WITHIN) -> str:
        """The next line that contains the text; the test fails if the process ends or the time passes before."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._news.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"{text!r} was not printed within {timeout:.0f} s:\n{self.log}")
            if line is None:
                pytest.fail(f"ended with {self.process.wait()} before printing {text!r}:\n{self.log}")
            if text in line:
                return line

    def ended(self, timeout: float = READY_WITHIN) -> int:
        """The exit status of a process that ends by itself, once all that it printed has been read."""
        status = self.process.wait(timeout)
        self._reader.join(timeout)
        return int(status)

    def end(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal (unless the process has ended), wait for the end and give the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        try:
            status = self.process.wait(ENDED_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"did not end within {ENDED_WITHIN:.0f} s of {with_signal.name}:\n{self.log}")
        finally:
            self._reader.join(ENDED_WITHIN)
            self.process.stdout.close()
        return int(status)


@contextlib.contextmanager
def started(command: Sequence[object], **options: object) -> Iterator[Started]:
    process = Started(command, **options)
    try:
        yield process
    finally:
        process.end()


@dataclass(frozen=True)
class Server:
    """A running glyph-serve and where it listens."""

    running: Started
    grpc: str
    rest: str

    @property
    def log(self) -> str:
        return self.running.log


def find_free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


@contextlib.contextmanager
def running_server(*flags: str, **options: object) -> Iterator[Server]:
    grpc, rest = find_free_ports(2)
    command = [BIN / "glyph-serve", "--address=127.0.0.1", f"--port={grpc}", f"--rest_api_port={rest}", *flags]
    with started(command, **options) as running:
        running.wait_for("glyph-serve: ready")
        yield Server(running, f"127.0.0.1:{grpc}", f"http://127.0.0.1:{rest}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that several processes end at about the same time."""
    longest = [f"test_{name}.py" for name in ("readme", "demo", "startup", "resume", "release", "gates")]
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """`free_ports(2)`: ports on loopback that nobody listens on now, all different."""
    return find_free_ports


@pytest.fixture(scope="session")
def start() -> Callable[..., contextlib.AbstractContextManager[Started]]:
    """`with start(["glyph-serve", ...]) as process:` runs a command and ends it; `process.wait_for("text")`."""
    return started


@pytest.fixture(scope="session")
def serve() -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """`with serve("--model_name=digits", ...) as server:` runs a glyph-serve of the test's own on free ports."""
    return running_server


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority made for this run, and a certificate that it signed, good for both ends."""

    authority: Path
    certificate: Path
    key: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """What servers and clients on localhost prove themselves with."""
    folder = tmp_path_factory.mktemp("certificates")
    made = Certificates(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
    authority = trustme.CA()
    signed = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(made.authority))
    made.certificate.write_bytes(b"".join(part.bytes() for part in signed.cert_chain_pems))
    signed.private_key_pem.write_to_path(str(made.key))
    return made


@contextlib.contextmanager
def made_once(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, bool]]:
    """A folder that all processes of this run share, and whether it is this one that has to make it."""
    run = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        run = run.parent
    with (run / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = run / f"{name}.made"
        yield run / name, not made.exists()
        made.touch()


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of 42,000 JPEG digits."""
    with made_once(tmp_path_factory, "dataset") as (folder, missing):
        if missing:
            subprocess.run([BIN / "glyph-train", "dataset", "--data-dir", folder], check=True, timeout=120)
    return folder


@pytest.fixture(scope="session")
def models_dir(dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder that holds version 1 of `digits`: the deck's network after one epoch on all 30,000 images."""
    command = [str(BIN / "glyph-train"), "run", "--recipe=deck", "--epochs=1", "--seed=1"]
    with made_once(tmp_path_factory, "models") as (folder, missing):
        if missing:
            subprocess.run([*command, f"--data-dir={dataset_dir}", f"--models-dir={folder}"], check=True, timeout=240)
    return folder


@pytest.fixture(scope="session")
def server(models_dir: Path) -> Iterator[Server]:
    """One server of version 1 of `digits` for all tests that only ask."""
    with running_server("--model_name=digits", f"--model_base_path={models_dir / 'digits'}") as running:
        yield running


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's files as they are now in a folder of their own, with the virtual environment of this one."""
    folder = tmp_path_factory.mktemp("clone") / "a folder with spaces"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.rstrip("\0").split("\0"):
        if (REPOSITORY / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    (folder / ".venv").symlink_to(REPOSITORY / ".venv")
    return folder


@pytest.fixture(scope="session")
def clean_environment() -> dict[str, str]:
    """The environment of somebody's shell: without what make and coverage add to this run's."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "COV_"))}
