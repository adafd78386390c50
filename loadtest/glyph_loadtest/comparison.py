"""Two servers, or two runs, against each other."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Ratio:
    """How many times as much B has as A.

    Attributes:
        name: of what.
        a: the mean of A's samples.
        b: the mean of B's samples.
        value: B over A: the geometric mean over the pairs.
        low: lower end of its 95 % confidence interval; 0 with fewer than two pairs.
        high: upper end; infinite with fewer than two pairs.
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


def unpaired_ratio(name: str, a: Sequence[float], b: Sequence[float]) -> Ratio:
    """The ratio of samples that were taken independently (Welch's interval on their logarithms).

    Args:
        name: of what.
        a: samples of A, greater than 0.
        b: samples of B, not necessarily as many.
    """
    left, right = [math.log(x) for x in a], [math.log(y) for y in b]
    middle = statistics.fmean(right) - statistics.fmean(left)
    half = math.inf
    if len(left) > 1 and len(right) > 1:
        errors = [statistics.variance(values) / len(values) for values in (left, right)]
        total = sum(errors)
        parts = sum(error**2 / (len(values) - 1) for error, values in zip(errors, (left, right), strict=True))
        half = _t95(int(total**2 / parts)) * math.sqrt(total) if parts else 0.0
    return _ratio(name, a, b, middle, half)


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


def samples(run: Run) -> dict[str, list[float]]:
    """The figures of each second of a run that had answers: throughput, and latencies in milliseconds."""
    seconds = [
        run.measurement.seconds[number] for number in range(run.first, run.end) if number in run.measurement.seconds
    ]
    answered = [second for second in seconds if second.finished and second.latency.counts]
    return {
        "requests per second": [float(second.finished) for second in answered],
        "p50 (ms)": [max(second.latency.percentile(50), 1.0) / 1000 for second in answered],
        "p99 (ms)": [max(second.latency.percentile(99), 1.0) / 1000 for second in answered],
    }


def figures(run: Run) -> dict[str, float] | None:
    """The figures of a whole run by the same names, None when nothing was answered."""
    whole = run.measurement.between(run.first, run.end)
    if not whole.finished or not whole.latency.counts:
        return None
    return {
        "requests per second": whole.finished / (run.end - run.first),
        "p50 (ms)": max(whole.latency.percentile(50), 1.0) / 1000,
        "p99 (ms)": max(whole.latency.percentile(99), 1.0) / 1000,
    }
