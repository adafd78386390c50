"""The highest rate at which a server meets an objective."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from glyph_loadtest.result import Run, Summary, summarise

_MOST_SEARCHES = 7
_KEEPS_UP = 0.98  # share of the due requests that must have been answered within the time ...
_STILL_ON_THEIR_WAY = 3  # ... unless it is so few that are missing


@dataclass(frozen=True)
class Objective:
    """What is expected of a server.

    Attributes:
        latency: milliseconds, by percent: ``{99.0: 10.0}`` wants 99 of 100 answers within 10 ms.
        errors: the share of requests, 0 to 1, that may fail.
    """

    latency: dict[float, float]
    errors: float

    def __str__(self) -> str:
        limits = [f"p{percent:g} <= {limit:g} ms" for percent, limit in self.latency.items()]
        return ", ".join([*limits, f"errors <= {self.errors:.4g}"])

    def misses(self, summary: Summary) -> str | None:
        """Why a run does not meet the objective, None when it does.

        What the generator itself was late by only makes a server look worse, so an objective that is met is met all the
        same; one that is missed may be the generator's fault.
        """
        if summary.error_share > self.errors:
            return f"{summary.error_share:.2%} failed, most often with {summary.failures[0].kind}"
        missed = self._misses_in_time(summary)
        return summary.refused if missed is not None and summary.refused is not None else missed

    def _misses_in_time(self, summary: Summary) -> str | None:
        due = summary.requests  # and answered in the end; as many as random arrivals brought
        if due == 0 or summary.rate * summary.seconds < min(_KEEPS_UP * due, due - _STILL_ON_THEIR_WAY):
            return f"only {summary.rate:,.0f} answers a second"
        for percent, limit in self.latency.items():
            if summary.percentiles[percent] > limit:
                return f"p{percent:g} {summary.percentiles[percent]:.2f} ms"
        return None


@dataclass(frozen=True)
class Trial:
    """One rate, held for a while.

    Attributes:
        rate: requests due in a second.
        run: what was measured.
        missed: why the objective was not met, None when it was.
    """

    rate: float
    run: Run
    missed: str | None


@dataclass(frozen=True)
class Answer:
    """The result of the searches.

    Attributes:
        rates: the highest rate that each search found, in requests a second; 0 where not even the lowest one would do.
        trials: all that was tried, in order.
        stable: whether the searches agree.
    """

    rates: tuple[float, ...]
    trials: tuple[Trial, ...]
    stable: bool

    @property
    def rate(self) -> float:
        """The median of the searches' rates."""
        return statistics.median(self.rates)

    @property
    def generator_limited(self) -> bool:
        """Whether the load generator, not the server, ended the search upwards."""
        above = [trial for trial in self.trials if trial.rate > self.rate]
        return bool(above) and all(summarise(trial.run).refused is not None for trial in above)


Hold = Callable[[float], Run]


def search(
    objective: Objective,
    hold: Hold,
    start: float,
    tell: Callable[[Trial], None],
    precision: float = 0.05,
    searches: int = 3,
) -> Answer:
    """Searches the highest rate that meets an objective, again and again until the findings agree.

    The first search doubles or halves its way to a bracket; the later ones begin with the rate found before.

    Args:
        objective: what is expected.
        hold: holds a rate, in requests a second, for the stated time and returns what was measured.
        start: the rate to begin with.
        tell: called after each trial.
        precision: how narrow the bracket of a rate gets; the findings agree when they differ by no more than twice
            that.
        searches: how many must agree, one after the other.
    """
    trials: list[Trial] = []

    def meets(rate: float) -> bool:
        run = hold(rate)
        trials.append(Trial(rate, run, objective.misses(summarise(run))))
        tell(trials[-1])
        return trials[-1].missed is None and run.cut_short is None

    def cut() -> bool:
        return bool(trials) and trials[-1].run.cut_short is not None

    rates: list[float] = []
    step, stable = 2.0, False
    while len(rates) < max(searches, _MOST_SEARCHES) and not cut() and not stable:
        rates.append(_one_search(meets, cut, start, step, precision))
        start, step = rates[-1] or start, 1 + 2 * precision
        last = rates[-searches:]
        stable = len(last) == searches and max(last) <= min(last) * (1 + 2 * precision)
    return Answer(tuple(rates), tuple(trials), stable)


def _one_search(
    meets: Callable[[float], bool], cut: Callable[[], bool], start: float, step: float, precision: float
) -> float:
    low, high = 0.0, start
    if meets(high):
        while not cut():
            low, high, step = high, high * step, min(2.0, step * step)
            if not meets(high):
                break
    else:
        while not cut() and high > 1:
            lower = high / step
            step = min(2.0, step * step)
            if meets(lower):
                low = lower
                break
            high = lower
    while low > 0 and high / low > 1 + precision and not cut():
        middle = (low * high) ** 0.5
        low, high = (middle, high) if meets(middle) else (low, middle)
    return low
