"""`glyph-load run`, and Locust's own command line, against a server with known behaviour."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.loadtest.conftest import KnownServer, Outcome, StartServer

GlyphLoad = Callable[..., Outcome]
_LOCUSTFILE = Path(__file__).parents[2] / "loadtest" / "glyph_loadtest" / "locustfile.py"
_SHORT = ["--time", "1s", "--warm-up", "0s", "--users", "4"]


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_run_prints_throughput_percentiles_accuracy_and_failures(
    plain_server: KnownServer, glyph_load: GlyphLoad, protocol: str
) -> None:
    done = glyph_load("run", plain_server.target(protocol), *_SHORT)
    assert done.code == 0
    for words in ("requests per second", "p50", "p95", "p99", "100.0% of", "failed"):
        assert words in done.out
    assert "1 s" in done.err


def test_figures_as_json_are_those_of_the_server(start_server: StartServer, glyph_load: GlyphLoad) -> None:
    server = start_server("--delay", "0.02", "--error-every", "5", "--wrong-every", "2")
    done = glyph_load("run", server.grpc, "--json", "--check-share", "1", *_SHORT, "--time", "2s")
    assert done.code == 1
    assert "requests failed" in done.err
    result = done.json
    assert result["failed"] / (result["requests"] + result["failed"]) == pytest.approx(0.2, abs=0.03)
    assert result["failures"][0]["kind"] == "RESOURCE_EXHAUSTED"
    assert result["accuracy"] == pytest.approx(0.5, abs=0.03)
    assert result["latency_ms"]["p50"] >= 20


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_wrong_model_name_is_said_before_any_load(
    plain_server: KnownServer, glyph_load: GlyphLoad, protocol: str
) -> None:
    done = glyph_load("run", plain_server.target(protocol), "--model", "letters")
    assert (done.code, done.out) == (2, "")
    assert "Latest(letters)" in done.err
    assert "Is --model letters its name?" in done.err


def test_an_unreachable_server_is_said_in_one_line(glyph_load: GlyphLoad) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        done = glyph_load("run", f"127.0.0.1:{unused.getsockname()[1]}")
    assert (done.code, done.out) == (2, "")
    assert "cannot connect" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["localhost:port"], ["localhost:1", "--time", "0.2s"], ["localhost:1", "--save", "/no/such/x"]]
)
def test_bad_arguments_are_refused(glyph_load: GlyphLoad, arguments: list[str]) -> None:
    done = glyph_load("run", *arguments)
    assert done.code == 2
    assert "glyph-load: error: " in done.err


def _run_until(line: str, act: Callable[[subprocess.Popen[str]], None], target: str, saved: Path) -> Outcome:
    """Runs for a minute at most, and acts when a line of the progress appears."""
    command = [sys.executable, "-m", "glyph_loadtest.cli", "run", target, "--warm-up", "0s", "--time", "60s"]
    with subprocess.Popen(
        [*command, "--save", str(saved)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for shown in process.stderr:
            if shown.startswith(line):
                act(process)
                break
        out, err = process.communicate(timeout=20)
    return Outcome(process.returncode, out, err)


def test_a_server_that_dies_half_way_leaves_what_was_measured(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("--delay", "0.005")
    done = _run_until("     1 s", lambda _: server.process.kill(), server.grpc, tmp_path / "run.json")
    assert done.code == 1
    assert "the server refused every connection for 3 s" in done.err
    saved = json.loads((tmp_path / "run.json").read_text())
    assert saved["requests"] > 0
    assert saved["failures"][0]["kind"] == "NO CONNECTION"


def test_an_interrupted_run_leaves_what_was_measured(plain_server: KnownServer, tmp_path: Path) -> None:
    interrupt = lambda process: process.send_signal(signal.SIGINT)  # noqa: E731
    done = _run_until("     1 s", interrupt, plain_server.grpc, tmp_path / "run.json")
    assert done.code == 130
    assert "requests per second" in done.out
    assert "interrupted; measured until then: 1 s" in done.err
    assert json.loads((tmp_path / "run.json").read_text())["requests"] > 0


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_stock_locust_runs_the_locustfile(plain_server: KnownServer, protocol: str) -> None:
    host = plain_server.target(protocol)
    command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless", "-u", "8", "-r", "8", "-t", "2s"]
    done = subprocess.run([*command, "--host", host], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "checked answers were right" in done.stderr
    assert "0(0.00%)" in done.stderr


def test_stock_locust_refuses_a_host_that_is_no_target() -> None:
    command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless", "-t", "2s", "--host", "ftp://x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "Received: 'ftp://x'" in done.stderr
