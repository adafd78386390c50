"""Runs in a form for files and programs."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from glyph_loadtest.arrival import Arrivals
from glyph_loadtest.measurement import Measurement
from glyph_loadtest.metrics import ServerSide
from glyph_loadtest.plan import Plan
from glyph_loadtest.result import Run, summarise
from glyph_loadtest.shapes import SHAPES
from glyph_loadtest.target import PayloadKind, Target, parse_address

_SLACK = 60  # seconds
_LAST = 253_402_300_799  # the end of the year 9999 (Unix time), the last that can be written


def as_dict(run: Run) -> dict[str, Any]:
    """The run and its figures in a form for JSON; latencies in milliseconds, histograms in microseconds.

    When the generator was the limit there are no figures, but ``refused`` says so; see `from_dict`.
    """
    summary = summarise(run)
    figures = {
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
    }
    return {
        "target": str(run.target),
        "model": run.target.model,
        "payload": run.target.payload.value,
        "batch": run.target.batch,
        "request_timeout": run.target.timeout,
        "load": str(run.plan),
        "plan": {
            "level": run.plan.level,
            "seconds": run.plan.seconds,
            "warm_up": run.plan.warm_up,
            "arrivals": run.plan.arrivals.value if run.plan.arrivals else None,
            "shape": run.plan.shape.name,
            "check_share": run.plan.check_share,
        },
        "started": datetime.fromtimestamp(run.first, UTC).isoformat(),
        "seconds": summary.seconds,
        "cut_short": run.cut_short,
        "refused": summary.refused,
        **({} if summary.refused else figures),
        "generator": {
            "workers": run.workers,
            "busiest_process": round(summary.busiest, 4),
            "lag_p99_ms": round(summary.lag, 4),
            **run.machine,
        },
        "server": None
        if run.server is None
        else {
            **asdict(run.server),
            # JSON has no infinity.
            "batch_sizes": [
                ["+Inf" if size == math.inf else size, count] for size, count in run.server.batch_sizes.items()
            ],
        },
        "window": [run.first, run.end],
        "measurement": run.measurement.as_dict(),
    }


def from_dict(data: Mapping[str, Any]) -> Run:
    """The run of a form made by `as_dict`.

    Raises:
        KeyError, TypeError: the form is another one.
        ValueError: what it says makes no sense; of the target, a TargetError.
    """
    address, rest = parse_address(data["target"])
    plan, generator, server = data["plan"], dict(data["generator"]), data["server"]
    workers = generator.pop("workers")
    (first, end), measurement = data["window"], Measurement.from_dict(data["measurement"])
    longest = plan["warm_up"] + plan["seconds"] + data["request_timeout"] + _SLACK
    if not 0 <= first <= end <= _LAST or any(abs(time - first) > longest for time in (end, *measurement.seconds)):
        raise ValueError("its times make no sense")
    return Run(
        Target(address, rest, data["model"], PayloadKind(data["payload"]), data["batch"], data["request_timeout"]),
        Plan(
            plan["level"],
            plan["seconds"],
            plan["warm_up"],
            Arrivals(plan["arrivals"]) if plan["arrivals"] else None,
            SHAPES[plan["shape"]],
            plan["check_share"],
        ),
        first,
        end,
        measurement,
        workers,
        data["cut_short"],
        {key: value for key, value in generator.items() if isinstance(value, str)},
        ServerSide(**{**server, "batch_sizes": {float(size): count for size, count in server["batch_sizes"]}})
        if server
        else None,
    )
