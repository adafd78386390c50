"""What a run comes to: the figures, and whether they may be believed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from glyph_loadtest.channel import TOO_MANY_FILES
from glyph_loadtest.measurement import Measurement, Second
from glyph_loadtest.metrics import ServerSide
from glyph_loadtest.plan import Plan
from glyph_loadtest.target import Target

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
LOST_WITH_WORKER = "LOST WITH WORKER"

# A generator that used this share of a core in its busiest process had no time to spare for being punctual.
_BUSY = 0.95
# Requests that leave late look like slow answers: at the 99th percentile the generator's own lag may be so much of the
# latency, or so many microseconds, whichever is more. Below that the server decides what is seen.
_LAG_SHARE, _LAG_FLOOR = 0.2, 2000.0


@dataclass(frozen=True)
class Run:
    """A finished measurement.

    Attributes:
        target: what was asked.
        plan: how.
        first: the first second that counts (Unix time); what came before is warm-up.
        end: the second after the last one that counts.
        measurement: all that was measured, warm-up included.
        workers: how many processes shared the plan.
        cut_short: why the run ended before its time, None when it did not.
        machine: what the generator ran on.
        server: what the server's own metrics say, None when they could not be read.
    """

    target: Target
    plan: Plan
    first: int
    end: int
    measurement: Measurement
    workers: int = 1
    cut_short: str | None = None
    machine: Mapping[str, str] = field(default_factory=dict)
    server: ServerSide | None = None


@dataclass(frozen=True)
class Failure:
    """All failures of one kind, and what one of them said."""

    kind: str
    count: int
    example: str


@dataclass(frozen=True)
class Summary:
    """The figures of a run, warm-up excluded.

    Attributes:
        seconds: how long was measured.
        requests: answered requests that were due in that time.
        rate: answers that arrived a second.
        mean: mean latency of the answered requests, in milliseconds.
        percentiles: their latency in milliseconds, by percent.
        largest: their largest latency, in milliseconds.
        failures: by kind, most frequent first; what a worker that died would have sent is among them.
        checked: images whose answer was compared with the truth.
        correct: how many of those were right.
        lag: how late the generator was at the 99th percentile, in milliseconds.
        busiest: share of a core that the busiest process of the generator used.
        refused: why the figures are the generator's and not the server's, None when they are the server's.
    """

    seconds: int
    requests: int
    rate: float
    mean: float
    percentiles: dict[float, float]
    largest: float
    failures: tuple[Failure, ...]
    checked: int
    correct: int
    lag: float
    busiest: float
    refused: str | None

    @property
    def failed(self) -> int:
        """How many requests failed."""
        return sum(failure.count for failure in self.failures)

    @property
    def error_share(self) -> float:
        """The share of all requests, 0 to 1, that failed."""
        return self.failed / (self.failed + self.requests) if self.failed else 0.0

    @property
    def accuracy(self) -> float | None:
        """The share of the checked answers that were right, None when none was checked."""
        return self.correct / self.checked if self.checked else None


def summarise(run: Run) -> Summary:
    """Computes the figures of a run."""
    seconds = run.end - run.first
    whole = run.measurement.between(run.first, run.end)
    failures = dict(whole.failures)
    dead, lost = _lost(run)
    if dead:
        failures[LOST_WITH_WORKER] = lost
    examples = {**run.measurement.examples, LOST_WITH_WORKER: f"{dead} of {run.workers} workers died (an estimate)"}
    busiest = max(whole.cpu.values(), default=0.0) / seconds if seconds > 0 else 0.0
    lag = whole.lag.percentile(99)
    return Summary(
        seconds=seconds,
        requests=whole.latency.count,
        rate=whole.finished / seconds if seconds > 0 else 0.0,
        mean=whole.latency.mean / 1000,
        percentiles={percent: whole.latency.percentile(percent) / 1000 for percent in PERCENTILES},
        largest=whole.latency.largest / 1000,
        failures=tuple(
            Failure(kind, count, examples.get(kind, ""))
            for kind, count in sorted(failures.items(), key=lambda item: -item[1])
        ),
        checked=whole.checked,
        correct=whole.correct,
        lag=lag / 1000,
        busiest=busiest,
        refused=_refusal(run, whole, busiest, lag),
    )


def _lost(run: Run) -> tuple[int, int]:
    """How many workers fell silent before the end, and how many requests they would have sent meanwhile."""
    last: dict[str, int] = {}
    for number, second in run.measurement.seconds.items():
        for worker in second.cpu:
            last[worker] = max(number, last.get(worker, 0))
    silent = [max(run.first, number + 1) for number in last.values() if number < run.end - 2]
    if run.end - run.first > 2:  # in the first seconds a worker's report may still be on its way
        silent += [run.first] * (run.workers - len(last))
    missing = sum(run.end - since for since in silent)
    present = sum(len(s.cpu) for number, s in run.measurement.seconds.items() if run.first <= number < run.end)
    whole = run.measurement.between(run.first, run.end)
    sent = whole.latency.count + whole.failed
    return len(silent), round(sent / present * missing) if present > 0 else 0


def _refusal(run: Run, whole: Second, busiest: float, lag: float) -> str | None:
    latency = whole.latency.percentile(99)
    if TOO_MANY_FILES in whole.failures:
        return (
            "the generator was the limit: a process ran out of file descriptors, and could not connect. "
            f"Let it have more (ulimit -n), use more processes (--workers {run.workers + 1}), or less load"
        )
    if busiest > _BUSY:
        return (
            f"the generator was the limit: its busiest process used {busiest:.0%} of a core. "
            f"Use more processes (--workers {run.workers + 1}), or less load"
        )
    if run.plan.arrivals is not None and lag > max(_LAG_FLOOR, _LAG_SHARE * latency):
        return (
            f"the generator was the limit: requests left up to {lag / 1000:.1f} ms late (99th percentile), where "
            f"answers took {latency / 1000:.1f} ms. Use more processes (--workers {run.workers + 1}), a machine of its "
            "own, or less load"
        )
    return None


def table(run: Run) -> str:
    """The figures as a small table for a terminal."""
    summary = summarise(run)
    target = run.target
    images = "1 image" if target.batch == 1 else f"{target.batch} images"
    rows = [("requests per second", f"{summary.rate:,.1f}")]
    if target.batch > 1:
        rows.append(("images per second", f"{summary.rate * target.batch:,.1f}"))
    if summary.requests:
        rows += [(f"p{percent:g}", f"{value:,.2f} ms") for percent, value in summary.percentiles.items()]
        rows.append(("longest", f"{summary.largest:,.2f} ms"))
    if summary.accuracy is not None:
        rows.append(("right answers", f"{summary.accuracy:.1%} of {summary.checked:,} checked"))
    rows.append(("answered", f"{summary.requests:,} in {summary.seconds} s"))
    rows.append(("failed", f"{summary.failed:,}"))
    rows += [(f"  {failure.kind}", f"{failure.count:,}  {failure.example}") for failure in summary.failures]
    rows.append(("generator", f"{summary.busiest:.0%} of a core, {summary.lag:,.2f} ms late at p99"))
    width = max(len(name) for name, _ in rows)
    head = f"{target}, model {target.model}, {images} a request as {target.payload.value}, {run.plan}"
    return "\n".join([head, *(f"  {name:<{width}}  {value}" for name, value in rows)])
