"""`glyph-load run`, and Locust's own command line, against a server with known behaviour."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Certificates
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
    ("arguments", "words"),
    [
        (["localhost:port"], "the port of a target is a number up to 65535. Received: 'localhost:port'"),
        (["localhost:1", "--time", "0.2s"], "--time is at least 1s. Received: 0.2s"),
        (["localhost:1", "--save", "/no/such/x"], "--save: there is no folder /no/such"),
        (["localhost:1", "--save", "/"], "--save takes the name of a file. Received the folder /"),
    ],
)
def test_bad_arguments_are_refused(glyph_load: GlyphLoad, arguments: list[str], words: str) -> None:
    done = glyph_load("run", *arguments)
    assert (done.code, done.err) == (2, f"glyph-load: error: {words}\n")


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_api_key_of_the_environment_is_sent(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    server = start_server("--api-key", "c2VjcmV0")
    command = [sys.executable, "-m", "glyph_loadtest.cli", "run", server.target(protocol), *_SHORT]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (refused.returncode, "who asks?" in refused.stderr) == (2, True)
    monkeypatch.setenv("GLYPH_API_KEY", "c2VjcmV0")
    for workers in ("1", "2"):
        subprocess.run([*command, "--workers", workers], capture_output=True, timeout=60, check=True)
    monkeypatch.setenv("GLYPH_API_KEY", "c2Vj\ncmV0")
    refused = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (refused.returncode, "an API key is made of visible ASCII characters" in refused.stderr) == (2, True)
    assert "c2Vj" not in refused.stderr


def test_a_result_that_cannot_be_saved_is_printed_all_the_same(plain_server: KnownServer, tmp_path: Path) -> None:
    save = tmp_path / "run.json"
    done = _run_until("warm-up", lambda _: save.mkdir(), "run", plain_server.grpc, "--time", "1s", "--save", str(save))
    assert done.code == 2
    assert "requests per second" in done.out
    assert f"{save} cannot be written" in done.err
    assert list(tmp_path.iterdir()) == [save]


def test_what_is_no_file_is_written_as_it_is(plain_server: KnownServer, glyph_load: GlyphLoad, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        read = pool.submit(pipe.read_text)
        assert glyph_load("run", plain_server.grpc, "--save", str(pipe), *_SHORT).code == 0
        assert json.loads(read.result(timeout=10))["requests"] > 0
    assert pipe.is_fifo()


@pytest.mark.parametrize(("least", "code"), [("40%", 0), ("60%", 1)])
def test_too_few_right_answers_can_be_a_failure(
    start_server: StartServer, glyph_load: GlyphLoad, least: str, code: int
) -> None:
    server = start_server("--wrong-every", "2")
    done = glyph_load("run", server.grpc, "--check-share", "1", "--min-accuracy", least, *_SHORT)
    assert (done.code, "60.0% of the checked answers were expected" in done.err) == (code, code == 1)


def test_answers_that_nobody_checked_are_not_right(plain_server: KnownServer, glyph_load: GlyphLoad) -> None:
    # The first answer is always checked: that one may come in the warm-up.
    load = ["--check-share", "0", "--min-accuracy", "1%", "--time", "1s", "--warm-up", "1s"]
    assert glyph_load("run", plain_server.grpc, *load).code == 1


@pytest.mark.parametrize(("option", "value"), [("--workers", "0"), ("--users", "0"), ("--ca", __file__)])
def test_an_option_that_makes_no_sense_is_refused(glyph_load: GlyphLoad, option: str, value: str) -> None:
    done = glyph_load("run", "localhost:8500", option, value)
    assert (done.code, f"Received: {value!r}" in done.err) == (2, True)


def test_the_certificates_of_the_environment_are_trusted(
    tls_server: KnownServer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLYPH_CA", str(certificates.authority))
    command = [sys.executable, "-m", "glyph_loadtest.cli", "run", tls_server.grpc, *_SHORT]
    subprocess.run(command, capture_output=True, timeout=60, check=True)


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


def test_an_interrupt_before_the_first_trial_ends_a_search(plain_server: KnownServer) -> None:
    done = _run_until("every rate is held", _interrupt, "slo", plain_server.grpc, "--hold", "1s", "--p99", "1s")
    assert (done.code, done.out) == (130, "")
    assert done.err == "glyph-load: interrupted\n"


def test_an_interrupt_in_the_first_trial_claims_nothing(start_server: StartServer) -> None:
    server = start_server()
    held = ["--start", "10", "--hold", "60s", "--p99", "1s"]
    done = _run_until("every rate is held", _interrupt, "slo", server.grpc, *held)
    assert (done.code, done.out) == (130, "")


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


def test_locusts_web_page_refuses_such_a_host_and_shows_the_figures_of_the_one_that_is_asked(
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
            swarm(page, "ftp://x")  # into the running test
            with urllib.request.urlopen(f"{page}/glyph", timeout=10) as answer:  # noqa: S310
                assert plain_server.grpc in str(answer.read(), "utf-8")
        finally:
            process.terminate()
            _, err = process.communicate(timeout=30)
    assert "Received: 'ftp://x'" in err
