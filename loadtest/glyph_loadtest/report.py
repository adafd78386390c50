"""What a run comes to: the figures, for people and for programs."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from glyph_loadtest.measurement import Measurement
from glyph_loadtest.target import Target

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True)
class Run:
    """A finished measurement.

    Attributes:
        target: what was asked.
        load: how, in words, e.g. ``8 users``.
        first: the first second that counts (Unix time); what came before is warm-up.
        end: the second after the last one that counts.
        measurement: all that was measured, warm-up included.
        cut_short: why the run ended before its time, None when it did not.
    """

    target: Target
    load: str
    first: int
    end: int
    measurement: Measurement
    cut_short: str | None = None


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
        failures: by kind, most frequent first.
        checked: images whose answer was compared with the truth.
        correct: how many of those were right.
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

    @property
    def failed(self) -> int:
        """How many requests failed."""
        return sum(failure.count for failure in self.failures)

    @property
    def accuracy(self) -> float | None:
        """The share of the checked answers that were right, None when none was checked."""
        return self.correct / self.checked if self.checked else None


def summarise(run: Run) -> Summary:
    """Computes the figures of a run."""
    seconds = run.end - run.first
    whole = run.measurement.between(run.first, run.end)
    failures = sorted(whole.failures.items(), key=lambda item: -item[1])
    return Summary(
        seconds=seconds,
        requests=whole.latency.count,
        rate=whole.finished / seconds if seconds > 0 else 0.0,
        mean=whole.latency.mean / 1000,
        percentiles={percent: whole.latency.percentile(percent) / 1000 for percent in PERCENTILES},
        largest=whole.latency.largest / 1000,
        failures=tuple(Failure(kind, count, run.measurement.examples.get(kind, "")) for kind, count in failures),
        checked=whole.checked,
        correct=whole.correct,
    )


def as_dict(run: Run) -> dict[str, Any]:
    """The run and its figures in a form for JSON; latencies in milliseconds, histograms in microseconds."""
    summary = summarise(run)
    return {
        "target": str(run.target),
        "model": run.target.model,
        "payload": run.target.payload.value,
        "batch": run.target.batch,
        "load": run.load,
        "started": datetime.fromtimestamp(run.first, UTC).isoformat(),
        "seconds": summary.seconds,
        "cut_short": run.cut_short,
        "requests": summary.requests,
        "requests_per_second": round(summary.rate, 2),
        "images_per_second": round(summary.rate * run.target.batch, 2),
        "latency_ms": {
            "mean": round(summary.mean, 4),
            **{f"p{percent:g}": round(value, 4) for percent, value in summary.percentiles.items()},
            "max": round(summary.largest, 4),
        },
        "failed": summary.failed,
        "failures": [
            {"kind": failure.kind, "count": failure.count, "example": failure.example} for failure in summary.failures
        ],
        "checked": summary.checked,
        "correct": summary.correct,
        "accuracy": summary.accuracy,
        "window": [run.first, run.end],
        "measurement": run.measurement.as_dict(),
    }


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
    width = max(len(name) for name, _ in rows)
    head = f"{target}, model {target.model}, {images} a request as {target.payload.value}, {run.load}"
    return "\n".join([head, *(f"  {name:<{width}}  {value}" for name, value in rows)])
