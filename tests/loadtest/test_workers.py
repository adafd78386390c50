"""Several processes share one load test."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Certificates
from tests.loadtest.conftest import KnownServer, running_server

_GLYPH_LOAD = [sys.executable, "-m", "glyph_loadtest.cli"]
_LOCUSTFILE = Path(__file__).parents[2] / "loadtest" / "glyph_loadtest" / "locustfile.py"
_LOCUST = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE)]

Process = subprocess.Popen[str]


def _await(process: Process, words: str) -> None:
    """Reads on until a line of the progress has these words."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if words in line:
            return
    pytest.fail(f"{words!r} was not said, but {''.join(said)}")


@dataclass(frozen=True)
class Runs:
    """What goes on side by side: a run that is left alone, two that have lost a worker, and a search."""

    whole: Process
    bereft: Process
    master: Process
    patient: Process
    search: Process


@pytest.fixture(scope="module")
def runs(
    plain_server: KnownServer,
    tls_server: KnownServer,
    certificates: Certificates,
    free_ports: Callable[[int], list[int]],
) -> Iterator[Runs]:
    with ExitStack() as stack:

        def start(*command: str) -> Process:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.terminate)
            return process

        def glyph_load(command: str, target: str, *load: str) -> Process:
            return start(*_GLYPH_LOAD, command, target, "--workers=2", "--json", *load)

        def master(workers: int, time: str, target: str) -> tuple[Process, list[Process]]:
            (port,) = free_ports(1)
            bound = ["--master", "--master-bind-host=127.0.0.1", f"--master-bind-port={port}", "--host", target]
            load = ["--headless", f"--expect-workers={workers}", "--users=4", "--spawn-rate=4", "--run-time", time]
            worker = [*_LOCUST, "--worker", f"--master-port={port}"]
            return start(*_LOCUST, *bound, *load), [start(*worker) for _ in range(workers)]

        limited = stack.enter_context(running_server("--rate=100"))
        objective = ["--p95=300ms", "--arrivals=constant", "--hold=1s", "--start=60", "--precision=100%"]
        bereft, workers = master(2, "8s", plain_server.rest)
        patient, _ = master(1, "2s", stack.enter_context(running_server("--delay=4")).grpc)
        running = Runs(
            bereft=glyph_load("run", plain_server.grpc, "--users=2", "--time=6s"),
            master=bereft,
            patient=patient,
            search=glyph_load("slo", limited.grpc, *objective, "--searches=1", "--expect=500"),
            whole=glyph_load(
                "run",
                tls_server.grpc,
                "--ca",
                str(certificates.authority),
                "--rate=100",
                "--arrivals=constant",
                "--time=1s",
            ),
        )
        _await(running.master, "Sending spawn jobs")
        workers[0].kill()
        _await(running.bereft, " warm-up")
        os.kill(_children(running.bereft)[0], signal.SIGKILL)
        yield running


def _children(process: Process) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_a_worker_that_dies_is_reported_and_its_share_is_lost(runs: Runs) -> None:
    children = _children(runs.bereft)
    out, err = runs.bereft.communicate(timeout=60)
    assert runs.bereft.returncode == 1, err
    (failure,) = (failure for failure in json.loads(out)["failures"] if failure["kind"] == "LOST WITH WORKER")
    assert failure["count"] > 0
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_stock_locusts_master_reports_a_worker_that_dies_too(runs: Runs) -> None:
    out, err = runs.master.communicate(timeout=60)
    assert runs.master.returncode == 1, err
    assert re.search(r"right answers +100.0% of", out)
    assert "1 of 2 workers died" in out


def test_stock_locusts_master_waits_for_what_is_on_its_way_at_the_end(runs: Runs) -> None:
    out, err = runs.patient.communicate(timeout=60)
    assert runs.patient.returncode == 0, err
    assert re.search(r"answered +4 in", out), out


def test_two_workers_send_exactly_what_is_due_together_and_lose_no_latency(runs: Runs) -> None:
    out, err = runs.whole.communicate(timeout=60)
    result = json.loads(out)
    assert result["generator"]["workers"] == 2, err
    assert (result.get("requests"), result.get("failed")) == (100, 0) or result["refused"]
    assert sum(sum(second["latency"]["counts"]) for second in result["measurement"]["seconds"]) == 200


def test_a_search_with_workers_finds_the_rate_of_a_limited_server_and_is_a_gate(runs: Runs) -> None:
    out, err = runs.search.communicate(timeout=60)
    assert runs.search.returncode in (1, 3), err  # 3: on a busy machine the generator may be the limit
    assert "500 requests a second were expected" in err
    assert 0 < json.loads(out)["requests_per_second"] < 150
