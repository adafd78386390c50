"""What a run comes to."""

import json
from dataclasses import replace

import pytest
from glyph_loadtest.arrival import Arrivals
from glyph_loadtest.channel import TOO_MANY_FILES, Address
from glyph_loadtest.measurement import Measurement, Second
from glyph_loadtest.metrics import ServerSide
from glyph_loadtest.plan import Plan
from glyph_loadtest.result import LOST_WITH_WORKER, Run, summarise
from glyph_loadtest.saved import as_dict, from_dict
from glyph_loadtest.target import Target

_FIRST = 1_700_000_000
_TARGET = Target(Address("localhost", 8500), rest=False)
_OPEN = Plan(100, seconds=10, arrivals=Arrivals.POISSON)


def _measurement(seconds: range, requests: int, worker: str = "a", cpu: float = 0.1, lag: int = 50) -> Measurement:
    measurement = Measurement()
    for number in seconds:
        second = measurement.at(_FIRST + number)
        for _ in range(requests):
            second.latency.record(10_000)
            second.lag.record(lag)
        second.finished = requests
        second.cpu[worker] = cpu
    return measurement


def _run(measurement: Measurement, plan: Plan = _OPEN, workers: int = 1) -> Run:
    return Run(_TARGET, plan, _FIRST, _FIRST + 10, measurement, workers)


def test_the_warm_up_does_not_count() -> None:
    assert summarise(_run(_measurement(range(-5, 10), 100))).requests == 1000


def test_seconds_of_several_workers_add_up() -> None:
    measurement = _measurement(range(10), 50, "a")
    measurement.merge(Measurement.from_dict(_measurement(range(10), 25, "b").as_dict()))
    summary = summarise(_run(measurement, workers=2))
    assert (summary.rate, summary.requests, summary.failed) == (75, 750, 0)


def test_a_late_answer_counts_for_the_second_it_was_due_in_and_the_throughput_of_when_it_came() -> None:
    measurement = _measurement(range(10), 100)
    measurement.at(_FIRST + 9).latency.record(5_000_000)
    measurement.at(_FIRST + 14).finished += 1
    summary = summarise(_run(measurement))
    assert (summary.requests, summary.rate, summary.largest) == (1001, 100, 5000)


def test_the_share_of_a_worker_that_fell_silent_is_lost_and_not_hidden() -> None:
    measurement = _measurement(range(10), 50, "a")
    measurement.merge(_measurement(range(4), 50, "b"))
    (failure,) = summarise(_run(measurement, workers=2)).failures
    assert (failure.kind, failure.count) == (LOST_WITH_WORKER, 300)


def test_a_worker_that_never_came_is_lost_too() -> None:
    (failure,) = summarise(_run(_measurement(range(10), 50), workers=2)).failures
    assert (failure.kind, failure.count) == (LOST_WITH_WORKER, 500)


@pytest.mark.parametrize("reported", [{}, {"a": 0.1}])
def test_a_worker_that_has_not_reported_in_the_first_seconds_is_not_lost(reported: dict[str, float]) -> None:
    measurement = _measurement(range(2), 50)
    for second in measurement.seconds.values():
        second.cpu = reported
    run = Run(_TARGET, _OPEN, _FIRST, _FIRST + 2, measurement, workers=2)
    assert summarise(run).failures == ()


@pytest.mark.parametrize(
    ("measurement", "reason"),
    [
        (_measurement(range(10), 100, cpu=0.99), "used 99% of a core"),
        (_measurement(range(10), 100, lag=4000), "4.0 ms late"),
    ],
)
def test_figures_that_the_generator_limited_are_refused(measurement: Measurement, reason: str) -> None:
    result = as_dict(_run(measurement))
    assert reason in result["refused"]
    assert "--workers 2" in result["refused"]
    assert "requests_per_second" not in result


def test_so_are_those_of_a_generator_that_could_not_connect() -> None:
    measurement = _measurement(range(10), 100)
    measurement.at(_FIRST + 3).failures[TOO_MANY_FILES] = 1
    assert "ulimit -n" in (summarise(_run(measurement)).refused or "")


def test_the_form_for_files_loses_nothing() -> None:
    measurement = _measurement(range(-1, 10), 10)
    measurement.at(_FIRST).merge(Second(failures={"NOT_FOUND": 2}, checked=3, correct=1))
    measurement.examples["NOT_FOUND"] = "no such model"
    server = ServerSide(600, 1.5, 1.1, 0.2, 7.5, {1.0: 20, 8.0: 500, float("inf"): 2})
    run = replace(_run(measurement), server=server)
    assert from_dict(json.loads(json.dumps(as_dict(run), allow_nan=False))) == run
