"""Open loop: when requests are due."""

from itertools import pairwise

import pytest
from glyph_loadtest.arrival import Arrivals, due_times
from glyph_loadtest.shapes import SHAPES, Shape


def _due(shape: Shape, arrivals: Arrivals, rate: float, seconds: float, warm_up: float = 0) -> list[float]:
    return list(due_times(shape.segments(rate, seconds, warm_up), arrivals, phase=0.5, seed=7))


def test_even_arrivals_keep_one_distance() -> None:
    due = _due(SHAPES["constant"], Arrivals.CONSTANT, rate=100, seconds=10, warm_up=1)
    assert len(due) == 1100
    assert due[0] == pytest.approx(-0.995)
    assert [later - sooner for sooner, later in pairwise(due)] == pytest.approx([0.01] * 1099)


def test_poisson_arrivals_have_exponential_distances() -> None:
    due = _due(SHAPES["constant"], Arrivals.POISSON, rate=1000, seconds=100)
    gaps = [later - sooner for sooner, later in pairwise(due)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert len(due) == pytest.approx(100_000, rel=0.01)
    assert variance == pytest.approx(mean**2, rel=0.03)
    assert sum(gap < mean for gap in gaps) / len(gaps) == pytest.approx(0.632, abs=0.01)


def test_sources_with_different_phases_interleave_evenly() -> None:
    segments = list(SHAPES["constant"].segments(10, 1, 0))
    both = sorted([*due_times(segments, Arrivals.CONSTANT, 0.25), *due_times(segments, Arrivals.CONSTANT, 0.75)])
    assert [later - sooner for sooner, later in pairwise(both)] == pytest.approx([0.05] * 19)


@pytest.mark.parametrize("arrivals", Arrivals)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_each_tenth_of_a_shape_gets_the_requests_of_its_level(shape: Shape, arrivals: Arrivals) -> None:
    due = _due(shape, arrivals, rate=10_000, seconds=10)
    assert due == sorted(due)
    for tenth in range(10):
        moments = [tenth + (k + 0.5) / 100 for k in range(100)]
        expected = sum(shape.level(10_000, 10, moment) for moment in moments) / 100
        assert sum(tenth <= moment < tenth + 1 for moment in due) == pytest.approx(expected, rel=0.05)


def test_the_warm_up_holds_the_first_level() -> None:
    spike = SHAPES["spike"]
    assert [spike.level(100, 10, moment) for moment in (-1, 0, 5, 9, 10)] == [20, 20, 100, 20, 0]
