"""`glyph-load capacity`: the law is found again, and the uncertainty is honest."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from glyph_loadtest.channel import Address
from glyph_loadtest.measurement import Measurement
from glyph_loadtest.plan import Plan
from glyph_loadtest.result import Run
from glyph_loadtest.saved import as_dict
from glyph_loadtest.target import Target
from glyph_loadtest.usl import Law, Point, fit, plan_capacity

from tests.loadtest.conftest import Outcome

_LAW = Law(1000, contention=0.05, coherence=0.0005)
_USERS = np.array([1.0, 2, 4, 8, 16, 32, 64])


def _points(law: Law, noise: float = 0, seed: int = 0) -> list[Point]:
    chance = np.random.default_rng(seed)
    return [Point(n, law.throughput(n) * float(np.exp(noise * chance.standard_normal())), tail=2) for n in _USERS]


@pytest.mark.parametrize("law", [_LAW, Law(500, 0, 0), Law(500, 0.3, 0), Law(500, 0, 0.01)])
def test_the_law_behind_exact_measurements_is_found(law: Law) -> None:
    found = fit(_USERS, np.array([law.throughput(n) for n in _USERS]))
    assert (found.rate, found.contention, found.coherence) == pytest.approx((law.rate, law.contention, law.coherence))


def test_coefficients_are_never_negative() -> None:
    found = fit(_USERS, 100 * _USERS**1.2)  # faster than linear: no such law
    assert min(found.contention, found.coherence) >= 0


def test_throughput_is_highest_where_the_law_says() -> None:
    around = [_LAW.throughput(_LAW.best_concurrency + step) for step in (-1, 0, 1)]
    assert around[1] == max(around)


def test_replicas_are_what_the_rate_and_the_latency_need() -> None:
    capacity = plan_capacity(_points(_LAW), wanted=20_000, limit=0.01)
    # A p99 of 10 ms with a tail of twice the mean allows 5 ms on average.
    n = next(n / 100 for n in range(100, 6400) if _LAW.mean_latency(n / 100) > 0.005)
    assert capacity.replica.value == pytest.approx(_LAW.throughput(n), rel=0.01)
    assert capacity.replicas.value == math.ceil(20_000 / capacity.replica.value)


def test_noise_makes_the_intervals_wide_enough_to_hold_the_truth() -> None:
    truth = plan_capacity(_points(_LAW), wanted=20_000, limit=0.01).replica.value
    held = 0
    for seed in range(10):
        found = plan_capacity(_points(_LAW, noise=0.05, seed=seed), wanted=20_000, limit=0.01).replica
        held += found.low <= truth <= found.high
    assert held >= 8


def test_an_objective_that_one_request_alone_misses_has_no_answer() -> None:
    assert plan_capacity(_points(_LAW), wanted=10, limit=0.001).replicas.value == math.inf


def _saved_run(folder: Path, users: int, failed: int = 0) -> str:
    measurement = Measurement()
    for number in range(10):
        second = measurement.at(1_700_000_000 + number)
        second.finished = round(_LAW.throughput(users))
        for _ in range(100):
            second.latency.record(round(1e6 * _LAW.mean_latency(users)))
        second.failures = {"RESOURCE_EXHAUSTED": failed} if failed else {}
    target = Target(Address("localhost", 8500), rest=False)
    run = Run(target, Plan(users, seconds=10), 1_700_000_000, 1_700_000_010, measurement)
    (folder / f"{users}.json").write_text(json.dumps(as_dict(run)))
    return str(folder / f"{users}.json")


def test_the_command_plans_from_saved_runs(glyph_load: Callable[..., Outcome], tmp_path: Path) -> None:
    runs = [_saved_run(tmp_path, int(users)) for users in _USERS]
    done = glyph_load("capacity", *runs, "--rate", "20k", "--p99", "5ms", "--json")
    assert done.code == 0, done.err
    assert done.json["law"]["rate"] == pytest.approx(1000, rel=0.01)
    replicas = done.json["replicas"]
    assert 1 <= replicas["low"] <= replicas["value"] <= replicas["high"]
    done = glyph_load("capacity", *runs[:3], "--rate", "20k", "--p99", "5ms")
    assert (done.code, "Received: 3" in done.err) == (2, True)


def test_runs_with_failed_requests_say_nothing_of_capacity(glyph_load: Callable[..., Outcome], tmp_path: Path) -> None:
    runs = [_saved_run(tmp_path, int(users), failed=10 if users > 8 else 0) for users in _USERS]
    done = glyph_load("capacity", *runs, "--rate", "20k", "--p99", "5ms", "--json")
    assert done.code == 0, done.err
    assert [point["concurrency"] for point in done.json["points"]] == [1, 2, 4, 8]
    done = glyph_load("capacity", *runs[1:], "--rate", "20k", "--p99", "5ms")
    assert (done.code, "Received: 3" in done.err) == (2, True)
