"""`glyph-load slo`: the search, against servers that are only arithmetic; test_workers.py has the command."""

import itertools
from collections.abc import Callable

import pytest
from glyph_loadtest.arrival import Arrivals
from glyph_loadtest.channel import Address
from glyph_loadtest.measurement import Measurement
from glyph_loadtest.plan import Plan
from glyph_loadtest.result import Run
from glyph_loadtest.slo import Answer, Objective, Trial, search
from glyph_loadtest.target import Target

from tests.loadtest.conftest import Outcome

_OBJECTIVE = Objective({99.0: 10.0}, errors=0.001)


def _hold(rate: float, milliseconds: float = 5, errors: float = 0.0, cpu: float = 0.5, answered: float = 1) -> Run:
    measurement = Measurement()
    second = measurement.at(1000)
    second.finished = round(rate * answered)
    second.latency.record(round(milliseconds * 1000))
    second.latency.counts = dict.fromkeys(second.latency.counts, round(rate))
    second.failures = {"UNAVAILABLE": round(rate * errors)} if errors else {}
    second.cpu["local"] = cpu
    plan = Plan(rate, seconds=1, arrivals=Arrivals.POISSON)
    return Run(Target(Address("localhost", 8500), rest=False), plan, 1000, 1001, measurement)


def _ignore(trial: Trial) -> None:
    pass


def _answer(hold: Callable[[float], Run], start: float = 100) -> Answer:
    return search(_OBJECTIVE, hold, start, _ignore)


@pytest.mark.parametrize("start", [3, 100, 40_000])
def test_the_rate_where_latency_exceeds_the_limit_is_found_from_anywhere(start: float) -> None:
    answer = _answer(lambda rate: _hold(rate, milliseconds=5 if rate <= 1000 else 15), start)
    assert answer.stable
    assert 1000 / 1.06 <= answer.rate <= 1000


def test_errors_and_missing_answers_miss_the_objective_too() -> None:
    assert _answer(lambda rate: _hold(rate, errors=0 if rate <= 300 else 0.5)).rate == pytest.approx(300, rel=0.06)
    assert _answer(lambda rate: _hold(rate, answered=min(1, 300 / rate))).rate == pytest.approx(300, rel=0.08)


def test_searches_that_do_not_agree_are_called_unstable() -> None:
    limits = itertools.cycle([100.0] * 8 + [1000.0] * 8)
    answer = _answer(lambda rate: _hold(rate, milliseconds=5 if rate <= next(limits) else 15))
    assert not answer.stable
    assert max(answer.rates) > 2 * min(answer.rates)


def test_a_server_that_never_meets_the_objective_has_the_rate_0() -> None:
    assert _answer(lambda rate: _hold(rate, milliseconds=50)).rate == 0


def test_a_search_that_the_generator_ended_says_so() -> None:
    limited = _answer(lambda rate: _hold(rate, *((5, 0.0, 0.5) if rate <= 1000 else (50, 0.0, 1.0))))
    assert limited.generator_limited
    assert not _answer(lambda rate: _hold(rate, 5 if rate <= 1000 else 50)).generator_limited


def test_an_objective_is_needed(glyph_load: Callable[..., Outcome]) -> None:
    done = glyph_load("slo", "localhost:8500")
    assert (done.code, "--p99 10ms" in done.err) == (2, True)
