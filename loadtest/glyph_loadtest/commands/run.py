"""`glyph-load run`: load a server and report throughput, latency and failures."""

import argparse
from dataclasses import replace

from glyph_loadtest import commands
from glyph_loadtest.arrival import Arrivals
from glyph_loadtest.generator import INTERRUPTED, Generator
from glyph_loadtest.metrics import between, metrics_url, scrape
from glyph_loadtest.options import add_arrivals, duration, positive, rate, share
from glyph_loadtest.plan import Plan
from glyph_loadtest.result import Run, summarise, table
from glyph_loadtest.saved import as_dict
from glyph_loadtest.shapes import SHAPES


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    commands.add_targets(parser, "TARGET")
    add_load(parser)
    parser.add_argument(
        "--min-accuracy",
        type=share,
        metavar="SHARE",
        help="exit with 1 when fewer of the checked answers are right (default: any number will do)",
    )
    parser.add_argument(
        "--metrics",
        metavar="URL",
        help="the server's Prometheus metrics (default: its REST port, which is taken to be one above the gRPC port)",
    )
    commands.add_outcome(parser)


def add_load(parser: argparse.ArgumentParser) -> None:
    """Adds how a target is to be loaded."""
    load = parser.add_argument_group("load")
    level = load.add_mutually_exclusive_group()
    level.add_argument(
        "--users", type=positive, default=8, metavar="N", help="closed loop: how many ask at once (default: 8)"
    )
    level.add_argument(
        "--rate", type=rate, metavar="RATE", help="open loop: requests due in a second, however long answers take"
    )
    add_arrivals(load)
    meanings = "; ".join(f"{shape.name}: {shape.meaning}" for shape in SHAPES.values())
    load.add_argument("--shape", choices=list(SHAPES), default="constant", help=meanings)
    load.add_argument("--time", type=duration, default=10.0, metavar="TIME", help="how long (default: 10s)")
    load.add_argument(
        "--warm-up", type=duration, default=1.0, metavar="TIME", help="load before that does not count (default: 1s)"
    )
    commands.add_workers(load)


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options describe.

    Raises:
        CommandError: it is too short.
    """
    return Plan(
        options.users if options.rate is None else options.rate,
        commands.whole_seconds(options.time, "--time"),
        round(options.warm_up),
        None if options.rate is None else Arrivals(options.arrivals),
        SHAPES[options.shape],
        options.check_share,
    )


def execute(options: argparse.Namespace) -> int:
    """Carries out the command; returns the exit code."""
    plan = plan_of(options)
    commands.check_writable(options.save)
    target = commands.reached(options.target, options)
    with Generator(options.workers) as generator:
        commands.tell(f"{target}: {plan}, {plan.seconds} s after {plan.warm_up} s of warm-up")
        url = options.metrics or metrics_url(target)
        before = scrape(url)
        run = generator.run(target, plan, commands.show_second)
        after = scrape(url)
    if options.metrics and (before is None or after is None):
        commands.tell(f"glyph-load: the server's metrics could not be read from {url}")
    if before is not None and after is not None:
        run = replace(run, server=between(before, after, target.model))
    commands.finish(options, as_dict(run), None if summarise(run).refused else table(run))
    return _verdict(run, options.min_accuracy)


def _verdict(run: Run, min_accuracy: float | None) -> int:
    summary = summarise(run)
    if run.cut_short is not None:
        commands.tell(f"glyph-load: {run.cut_short}; measured until then: {summary.seconds} s")
    if summary.refused is not None:
        commands.tell(f"glyph-load: error: no figures, for {summary.refused}")
    if run.cut_short == INTERRUPTED:
        return commands.EXIT_INTERRUPTED
    if summary.refused is not None:
        return commands.EXIT_REFUSED
    if summary.requests == 0:
        commands.tell("glyph-load: error: no request was answered")
        return commands.EXIT_FAILURES
    if summary.failed:
        commands.tell(f"glyph-load: error: {summary.failed:,} requests failed")
        return commands.EXIT_FAILURES
    if min_accuracy is not None and (summary.accuracy is None or summary.accuracy < min_accuracy):
        commands.tell(f"glyph-load: error: {min_accuracy:.1%} of the checked answers were expected to be right")
        return commands.EXIT_FAILURES
    return 0
