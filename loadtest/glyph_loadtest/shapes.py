"""How the load goes up and down in the course of a run."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Segment:
    """A stretch of time in which the level changes evenly.

    Attributes:
        start: when it begins, in seconds from the start of the measurement.
        end: when it ends.
        low: the level at `start`: users, or requests a second.
        high: the level at `end`.
    """

    start: float
    end: float
    low: float
    high: float

    @property
    def area(self) -> float:
        """Level times seconds: with a level in requests a second, how many requests fall into it."""
        return (self.low + self.high) / 2 * (self.end - self.start)

    def when(self, area: float) -> float:
        """The moment at which the segment has had so much of its area."""
        slope = (self.high - self.low) / (self.end - self.start)
        if slope == 0:
            return self.start + area / self.low
        return self.start + (math.sqrt(max(0.0, self.low**2 + 2 * slope * area)) - self.low) / slope


@dataclass(frozen=True)
class Shape:
    """A course of the load.

    Attributes:
        name: what it is called on the command line.
        meaning: what it does, in words.
        points: share of the time gone, and share of the full level, in ascending order of time; straight lines between
            them, and two points at one time make a step.
    """

    name: str
    meaning: str
    points: tuple[tuple[float, float], ...]

    def segments(self, level: float, seconds: float, warm_up: float) -> Iterator[Segment]:
        """The course for a full level and a length; the warm-up holds the level of the start."""
        if warm_up > 0:
            first = self.points[0][1] * level
            yield Segment(-warm_up, 0.0, first, first)
        for (x0, y0), (x1, y1) in pairwise(self.points):
            if x1 > x0:
                yield Segment(x0 * seconds, x1 * seconds, y0 * level, y1 * level)

    def level(self, level: float, seconds: float, moment: float) -> float:
        """The level at a moment, in seconds from the start; before the start that of the start, after the end 0."""
        for segment in self.segments(level, seconds, warm_up=max(0.0, -moment)):
            if segment.start <= moment < segment.end:
                return segment.low + (segment.high - segment.low) * (moment - segment.start) / (
                    segment.end - segment.start
                )
        return 0.0


_STAIRS = tuple(point for n in range(5) for point in ((n / 5, (n + 1) / 5), ((n + 1) / 5, (n + 1) / 5)))

SHAPES = {
    shape.name: shape
    for shape in (
        Shape("constant", "the full level all the time", ((0, 1), (1, 1))),
        Shape("ramp", "from a tenth of the level evenly up to all of it", ((0, 0.1), (1, 1))),
        Shape("step", "five equal stairs up to the full level", _STAIRS),
        Shape(
            "spike",
            "a fifth of the level, and all of it in the middle fifth of the time",
            ((0, 0.2), (0.4, 0.2), (0.4, 1), (0.6, 1), (0.6, 0.2), (1, 0.2)),
        ),
        Shape("soak", "a gentle start, then the full level to the end: for hours", ((0, 0.1), (0.05, 1), (1, 1))),
    )
}
CONSTANT = SHAPES["constant"]
