"""The stack in a real Docker Engine, as somebody meets it who types the README's command. Run by `tests/stack/run`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.loadtest.conftest import read_until, swarm

REPOSITORY = Path(__file__).resolve().parents[2]
GLYPH, GLYPH_LOAD = (Path(sysconfig.get_path("scripts")) / name for name in ("glyph", "glyph-load"))
SAMPLES = sorted((REPOSITORY / "client/samples").glob("*.png"))

COMMAND = "docker compose up --build"
# Compose as a program of its own: the Docker command line passes no signals on to its plugins.
COMPOSE = os.environ.get("COMPOSE", "docker-compose")
UP_WITHIN = 1200.0  # seconds, with all that has to be downloaded and built on a new machine

pytestmark = pytest.mark.timeout(UP_WITHIN + 60)


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


def inspect(service: str) -> Any:
    """What the engine says about the container of a service."""
    container = output("ps", "--all", "--quiet", service)
    done = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)[0]


def in_serving(*command: str) -> subprocess.CompletedProcess[str]:
    return compose("exec", "--no-TTY", "serving", *command)


@pytest.fixture(scope="module")
def terminal(start: Callable[..., AbstractContextManager[Any]]) -> Iterator[Any]:
    """The terminal in which the command was typed, from the moment when the client has done its work."""
    with start([COMPOSE, "--ansi=never", *COMMAND.split()[2:]], cwd=REPOSITORY) as running:
        running.wait_for("client-1 exited with code", timeout=UP_WITHIN)
        yield running


@pytest.fixture(scope="module")
def ports(terminal: Any) -> dict[str, str]:
    """Where the two protocols are published on this machine: address and port."""
    return {"grpc": output("port", "serving", 8500), "rest": output("port", "serving", 8501)}


def test_the_client_asks_about_every_sample_over_both_protocols(terminal: Any) -> None:
    assert len(SAMPLES) >= 12
    assert inspect("client")["State"]["ExitCode"] == 0
    table = output("logs", "--no-log-prefix", "client").splitlines()
    for sample in SAMPLES:
        over_grpc, over_rest = (line for line in table if sample.name in line)
        assert over_grpc == over_rest


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_this_machine_is_answered_through_the_published_port(ports: dict[str, str], protocol: str) -> None:
    server = {"grpc": "grpc://", "rest": "http://"}[protocol] + ports[protocol]
    done = subprocess.run(
        [GLYPH, "predict", "--json", f"--server={server}", *SAMPLES], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r'"label": ?"\d"', done.stdout)) >= len(SAMPLES)


def test_the_ports_are_published_to_this_machine_alone(ports: dict[str, str]) -> None:
    assert all(address.startswith("127.0.0.1:") for address in ports.values())


def test_serving_is_healthy_and_serves_version_1(terminal: Any) -> None:
    assert inspect("serving")["State"]["Health"]["Status"] == "healthy"
    assert output("exec", "--no-TTY", "serving", "ls", "/models/digits") == "1"


def test_what_the_trainer_published_belongs_to_no_root(terminal: Any) -> None:
    assert inspect("trainer")["State"]["ExitCode"] == 0
    assert output("exec", "--no-TTY", "serving", "stat", "--format=%u", "/models/digits/1/saved_model.pb") == "10001"


def test_serving_is_not_root_and_has_no_capabilities(terminal: Any) -> None:
    status = output("exec", "--no-TTY", "serving", "cat", "/proc/1/status")
    for line in ("Uid:\t10001\t10001", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"):
        assert line in status


@pytest.mark.parametrize("path", ["/models/digits/new", "/config/new", "/new"])
def test_serving_cannot_write(terminal: Any, path: str) -> None:
    done = in_serving("touch", path)
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr


def test_a_second_up_publishes_nothing_and_restarts_nothing(terminal: Any) -> None:
    before = inspect("serving")["State"]["StartedAt"]
    output("up", "--detach", "--wait", "serving")
    assert output("exec", "--no-TTY", "serving", "ls", "/models/digits") == "1"
    assert inspect("serving")["State"]["StartedAt"] == before


@pytest.mark.parametrize("target", ["serving:8500", "http://serving:8501"])
def test_load_is_answered_without_a_failure(terminal: Any, target: str) -> None:
    done = compose("run", "--rm", "--build", "loadtest", environment=os.environ | {"LOAD_TARGET": target})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def locust(terminal: Any) -> Iterator[str]:
    """Locust's web page, with a master and two workers behind it."""
    services = ["locust", "locust-worker"]
    output("--profile=load", "up", "--detach", "--build", "--scale=locust-worker=2", *services)
    yield "http://" + output("--profile=load", "port", "locust", 8089)
    output("--profile=load", "rm", "--stop", "--force", *services)


def test_locusts_workers_send_and_its_master_misses_one_that_dies(terminal: Any, locust: str) -> None:
    read_until(f"{locust}/stats/requests", r'(?s)("state": ?"ready".*){3}')  # both workers, and all together
    swarm(locust, "serving:8500")
    read_until(f"{locust}/glyph", "Latency histogram")
    one, _ = output("--profile=load", "ps", "--quiet", "locust-worker").split()
    subprocess.run(["docker", "kill", one], check=True, capture_output=True)
    page = read_until(f"{locust}/glyph", "LOST WITH WORKER")
    assert "1 of 2 workers died" in page
    assert "grpc://serving:8500" in page


def test_containers_of_the_image_are_swept(terminal: Any, tmp_path: Path) -> None:
    output("cp", "serving:/models", tmp_path)
    image = inspect("serving")["Config"]["Image"]
    grid = ["--grid", "max_batch_size=64", "--rates", "5", "--time", "1s", "--p99", "5s"]
    written = tmp_path / "batching.config"
    done = subprocess.run(
        [GLYPH_LOAD, "sweep", "--image", image, "--models", tmp_path / "models", *grid, "--output", written],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "max_batch_size { value: 64 }" in written.read_text()


def test_ctrl_c_stops_the_stack_in_order(terminal: Any) -> None:
    """In order: serving ends on SIGTERM by itself and is not killed after the grace period (status 137)."""
    terminal.end(signal.SIGINT)
    assert output("ps", "--quiet") == ""
    assert inspect("serving")["State"]["ExitCode"] in (0, 143)


def test_the_example_settings_are_the_defaults() -> None:
    used = set(re.findall(r"\$\{(\w+)", (REPOSITORY / "docker-compose.yml").read_text()))
    explained = set(re.findall(r"^(\w+)=", (REPOSITORY / ".env.example").read_text(), re.M))
    assert used == explained

    plain = {name: value for name, value in os.environ.items() if name not in used}
    with_example, without = (
        compose("--profile=*", "config", environment=plain | {"COMPOSE_ENV_FILES": file})
        for file in (".env.example", os.devnull)
    )
    assert with_example.returncode == 0, with_example.stderr
    assert with_example.stdout == without.stdout
