"""Open loop: when requests are due, whatever becomes of the ones before."""

import random
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import count

from glyph_loadtest.shapes import Segment


class Arrivals(StrEnum):
    """How the requests of an open loop follow each other."""

    CONSTANT = "constant"  # evenly
    POISSON = "poisson"  # independently of each other, as from many people


_GOLDEN = (5**0.5 - 1) / 2


def phases(first: float) -> Iterator[float]:
    """Yields phases for `due_times`, 0 to 1, that lie well apart however many are taken (Weyl's sequence).

    Args:
        first: the first of them, 0 to 1.
    """
    for number in count():
        yield (first + number * _GOLDEN) % 1


def due_times(
    segments: Iterable[Segment], arrivals: Arrivals, phase: float = 0.0, seed: int | None = None
) -> Iterator[float]:
    """Yields when requests are due, in seconds from the start of the measurement, in ascending order.

    Arrivals of rate 1 are mapped through the inverse of the course's integral (Cinlar's method for Poisson processes
    whose rate changes; for even ones it keeps exactly one request in each unit of area).

    Args:
        segments: the course of the rate, in requests a second.
        arrivals: how they follow each other.
        phase: for even arrivals, 0 to 1: where in each interval the request falls, so that several generators
            interleave.
        seed: for Poisson arrivals; None draws a new one.
    """
    chance = random.Random(seed)  # noqa: S311
    position = phase if arrivals is Arrivals.CONSTANT else chance.expovariate(1.0)
    for segment in segments:
        area = segment.area
        while position < area:
            yield segment.when(position)
            position += 1.0 if arrivals is Arrivals.CONSTANT else chance.expovariate(1.0)
        position -= area
