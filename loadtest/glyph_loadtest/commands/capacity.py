"""`glyph-load capacity`: from measured runs to the number of servers that a rate needs."""

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glyph_loadtest import commands
from glyph_loadtest.generator import Generator
from glyph_loadtest.options import add_request_options, duration, rate
from glyph_loadtest.plan import Plan
from glyph_loadtest.result import PERCENTILES, Run, Summary, summarise
from glyph_loadtest.usl import Capacity, Estimate, Point, plan_capacity

_USERS = (1, 2, 4, 8, 16, 32, 64)
_FEWEST = 4
_MOST_FAILED = 0.001  # of the requests of a run, as `slo` has it: more, and the throughput is not the server's


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="TARGET|RUN",
        help="a target, which is measured with 1 to 64 users, or four or more files of glyph-load run --save",
    )
    add_request_options(parser)
    wanted = parser.add_argument_group("what is wanted")
    wanted.add_argument(
        "--rate", type=rate, required=True, metavar="RATE", help="requests a second, all servers together"
    )
    for percent in PERCENTILES:
        wanted.add_argument(
            f"--p{percent:g}",
            dest=f"p{percent:g}",
            type=duration,
            metavar="TIME",
            help="the latency objective (one of these)",
        )
    parser.add_argument(
        "--time",
        type=duration,
        default=3.0,
        metavar="TIME",
        help="how long each number of users is measured (default: 3s)",
    )
    commands.add_workers(parser)
    commands.add_outcome(parser)


def execute(options: argparse.Namespace) -> int:
    """Carries out the command; returns the exit code."""
    objectives = [(percent, limit) for percent in PERCENTILES if (limit := getattr(options, f"p{percent:g}"))]
    if len(objectives) != 1:
        raise commands.CommandError("one objective is needed, such as --p99 10ms")
    ((percent, limit),) = objectives
    commands.check_writable(options.save)
    wanted = {"requests_per_second": options.rate, f"p{percent:g}_ms": limit * 1000}
    runs: list[Run] = []

    def points_so_far() -> dict[str, Any]:
        return {"wanted": wanted, "points": [asdict(point) for point in _points(runs, percent)]}

    if len(options.sources) > 1:
        runs += [commands.read_run(Path(path)) for path in options.sources]
    else:
        with commands.kept(options, points_so_far):
            _measure(options, runs)
    points = _points(runs, percent)
    if len({point.concurrency for point in points}) < _FEWEST:
        raise commands.CommandError(
            f"runs at {_FEWEST} or more different loads are needed, in which the server answered, at most "
            f"{_MOST_FAILED:.1%} of the requests failed, and the generator was not the limit. Received: {len(points)}"
        )
    capacity = plan_capacity(points, options.rate, limit)
    document = {
        **points_so_far(),
        **asdict(capacity),
        "best_concurrency": _finite(capacity.law.best_concurrency),
        "replicas": {name: _finite(value) for name, value in asdict(capacity.replicas).items()},
    }
    commands.finish(options, document, _text(points, capacity, options.rate, f"p{percent:g} <= {limit * 1000:g} ms"))
    return 0 if math.isfinite(capacity.replicas.value) else commands.EXIT_FAILURES


def _measure(options: argparse.Namespace, runs: list[Run]) -> None:
    """Adds one run after the other."""
    seconds = commands.whole_seconds(options.time, "--time")
    target = commands.reached(options.sources[0], options)
    with Generator(options.workers) as generator:
        for users in _USERS:
            plan = Plan(users, seconds, check_share=options.check_share)
            run = generator.run(target, plan, commands.show_nothing)
            commands.check_interrupt(run)
            summary = summarise(run)
            unfit = _unfit(summary)
            verdict = f"left out: {unfit}" if unfit else ""
            commands.tell(
                f"{users:4d} users  {summary.rate:10,.1f}/s  p99 {summary.percentiles[99.0]:8.2f} ms  {verdict}"
            )
            runs.append(run)


def _points(runs: list[Run], percent: float) -> list[Point]:
    return [point for run in runs if (point := _point(run, percent)) is not None]


def _point(run: Run, percent: float) -> Point | None:
    """What a run contributes; the requests in the server at once are throughput times mean latency (Little's law)."""
    summary = summarise(run)
    if _unfit(summary):
        return None
    concurrency = run.plan.level if run.plan.arrivals is None else summary.rate * summary.mean / 1000
    return Point(concurrency, summary.rate, max(1.0, summary.percentiles[percent] / summary.mean))


def _unfit(summary: Summary) -> str | None:
    """Why a run says nothing of what the server can do, None when it does."""
    if not summary.rate or not summary.requests:
        return "no answers"
    if summary.error_share > _MOST_FAILED:
        return f"{summary.error_share:.2%} failed, most often with {summary.failures[0].kind}"
    return summary.refused


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(points: list[Point], capacity: Capacity, wanted: float, objective: str) -> str:
    def shown(estimate: Estimate, form: str) -> str:
        return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"

    lines = ["  at once   measured      fitted"]
    lines += [
        f"{point.concurrency:9.1f}{point.throughput:11,.1f}{capacity.law.throughput(point.concurrency):12,.1f}"
        for point in points
    ]
    contention, coherence = shown(capacity.contention, ".4f"), shown(capacity.coherence, ".6f")
    lines.append(f"law: {capacity.law.rate:,.1f} a second alone, contention {contention}, coherence {coherence}")
    lines.append(f"the measurements are off it by {capacity.error:.1%}")
    peak, replica = shown(capacity.peak, ",.0f"), shown(capacity.replica, ",.0f")
    lines.append(f"one server: at most {peak} a second; {replica} with {objective}")
    lines.append(f"{wanted:,.0f} a second with {objective}: {shown(capacity.replicas, '.0f')} servers (95 % intervals)")
    if not math.isfinite(capacity.replicas.value):
        lines.append("No number of servers will do: one request alone takes longer than the objective allows.")
    return "\n".join(lines)
