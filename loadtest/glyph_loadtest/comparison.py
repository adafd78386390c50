"""Two servers, or two runs, against each other."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from glyph_loadtest.measurement import Second
from glyph_loadtest.result import Run

# Student's t: half width of the 95 % interval, in standard errors, by degrees of freedom.
_T95 = [
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
    2.20,
    2.18,
    2.16,
    2.14,
    2.13,
    2.12,
    2.11,
    2.10,
    2.09,
]
_T95_MANY = 1.96
_PARTS = 20  # of a saved run: seconds that follow each other are alike, longer parts are independent


@dataclass(frozen=True)
class Ratio:
    """How many times as much B has as A.

    Attributes:
        name: of what.
        a: A's figure; of several, their mean.
        b: B's figure; of several, their mean.
        value: B over A; of pairs, the geometric mean.
        low: lower end of its 95 % confidence interval; 0 where the samples are too few to say.
        high: upper end; infinite where they are too few.
    """

    name: str
    a: float
    b: float
    value: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Whether the interval excludes equality."""
        return not self.low <= 1 <= self.high


@dataclass(frozen=True)
class Resampled:
    """A figure, and how sure it is (the delete-a-group jackknife; Quenouille, Tukey).

    Attributes:
        value: from all that was measured.
        without: from all but one part of it, for each part.
    """

    value: float
    without: Sequence[float]

    def variance_of_log(self) -> float:
        """The estimated variance of the figure's logarithm."""
        logs = [math.log(value) for value in self.without]
        return (len(logs) - 1) / len(logs) * sum((log - statistics.fmean(logs)) ** 2 for log in logs)


def paired_ratio(name: str, a: Sequence[float], b: Sequence[float]) -> Ratio:
    """The ratio of samples that were taken in pairs, one shortly after the other.

    The logarithms of the pairs' ratios are taken for normally distributed (a t interval).

    Args:
        name: of what.
        a: samples of A, greater than 0.
        b: as many samples of B.
    """
    logs = [math.log(y / x) for x, y in zip(a, b, strict=True)]
    middle = statistics.fmean(logs)
    half = _t95(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    return _ratio(name, a, b, middle, half)


def unpaired_ratio(name: str, a: Resampled, b: Resampled) -> Ratio:
    """The ratio of figures that were measured independently (Welch's interval on their logarithms).

    Args:
        name: of what.
        a: A's figure, greater than 0.
        b: B's figure.
    """
    half = math.inf
    if all(len(one.without) > 1 and min(one.without) > 0 for one in (a, b)):
        errors = [one.variance_of_log() for one in (a, b)]
        total = sum(errors)
        parts = sum(error**2 / (len(one.without) - 1) for error, one in zip(errors, (a, b), strict=True))
        half = _t95(int(total**2 / parts)) * math.sqrt(total) if parts else 0.0
    return _ratio(name, [a.value], [b.value], math.log(b.value / a.value), half)


def _t95(freedom: int) -> float:
    return _T95[freedom - 1] if 1 <= freedom <= len(_T95) else _T95_MANY if freedom else math.inf


def _ratio(name: str, a: Sequence[float], b: Sequence[float], middle: float, half: float) -> Ratio:
    return Ratio(
        name,
        statistics.fmean(a),
        statistics.fmean(b),
        math.exp(middle),
        math.exp(middle - half) if half < math.inf else 0.0,
        math.exp(middle + half) if half < math.inf else math.inf,
    )


def figures(run: Run) -> dict[str, float] | None:
    """Throughput, and latencies in milliseconds, None when nothing was answered."""
    whole = run.measurement.between(run.first, run.end)
    return _figures(whole, run.end - run.first) if whole.finished and whole.latency.counts else None


def resampled(run: Run) -> dict[str, Resampled]:
    """The figures of a run that was answered, and what they would be without each of its parts in turn."""
    count = min(_PARTS, run.end - run.first)
    edges = [run.first + (run.end - run.first) * number // count for number in range(count + 1)]
    parts = [(end - first, run.measurement.between(first, end)) for first, end in pairwise(edges)]

    def of(chosen: Sequence[tuple[int, Second]]) -> dict[str, float]:
        whole = Second()
        for _, part in chosen:
            whole.merge(part)
        return _figures(whole, sum(seconds for seconds, _ in chosen))

    without = [of(parts[:number] + parts[number + 1 :]) for number in range(count)] if count > 1 else []
    return {name: Resampled(value, [one[name] for one in without]) for name, value in of(parts).items()}


def _figures(whole: Second, seconds: int) -> dict[str, float]:
    return {
        "requests per second": whole.finished / seconds,
        "p50 (ms)": max(whole.latency.percentile(50), 1.0) / 1000,
        "p99 (ms)": max(whole.latency.percentile(99), 1.0) / 1000,
    }
