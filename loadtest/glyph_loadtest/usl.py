"""How throughput grows with concurrency: the Universal Scalability Law, fitted to measurements.

X(N) = lambda N / (1 + sigma (N - 1) + kappa N (N - 1)), where N requests are in the server at once, lambda is the
throughput of one alone, sigma the share of the work that must queue (contention) and kappa the cost of agreement
between those at work (coherence). N. J. Gunther, Guerrilla Capacity Planning, Springer 2007, chapter 4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_RESAMPLES = 300

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        concurrency: requests in the server at once, on average.
        throughput: answers a second.
        tail: the latency percentile of the objective over the mean latency; at least 1.
    """

    concurrency: float
    throughput: float
    tail: float


@dataclass(frozen=True)
class Law:
    """A fitted law; see the module."""

    rate: float
    contention: float
    coherence: float

    def throughput(self, concurrency: float) -> float:
        """Answers a second with so many requests in the server."""
        n = concurrency
        return self.rate * n / (1 + self.contention * (n - 1) + self.coherence * n * (n - 1))

    @property
    def best_concurrency(self) -> float:
        """Where throughput is highest; infinite when it never falls."""
        if self.coherence <= 0:
            return math.inf
        return max(1.0, math.sqrt(max(0.0, 1 - self.contention) / self.coherence))

    def mean_latency(self, concurrency: float) -> float:
        """Mean seconds in the server with so many requests in it (Little's law)."""
        return concurrency / self.throughput(concurrency)

    def highest_rate(self, limit: float, most: float) -> float:
        """The highest throughput, up to a concurrency of `most`, with a mean latency within a limit in seconds.

        0 when one request alone already takes longer.
        """
        if self.mean_latency(1) > limit:
            return 0.0
        low, high = 1.0, min(self.best_concurrency, most)
        if self.mean_latency(high) <= limit:
            return self.throughput(high)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.mean_latency(middle) <= limit else (low, middle)
        return self.throughput(low)


def fit(concurrency: Floats, throughput: Floats) -> Law:
    """Fits the law by least squares on relative deviations, with no coefficient below 0.

    N / X is linear in 1/lambda, sigma/lambda and kappa/lambda, so each choice of coefficients that are not 0 is solved
    directly, and the best that has none below 0 is taken.

    Args:
        concurrency: [points], at least 1.
        throughput: [points], answers a second.
    """
    n, weights = concurrency, throughput / concurrency
    columns = np.stack([np.ones_like(n), n - 1, n * (n - 1)], axis=1) * weights[:, None]
    target = np.ones_like(n)  # (N / X) * (X / N): deviations are relative
    best, error = np.array([1 / throughput.max(), 0, 0]), math.inf
    for chosen in ([0], [0, 1], [0, 2], [0, 1, 2]):
        found = np.zeros(3)
        found[chosen] = np.linalg.lstsq(columns[:, chosen], target, rcond=None)[0]
        deviation = float(np.sum((columns @ found - target) ** 2))
        if found.min() >= 0 and found[0] > 0 and deviation < error:
            best, error = found, deviation
    return Law(1 / float(best[0]), float(best[1] / best[0]), float(best[2] / best[0]))


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Capacity:
    """What measurements say of a server, and of how many of them are needed.

    Attributes:
        law: the fitted law.
        error: root mean square of its relative deviations.
        contention: sigma.
        coherence: kappa.
        peak: the highest throughput within the measured range of concurrency, answers a second.
        replica: the throughput at which one server still meets the objective, answers a second.
        replicas: how many servers the wanted rate needs; infinite when one request alone takes too long.
    """

    law: Law
    error: float
    contention: Estimate
    coherence: Estimate
    peak: Estimate
    replica: Estimate
    replicas: Estimate


def plan_capacity(points: Sequence[Point], wanted: float, limit: float, seed: int = 0) -> Capacity:
    """Fits the law and says how many servers a rate and an objective need.

    The intervals come from a bootstrap: the law is fitted again to its own values with resampled deviations (scaled up
    for the degrees of freedom that the fit used).

    Args:
        points: measurements at four or more concurrencies.
        wanted: requests a second that all servers together must answer.
        limit: seconds that the latency at the objective's percentile must not exceed.
        seed: of the resampling.
    """
    n = np.array([max(point.concurrency, 1.0) for point in points])
    x = np.array([point.throughput for point in points])
    # The tail is wider the busier the server is: what is allowed on average is the limit over the widest tail seen.
    allowed = limit / max(point.tail for point in points)
    law, most = fit(n, x), float(n.max())
    modelled = np.array([law.throughput(value) for value in n])
    deviations = x / modelled - 1
    scale = math.sqrt(len(points) / max(1, len(points) - 3))
    chance = np.random.default_rng(seed)
    laws = [
        fit(n, modelled * np.maximum(0.05, 1 + scale * chance.choice(deviations, len(points))))
        for _ in range(_RESAMPLES)
    ]

    def estimate(values: list[float], value: float) -> Estimate:
        low, high = np.quantile(values, [0.025, 0.975], method="nearest")
        return Estimate(value, min(float(low), value), max(float(high), value))

    def replica(one: Law) -> float:
        return one.highest_rate(allowed, most)

    def replicas(one: Law) -> float:
        return math.ceil(wanted / replica(one)) if replica(one) > 0 else math.inf

    def peak(one: Law) -> float:
        return one.throughput(min(one.best_concurrency, most))

    return Capacity(
        law,
        float(np.sqrt(np.mean(deviations**2))),
        estimate([one.contention for one in laws], law.contention),
        estimate([one.coherence for one in laws], law.coherence),
        estimate([peak(one) for one in laws], peak(law)),
        estimate([replica(one) for one in laws], replica(law)),
        estimate([replicas(one) for one in laws], replicas(law)),
    )
