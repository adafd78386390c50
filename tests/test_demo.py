"""What `make demo` does when it cannot go on, or must not."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def build(clone: Path, dataset_dir: Path) -> Path:
    """The demo's output folder; the tests here run before anything has been published, or after: both must do."""
    folder = clone / "build"
    folder.mkdir(exist_ok=True)
    if not (folder / "dataset").exists():
        (folder / "dataset").symlink_to(dataset_dir)
    return folder


def versions(build: Path) -> set[str]:
    digits = build / "models/digits"
    return {path.name for path in digits.iterdir() if path.name.isdigit()} if digits.exists() else set()


def processes_of(clone: Path) -> list[str]:
    """The command lines of all processes that were started from this clone's virtual environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if entry.name.isdigit() and str(clone) in command:
            found.append(command)
    return found


def test_a_port_that_is_taken_is_named_before_anything_is_built(clone: Path, clean_environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            ["make", "demo"],
            cwd=clone,
            env=clean_environment | {"REST_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode != 0
    assert f"demo: error: port {port} cannot be used (Address already in use)" in done.stderr
    assert f"make demo REST_PORT={port + 1000}" in done.stderr
    assert "[1/4]" not in done.stdout


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        ({"GRPC_PORT": "http"}, "GRPC_PORT=http is not a port: give a number from 1 to 65535."),
        ({"REST_PORT": "²"}, "REST_PORT=² is not a port: give a number from 1 to 65535."),
        ({"GRPC_PORT": "18500", "REST_PORT": "18500"}, "GRPC_PORT and REST_PORT are both 18500: give them two"),
    ],
)
def test_ports_that_are_none_are_named(
    ports: dict[str, str], message: str, clone: Path, clean_environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "demo.py"],
        cwd=clone,
        env=clean_environment | ports,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.strip().startswith(f"demo: error: {message}")


def test_too_little_disk_space_is_told_before_anything_is_built(clone: Path, clean_environment: dict[str, str]) -> None:
    """A file system of 10 MB of its own, in a mount namespace of its own."""
    script = 'mkdir -p build && mount -t tmpfs -o size=10m tmpfs build && exec "$0" demo.py'
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "bash", "-c", script, clone / ".venv/bin/python"],
        cwd=clone,
        env=clean_environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert "has 10 MB of free space and the demo needs 500 MB: make room and start again" in done.stderr


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGTERM, "[1/4]"), (signal.SIGINT, "Training deck")],
    ids=["SIGTERM while it begins", "Ctrl-C while it trains"],
)
def test_an_interruption_leaves_no_process_and_nothing_half_published(
    moment: str,
    number: signal.Signals,
    clone: Path,
    build: Path,
    free_ports: Callable[[int], list[int]],
    start: Callable[..., AbstractContextManager[Any]],
    clean_environment: dict[str, str],
) -> None:
    grpc, rest = free_ports(2)
    environment = clean_environment | {"GRPC_PORT": str(grpc), "REST_PORT": str(rest)}
    before = versions(build)
    with start([clone / ".venv/bin/python", "demo.py"], cwd=clone, env=environment) as demo:
        demo.wait_for(moment)
        assert demo.end(number) == 130
        assert "demo: interrupted" in demo.log
        assert "Traceback" not in demo.log
    assert processes_of(clone) == []
    assert versions(build) == before


@pytest.mark.parametrize("moment", ["it is being started", "it waits for a version"])
def test_an_interruption_while_the_server_starts_leaves_no_process(
    moment: str,
    clone: Path,
    build: Path,
    free_ports: Callable[[int], list[int]],
    start: Callable[..., AbstractContextManager[Any]],
    clean_environment: dict[str, str],
) -> None:
    """The demo with a training that publishes nothing: its server finds no version and waits for one."""
    grpc, rest = free_ports(2)
    environment = clean_environment | {"GRPC_PORT": str(grpc), "REST_PORT": str(rest), "PYTHONUNBUFFERED": "1"}
    script = "import demo, sys; demo._run = lambda *command: None; sys.exit(demo.main())"
    log = build / "server.log"
    log.unlink(missing_ok=True)
    with start([clone / ".venv/bin/python", "-c", script], cwd=clone, env=environment) as running:
        running.wait_for("$ glyph-serve")
        while moment == "it waits for a version" and not (log.exists() and log.stat().st_size):
            assert running.process.poll() is None, running.log
            time.sleep(0.1)
        assert running.end(signal.SIGINT) == 130
        assert "demo: interrupted" in running.log
        assert "Traceback" not in running.log
    assert processes_of(clone) == []
