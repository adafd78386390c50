"""The figures are right: measured against a server whose behaviour is known, to 2 % or a millisecond.

Other work on the machine puts single runs off all the same: delays are long enough for 2 % to be milliseconds, and a
run may be repeated. A generator that measures wrongly is wrong each time.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.loadtest.conftest import running_server

pytestmark = pytest.mark.alone

_GLYPH_LOAD = [sys.executable, "-m", "glyph_loadtest.cli"]
_DELAY, _STALL, _EVERY = 0.25, 0.5, 5.0
_SECONDS = 3
_WHOLE_STALL = ["--time", f"{_EVERY:g}s"]  # holds one, whenever it begins
_EVENLY = ["--rate", "100", "--arrivals", "constant"]
_ATTEMPTS = 5
_MILLISECOND = 1.0

Pairs = list[tuple[float, float]]
"""Of what was measured, and what it has to be."""


def _run(program: str, behaviour: list[str], scheme: str, load: list[str]) -> Any:
    """The result of a load on a server that is told how to behave."""
    environment = dict(os.environ, GEVENT_BACKEND="select")  # epoll's timers are a millisecond wide
    serve = [sys.executable, str(Path(__file__).parent / program), *behaviour]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            target = f"{scheme}://127.0.0.1:{server.stdout.readline().split()[0]}"
            command = [*_GLYPH_LOAD, "run", target, "--time", f"{_SECONDS}s", *load, "--json", "--check-share", "0"]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
        finally:
            server.kill()
    return json.loads(done.stdout)


def _check(measure: Callable[[], Any], pairs: Callable[[Any], Pairs]) -> None:
    """One of the attempts is right within 2 % or a millisecond."""
    off: list[Any] = []
    for _ in range(_ATTEMPTS):
        result = measure()
        wrong = [(got, wanted) for got, wanted in pairs(result) if abs(got - wanted) > max(0.02 * wanted, _MILLISECOND)]
        if not wrong and not result["refused"]:
            return
        off.append(result["refused"] or wrong)
    pytest.fail(f"measured, expected: {off}")


def test_a_fixed_delay_is_the_latency() -> None:
    def pairs(result: Any) -> Pairs:
        return [(result["latency_ms"][name], 1000 * _DELAY) for name in ("p50", "p90", "p95", "mean")]

    _check(lambda: _run("punctual_server.py", ["--delay", str(_DELAY)], "http", _EVENLY), pairs)


def test_a_known_share_of_errors_is_counted_and_leaves_the_latencies_alone() -> None:
    def pairs(result: Any) -> Pairs:
        all_requests = result["failed"] + result["requests"]
        assert [failure["kind"] for failure in result["failures"]] == ["RESOURCE_EXHAUSTED"]
        return [
            (1000 * result["failed"] / all_requests, 100),
            (result["latency_ms"]["p50"], 1000 * _DELAY),
            (all_requests, 100 * _SECONDS),
        ]

    _check(lambda: _run("known_server.py", ["--delay", str(_DELAY), "--error-every", "10"], "grpc", _EVENLY), pairs)


def test_an_open_loop_sees_every_percentile_of_a_stall() -> None:
    """A tenth of the requests falls into the stalls, and waits for their end: evenly from 0 to 500 ms."""

    def pairs(result: Any) -> Pairs:
        latency = result["latency_ms"]
        waits = {percent: (percent - 90) / 10 * _STALL for percent in (95, 99, 99.9)}
        expected = {f"p{percent:g}": 1000 * (_DELAY + wait) for percent, wait in waits.items()}
        expected |= {"p50": 1000 * _DELAY, "mean": 1000 * (_DELAY + _STALL / _EVERY * _STALL / 2)}
        return [(latency[name], value) for name, value in expected.items()] + [(result["requests_per_second"], 100)]

    behaviour = [f"--delay={_DELAY}", f"--stall={_STALL}", f"--stall-every={_EVERY}"]
    _check(lambda: _run("punctual_server.py", behaviour, "http", [*_EVENLY, *_WHOLE_STALL]), pairs)


def test_a_closed_loop_hides_it() -> None:
    """Two users meet the stall once each, and ask nothing while they wait: it vanishes from p95."""
    delay = 0.1  # each user is answered some 45 times

    def pairs(result: Any) -> Pairs:
        latency = result["latency_ms"]
        return [(latency["p50"], 1000 * delay), (100 * float(latency["p95"] > 1500 * delay), 0.0)]

    behaviour = [f"--delay={delay}", f"--stall={_STALL}", f"--stall-every={_EVERY}"]
    _check(lambda: _run("punctual_server.py", behaviour, "http", ["--users", "2", *_WHOLE_STALL]), pairs)


def test_a_servers_highest_rate_is_what_is_measured() -> None:
    def pairs(result: Any) -> Pairs:
        return [(result["requests_per_second"], 150), (result["latency_ms"]["mean"], 1000 * 30 / 150)]

    _check(lambda: _run("punctual_server.py", ["--rate", "150"], "http", ["--users", "30"]), pairs)


def test_the_capacity_is_the_highest_rate_of_the_server() -> None:
    """Fitted, not measured: no law has the sharp knee of a server that takes 50 ms and no more than 200 a second."""
    with running_server("--delay=0.05", "--rate=200") as server:
        command = [*_GLYPH_LOAD, "capacity", server.rest, "--rate=1000", "--p99=1s", "--time=1s", "--json"]
        for _ in range(_ATTEMPTS):
            capacity = json.loads(subprocess.run(command, stdout=subprocess.PIPE, timeout=60).stdout)
            if capacity["peak"]["value"] == pytest.approx(200, rel=0.2):
                break
    assert capacity["peak"]["value"] == pytest.approx(200, rel=0.2)
    assert capacity["replicas"]["low"] <= 1000 / 200 <= capacity["replicas"]["high"] + 1
    assert len(capacity["points"]) == 7
