"""Several processes share one load test."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.loadtest.conftest import KnownServer, Outcome

GlyphLoad = Callable[..., Outcome]

_RUN = [sys.executable, "-m", "glyph_loadtest.cli", "run", "--workers", "2", "--json"]


@dataclass(frozen=True)
class Runs:
    """Two runs that go on side by side: one is left alone, one loses a worker."""

    whole: subprocess.Popen[str]
    bereft: subprocess.Popen[str]


@pytest.fixture(scope="module")
def runs(plain_server: KnownServer) -> Iterator[Runs]:
    def start(*load: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*_RUN, plain_server.grpc, *load], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    bereft = start("--users", "2", "--time", "4s")
    whole = start("--rate", "100", "--arrivals", "constant", "--time", "1s")
    yield Runs(whole, bereft)
    for process in (whole, bereft):
        process.terminate()
        process.communicate(timeout=60)


def test_a_worker_that_dies_is_reported(runs: Runs) -> None:
    process = runs.bereft
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(" warm-up"):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGKILL)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    (failure,) = (failure for failure in json.loads(out)["failures"] if failure["kind"] == "LOST WITH WORKER")
    assert failure["count"] > 0
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_two_workers_send_exactly_what_is_due_together(runs: Runs) -> None:
    result = json.loads(runs.whole.communicate(timeout=60)[0])
    assert result["generator"]["workers"] == 2
    assert (result.get("requests"), result.get("failed")) == (100, 0) or result["refused"]
    assert sum(sum(second["latency"]["counts"]) for second in result["measurement"]["seconds"]) == 200


@pytest.mark.parametrize("option", ["--workers", "--users"])
def test_there_is_at_least_one(glyph_load: GlyphLoad, option: str) -> None:
    done = glyph_load("run", "localhost:8500", option, "0")
    assert (done.code, "Received: '0'" in done.err) == (2, True)
