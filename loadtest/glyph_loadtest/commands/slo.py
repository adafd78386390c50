"""`glyph-load slo`: the highest arrival rate at which a server meets an objective."""

import argparse
from typing import Any

from glyph_loadtest import commands
from glyph_loadtest.arrival import Arrivals
from glyph_loadtest.generator import Generator
from glyph_loadtest.machine import machine
from glyph_loadtest.options import add_arrivals, duration, positive, rate, share
from glyph_loadtest.plan import Plan
from glyph_loadtest.result import PERCENTILES, Run, summarise
from glyph_loadtest.slo import Answer, Objective, Trial, search
from glyph_loadtest.target import Target

_FIRST_GUESS = Plan(16, seconds=1, warm_up=0)


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    commands.add_targets(parser, "TARGET")
    objective = parser.add_argument_group("objective")
    for percent in PERCENTILES:
        objective.add_argument(
            f"--p{percent:g}",
            dest=f"p{percent:g}",
            type=duration,
            metavar="TIME",
            help=f"{percent:g} %% of the answers come within this time",
        )
    objective.add_argument(
        "--errors", type=share, default=0.001, metavar="SHARE", help="requests that may fail (default: 0.1%%)"
    )
    objective.add_argument(
        "--expect", type=rate, metavar="RATE", help="exit with 1 when the server does not reach this rate"
    )
    load = parser.add_argument_group("load")
    load.add_argument(
        "--hold", type=duration, default=5.0, metavar="TIME", help="how long each rate is held (default: 5s)"
    )
    load.add_argument(
        "--start", type=rate, metavar="RATE", help="the rate to begin with (default: one that 16 users get)"
    )
    load.add_argument(
        "--precision", type=share, default=0.05, metavar="SHARE", help="how close to get to the rate (default: 5%%)"
    )
    load.add_argument(
        "--searches", type=positive, default=3, metavar="N", help="how many must agree in the end (default: 3)"
    )
    add_arrivals(load)
    commands.add_workers(load)
    commands.add_outcome(parser)


def execute(options: argparse.Namespace) -> int:
    """Carries out the command; returns the exit code."""
    wanted = {percent: getattr(options, f"p{percent:g}") for percent in PERCENTILES}
    objective = Objective({percent: 1000 * time for percent, time in wanted.items() if time}, options.errors)
    if not objective.latency:
        raise commands.CommandError("an objective is needed, such as --p99 10ms")
    hold = commands.whole_seconds(options.hold, "--hold")
    commands.check_writable(options.save)
    # An answer ten times too late is as good as none, and waiting for it would only make the search longer.
    options.request_timeout = min(options.request_timeout, max(1.0, max(objective.latency.values()) / 100))
    target = commands.reached(options.target, options)
    commands.tell(f"{target}: {objective}; every rate is held for {hold} s")
    with Generator(options.workers) as generator:

        def held(level: float) -> Run:
            plan = Plan(level, hold, 1, Arrivals(options.arrivals), check_share=options.check_share)
            return generator.run(target, plan, commands.show_nothing)

        start = options.start or _first_rate(generator, target)
        answer = search(objective, held, start, _show, options.precision, options.searches)
    last = answer.trials[-1].run
    found = answer.rate > 0 or last.cut_short is None
    commands.finish(options, _document(target, objective, answer), _text(objective, answer) if found else None)
    commands.check_interrupt(last)
    return _verdict(options.expect, answer)


def _first_rate(generator: Generator, target: Target) -> float:
    """A rate to begin with: somewhat less than 16 users get."""
    run = generator.run(target, _FIRST_GUESS, commands.show_nothing)
    commands.check_interrupt(run)
    return 0.7 * max(10.0, summarise(run).rate)


def _show(trial: Trial) -> None:
    summary = summarise(trial.run)
    verdict = f"missed: {trial.missed}" if trial.missed else "met"
    commands.tell(
        f"{trial.rate:10,.1f}/s  p99 {summary.percentiles[99.0]:8.2f} ms  {summary.failed:,} failures  {verdict}"
    )


def _text(objective: Objective, answer: Answer) -> str:
    spread = f"{min(answer.rates):,.0f} to {max(answer.rates):,.0f} in {len(answer.rates)} searches"
    stable = "" if answer.stable else "; the searches do not agree"
    limit = "at least " if answer.generator_limited or answer.trials[-1].run.cut_short is not None else ""
    return f"{limit}{answer.rate:,.0f} requests a second meet {objective} ({spread}{stable})"


def _document(target: Target, objective: Objective, answer: Answer) -> dict[str, Any]:
    return {
        "target": str(target),
        "model": target.model,
        "payload": target.payload.value,
        "batch": target.batch,
        "objective": str(objective),
        "requests_per_second": answer.rate,
        "searches": list(answer.rates),
        "stable": answer.stable,
        "generator_limited": answer.generator_limited,
        "trials": [
            {
                "rate": trial.rate,
                "met": trial.missed is None,
                "missed": trial.missed,
                "requests_per_second": summary.rate,
                "latency_ms": {f"p{percent:g}": value for percent, value in summary.percentiles.items()},
                "error_share": summary.error_share,
            }
            for trial in answer.trials
            for summary in [summarise(trial.run)]
        ],
        "generator": machine(),
    }


def _verdict(expected: float | None, answer: Answer) -> int:
    if expected is not None:
        if answer.rate >= expected:
            return 0
        commands.tell(f"glyph-load: error: {expected:,.0f} requests a second were expected")
        return commands.EXIT_REFUSED if answer.generator_limited else commands.EXIT_FAILURES
    if answer.generator_limited:
        commands.tell("glyph-load: error: the generator was the limit, not the server: use more --workers")
        return commands.EXIT_REFUSED
    if answer.rate == 0:
        commands.tell("glyph-load: error: no rate meets the objective")
        return commands.EXIT_FAILURES
    return 0
