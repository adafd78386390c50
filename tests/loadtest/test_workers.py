"""Several processes share one load test."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.loadtest.conftest import KnownServer, Outcome

GlyphLoad = Callable[..., Outcome]


def test_two_workers_send_exactly_what_is_due_together(plain_server: KnownServer, glyph_load: GlyphLoad) -> None:
    load = ["--workers", "2", "--rate", "100", "--arrivals", "constant", "--time", "1s"]
    result = glyph_load("run", plain_server.grpc, *load, "--json").json
    assert result["generator"]["workers"] == 2
    assert (result.get("requests"), result.get("failed")) == (100, 0) or result["refused"]
    assert sum(sum(second["latency"]["counts"]) for second in result["measurement"]["seconds"]) == 200


def test_a_worker_that_dies_is_reported(plain_server: KnownServer) -> None:
    command = [sys.executable, "-m", "glyph_loadtest.cli", "run", plain_server.grpc, "--json"]
    command += ["--workers", "2", "--users", "2", "--time", "4s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(" warm-up"):
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                os.kill(int(children[0]), signal.SIGKILL)
                break
        out, err = process.communicate(timeout=40)
    assert process.returncode == 1, err
    (failure,) = (failure for failure in json.loads(out)["failures"] if failure["kind"] == "LOST WITH WORKER")
    assert failure["count"] > 0
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.parametrize("option", ["--workers", "--users"])
def test_there_is_at_least_one(glyph_load: GlyphLoad, option: str) -> None:
    done = glyph_load("run", "localhost:8500", option, "0")
    assert (done.code, "Received: '0'" in done.err) == (2, True)
