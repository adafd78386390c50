"""`glyph-load run`, and Locust's own command line, against a server with known behaviour."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.loadtest.conftest import KnownServer, Outcome, StartServer, read_until, swarm

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
    "arguments",
    [
        ["localhost:port"],
        ["localhost:1", "--time", "0.2s"],
        ["localhost:1", "--save", "/no/such/x"],
    ],
)
def test_bad_arguments_are_refused(glyph_load: GlyphLoad, arguments: list[str]) -> None:
    done = glyph_load("run", *arguments)
    assert done.code == 2
    assert "glyph-load: error: " in done.err


@pytest.mark.parametrize(("option", "value"), [("--workers", "0"), ("--users", "0"), ("--ca", __file__)])
def test_an_option_that_makes_no_sense_is_refused(glyph_load: GlyphLoad, option: str, value: str) -> None:
    done = glyph_load("run", "localhost:8500", option, value)
    assert (done.code, f"Received: {value!r}" in done.err) == (2, True)


def test_figures_that_the_generator_limited_are_refused(start_server: StartServer, glyph_load: GlyphLoad) -> None:
    load = ["--rate", "100k", "--time", "1s", "--warm-up", "0s", "--request-timeout", "0.5s"]
    done = glyph_load("run", start_server().grpc, *load)
    assert (done.code, done.out) == (3, ""), done.err
    assert "the generator was the limit" in done.err
    assert "--workers 2" in done.err


def _run_until(line: str, act: Callable[[subprocess.Popen[str]], None], *arguments: str) -> Outcome:
    """Runs a command that would last, and acts when a line of the progress appears."""
    with subprocess.Popen(
        [sys.executable, "-m", "glyph_loadtest.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for shown in process.stderr:
            if line in shown:
                act(process)
                break
        out, err = process.communicate(timeout=20)
    return Outcome(process.returncode, out, err)


def _interrupt(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)


def test_a_server_that_dies_half_way_leaves_what_was_measured(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("--delay", "0.005")
    saved_as = ["--time", "60s", "--save", str(tmp_path / "run.json")]
    done = _run_until("     1 s", lambda _: server.process.kill(), "run", server.grpc, *saved_as)
    assert done.code == 1
    assert "the server refused every connection for 3 s" in done.err
    saved = json.loads((tmp_path / "run.json").read_text())
    assert saved["requests"] > 0
    assert saved["failures"][0]["kind"] == "NO CONNECTION"


def test_an_interrupted_run_leaves_what_was_measured(plain_server: KnownServer, tmp_path: Path) -> None:
    saved_as = ["--warm-up", "0s", "--time", "60s", "--save", str(tmp_path / "run.json")]
    done = _run_until("     1 s", _interrupt, "run", plain_server.grpc, *saved_as)
    assert done.code == 130
    assert "requests per second" in done.out
    assert "interrupted; measured until then: 1 s" in done.err
    assert json.loads((tmp_path / "run.json").read_text())["requests"] > 0


@pytest.mark.parametrize(
    ("first", "arguments", "part"),
    [
        ("   1 users", ["capacity", "--time", "1s", "--rate", "10", "--p99", "1s"], "points"),
        ("p99", ["slo", "--hold", "1s", "--start", "10", "--p99", "1s"], "trials"),
    ],
    ids=["capacity", "slo"],
)
def test_interrupted_steps_leave_what_was_measured(
    plain_server: KnownServer, tmp_path: Path, first: str, arguments: list[str], part: str
) -> None:
    command, *load = arguments
    saved_as = ["--save", str(tmp_path / "saved.json")]
    done = _run_until(first, _interrupt, command, plain_server.grpc, *load, *saved_as)
    assert done.code == 130
    assert "interrupted" in done.err
    assert len(json.loads((tmp_path / "saved.json").read_text())[part]) >= 1


def test_stock_locust_runs_the_locustfile(plain_server: KnownServer) -> None:
    command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless", "-u", "8", "-r", "8", "-t", "2s"]
    done = subprocess.run(
        [*command, "--host", plain_server.grpc], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"right answers +100.0% of", done.stdout)
    assert "0(0.00%)" in done.stderr


def test_stock_locust_refuses_a_host_that_is_no_target() -> None:
    command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless", "-t", "2s", "--host", "ftp://x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "Received: 'ftp://x'" in done.stderr


def test_locusts_web_page_refuses_such_a_host_and_shows_the_figures_of_another(
    plain_server: KnownServer, free_ports: Callable[[int], list[int]]
) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--web-host=127.0.0.1", f"--web-port={port}"]
    page = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            read_until(f"{page}/glyph", "Nothing has been measured")
            swarm(page, "ftp://x")
            read_until(f"{page}/stats/requests", '"state": ?"stopped"')
            swarm(page, plain_server.grpc)
            assert plain_server.grpc in read_until(f"{page}/glyph", "Latency histogram")
        finally:
            process.terminate()
            _, err = process.communicate(timeout=30)
    assert "Received: 'ftp://x'" in err
