"""The load test in its containers: a measurement, Locust with workers, a sweep over containers of the model server."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loadtest.conftest import read_until, swarm
from tests.stack.engine import compose, docker, inspect, output

GLYPH_LOAD = Path(sysconfig.get_path("scripts")) / "glyph-load"


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


def test_locusts_workers_send_and_its_master_misses_one_that_dies(locust: str) -> None:
    read_until(f"{locust}/stats/requests", r'(?s)("state": ?"ready".*){3}')  # both workers, and all together
    swarm(locust, "serving:8500")
    read_until(f"{locust}/glyph", "Latency histogram")
    one, _ = output("--profile=load", "ps", "--quiet", "locust-worker").split()
    docker("kill", one)
    page = read_until(f"{locust}/glyph", "1 of 2 workers died")
    assert "grpc://serving:8500" in page


def test_containers_of_the_image_are_swept(terminal: Any, tmp_path: Path) -> None:
    output("cp", "serving:/models", tmp_path)
    (serving,) = inspect("serving")
    grid = ["--grid", "max_batch_size=64", "--rates", "20", "--time", "1s", "--p99", "5s"]
    written = tmp_path / "batching.config"
    image = ["--image", serving["Config"]["Image"], "--models", tmp_path / "models"]
    done = subprocess.run(
        [GLYPH_LOAD, "sweep", *image, *grid, "--output", written], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "max_batch_size { value: 64 }" in written.read_text()
