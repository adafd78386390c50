"""The whole way once: a folder of JPEG digits, a trained and published model, a server, answers, load.

Every step is a command of one of the four rooms, run as a process of its own: what you see is what you would
type. `make demo` runs this file; the environment variables GRPC_PORT and REST_PORT choose other ports.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
BIN = Path(sysconfig.get_path("scripts"))
BUILD = Path("build")  # as every path below: relative to HERE, where the commands run
DATASET, MODELS, SAMPLES = BUILD / "dataset", BUILD / "models", BUILD / "samples"
SERVER_LOG = BUILD / "server.log"
DISK_NEEDED = 500 * 2**20  # bytes: 42,000 small files take a block each ...
DISK_NEEDED_AGAIN = 50 * 2**20  # ... and are written once
READY_WITHIN = 120.0  # seconds
STOPPED_WITHIN = 20.0  # seconds
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoError(Exception):
    """The demo cannot go on; the message says why and what to do."""


def main() -> int:
    """Run the demo; the exit status is 0, 1 after a failure, 130 after an interruption."""
    for number in INTERRUPTIONS:
        signal.signal(number, _interrupt)
    started = time.monotonic()
    try:
        os.chdir(HERE)
        grpc_port, rest_port = _port("GRPC_PORT", 8500), _port("REST_PORT", 8501)
        if grpc_port == rest_port:
            raise DemoError(f"GRPC_PORT and REST_PORT are both {grpc_port}: give them two different ports.")
        _check_free("GRPC_PORT", grpc_port)
        _check_free("REST_PORT", rest_port)
        _check_disk()
        _heading(1, "build the data set, train, evaluate, publish")
        _run("glyph-train", "run", "--recipe=deck", f"--data-dir={DATASET}", f"--models-dir={MODELS}")
        _run("glyph-train", "samples", f"--samples-dir={SAMPLES}", "--count=12")
        _heading(2, "serve the newest version")
        with _server(grpc_port, rest_port):
            _heading(3, "ask about pictures that no training has seen, over gRPC and over REST")
            pictures = [str(path) for path in sorted(SAMPLES.glob("*.png"))]
            for target in (f"localhost:{grpc_port}", f"http://localhost:{rest_port}"):
                _run("glyph", "predict", "--truth", f"--server={target}", *pictures)
            _heading(4, "ten seconds of load")
            _run("glyph-load", "run", f"localhost:{grpc_port}", "--time=10s")
    except DemoError as error:
        print(f"\ndemo: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted. All that it started has ended and no version is half-published.", file=sys.stderr)
        print("`make demo` begins again with what is already built.", file=sys.stderr)
        return 130
    _summary(time.monotonic() - started)
    return 0


def _summary(seconds: float) -> None:
    versions = sorted(int(path.name) for path in (MODELS / "digits").iterdir() if path.name.isdigit())
    version = MODELS / "digits" / str(versions[-1])
    print(f"""
Done in {seconds:.0f} s. What there is now:
  {DATASET}/  42,000 JPEG digits, label.index.jpg
  {version}/  the published SavedModel; assets.extra/MODEL_CARD.md tells what it is and how good
  {SAMPLES}/  the pictures asked about

What to try next:
  make serve                                    the same server, until Ctrl-C
  .venv/bin/glyph predict FILES...              ask it about your own pictures (in another terminal)
  .venv/bin/glyph-train versions --models-dir {MODELS}
  docker compose up --build                     all of it in containers, on the official TensorFlow Serving""")


def _heading(step: int, title: str) -> None:
    print(f"\n\033[1m[{step}/4] {title}\033[0m" if sys.stdout.isatty() else f"\n[{step}/4] {title}", flush=True)


def _port(variable: str, default: int) -> int:
    """The port that the environment names, or the default one."""
    text = os.environ.get(variable, str(default))
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) < 65536:
        raise DemoError(f"{variable}={text} is not a port: give a number from 1 to 65535.")
    return int(text)


def _check_free(variable: str, port: int) -> None:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        another = port + (1000 if port < 64536 else -1000)
        raise DemoError(
            f"port {port} cannot be used ({os.strerror(error.errno or 0)}). Stop what listens there, "
            f"or choose another one: make demo {variable}={another}"
        ) from error


def _check_disk() -> None:
    BUILD.mkdir(exist_ok=True)
    free, needed = shutil.disk_usage(BUILD).free, DISK_NEEDED_AGAIN if DATASET.exists() else DISK_NEEDED
    if free < needed:
        raise DemoError(
            f"{BUILD.resolve()} has {free / 2**20:.0f} MB of free space and the demo needs "
            f"{needed / 2**20:.0f} MB: make room and start again."
        )


def _run(command: str, *arguments: str) -> None:
    print(f"$ {command} {' '.join(arguments)}", flush=True)
    with _process(command, *arguments) as process:
        status = process.wait()
    if status != 0:
        raise DemoError(f"`{command} {arguments[0]}` ended with status {status}; its message stands above.")


@contextlib.contextmanager
def _process(command: str, *arguments: str, stdout: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start a command; whatever happens, it has ended when the block is left."""
    # Buffered output would show a step's progress only when the step is over.
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = None
    try:
        with _interruptions_held_back():
            process = subprocess.Popen(
                [str(BIN / command), *arguments],
                stdout=stdout,
                stderr=stdout and subprocess.STDOUT,
                text=True,
                env=environment,
            )
        yield process
    finally:
        if process:
            process.terminate()
            try:
                process.wait(STOPPED_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def _interruptions_held_back() -> Iterator[None]:
    """One that came while a process is being started would leave it without anybody who knows it, to end it."""
    held: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _frame: held.append(number)) for number in INTERRUPTIONS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if held:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _server(grpc_port: int, rest_port: int) -> Iterator[None]:
    """The embedded server, ready to answer; its log goes to SERVER_LOG."""
    flags = [
        "--address=127.0.0.1",
        f"--port={grpc_port}",
        f"--rest_api_port={rest_port}",
        "--model_name=digits",
        f"--model_base_path={(MODELS / 'digits').resolve()}",
        "--enable_batching",
        "--batching_parameters_file=serving/config/batching.config",
    ]
    print(f"$ glyph-serve {' '.join(flags)}", flush=True)
    answered = threading.Event()
    ready: list[str] = []

    with _process("glyph-serve", *flags, stdout=subprocess.PIPE) as process:

        def follow() -> None:
            with SERVER_LOG.open("w") as log:
                for line in process.stdout or ():
                    log.write(line)
                    log.flush()
                    if line.startswith("glyph-serve: ready"):
                        ready.append(line.strip())
                        answered.set()
            answered.set()

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        if not answered.wait(READY_WITHIN):
            raise DemoError(f"the server was not ready within {READY_WITHIN:.0f} s; its log is {SERVER_LOG}.")
        if not ready:
            sys.stderr.write(SERVER_LOG.read_text())
            raise DemoError(f"the server ended with status {process.wait()}; its log stands above and in {SERVER_LOG}.")
        print(ready[0], flush=True)
        yield
    follower.join(STOPPED_WITHIN)
    print("the server has stopped")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
