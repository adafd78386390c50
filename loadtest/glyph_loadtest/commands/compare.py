"""`glyph-load compare`: two targets, taking turns, or two saved runs."""

import argparse
import math
from pathlib import Path
from typing import Any

from glyph_loadtest import commands
from glyph_loadtest.commands import run as run_command
from glyph_loadtest.comparison import Ratio, figures, paired_ratio, resampled, unpaired_ratio
from glyph_loadtest.generator import Generator
from glyph_loadtest.options import positive
from glyph_loadtest.result import Run, summarise
from glyph_loadtest.target import Target


class _Side:
    """What was measured of A, or of B: the figures of each run, and how many requests failed in all of them."""

    def __init__(self) -> None:
        self.figures: list[dict[str, float]] = []
        self.failed = 0

    def add(self, run: Run, name: str) -> None:
        """Adds a run.

        Raises:
            CommandError: it cannot be compared.
        """
        seen, summary = figures(run), summarise(run)
        if seen is None:
            raise commands.CommandError(f"{name} answered nothing")
        if summary.refused is not None:
            raise commands.CommandError(f"no comparison with {name}, for {summary.refused}")
        self.figures.append(seen)
        self.failed += summary.failed


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    commands.add_targets(parser, "A", "B")
    run_command.add_load(parser)
    parser.add_argument(
        "--rounds", type=positive, default=5, metavar="N", help="how often A and B take turns, --time each (default: 5)"
    )
    commands.add_outcome(parser)
    parser.set_defaults(time=3.0)


def execute(options: argparse.Namespace) -> int:
    """Carries out the command; returns the exit code."""
    commands.check_writable(options.save)
    saved = [Path(text).is_file() for text in (options.a, options.b)]
    sides = (_Side(), _Side())
    if all(saved):
        how = "saved runs, one after the other, so a difference may also be one of the circumstances"
        runs = [commands.read_run(Path(text)) for text in (options.a, options.b)]
        for side, run, name in zip(sides, runs, (options.a, options.b), strict=True):
            side.add(run, name)
        a, b = (resampled(run) for run in runs)
        ratios = [unpaired_ratio(name, a[name], b[name]) for name in a]
    elif any(saved):
        raise commands.CommandError("compare two targets, or two saved runs, not one with the other")
    else:
        how = f"{options.rounds} rounds of {options.time:g} s each, taking turns"
        targets = [commands.reached(text, options) for text in (options.a, options.b)]
        with commands.kept(options, lambda: _document(options, how, _ratios(sides), sides)):
            _take_turns(options, targets, sides)
        ratios = _ratios(sides)
    commands.finish(options, _document(options, how, ratios, sides), _table(options, how, ratios, sides))
    failed = sum(side.failed for side in sides)
    if failed:
        commands.tell(f"glyph-load: error: {failed:,} requests failed: the other figures are of those answered")
    return commands.EXIT_FAILURES if failed else 0


def _document(options: argparse.Namespace, how: str, ratios: list[Ratio], sides: tuple[_Side, _Side]) -> dict[str, Any]:
    return {
        "a": options.a,
        "b": options.b,
        "how": how,
        "failed": {"a": sides[0].failed, "b": sides[1].failed},
        "ratios": [
            {
                "name": ratio.name,
                "a": ratio.a,
                "b": ratio.b,
                "b_over_a": ratio.value,
                "low": ratio.low,
                "high": ratio.high if ratio.high < math.inf else None,
            }
            for ratio in ratios
        ],
    }


def _take_turns(options: argparse.Namespace, targets: list[Target], sides: tuple[_Side, _Side]) -> None:
    """Adds the figures of A and of B, round by round."""
    plan = run_command.plan_of(options)
    with Generator(options.workers) as generator:
        for number in range(options.rounds):
            # ABBA: what drifts evenly in the course of time meets both alike.
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                run = generator.run(targets[which], plan, commands.show_nothing)
                commands.check_interrupt(run)
                name = f"round {number + 1}  {'AB'[which]}"
                sides[which].add(run, f"{targets[which]} ({name})")
                rate, p99 = (sides[which].figures[-1][figure] for figure in ("requests per second", "p99 (ms)"))
                failed = summarise(run).failed
                commands.tell(f"{name}  {rate:10,.1f}/s  p99 {p99:8.2f} ms  {failed:,} failures")


def _ratios(sides: tuple[_Side, _Side]) -> list[Ratio]:
    """The ratios over all rounds in which both have had their turn."""
    rounds = list(zip(sides[0].figures, sides[1].figures, strict=False))
    names = rounds[0][0] if rounds else {}
    return [paired_ratio(name, [a[name] for a, _ in rounds], [b[name] for _, b in rounds]) for name in names]


def _table(options: argparse.Namespace, how: str, ratios: list[Ratio], sides: tuple[_Side, _Side]) -> str:
    lines = [f"A = {options.a}, B = {options.b} ({how})", f"  {'':<20}{'A':>12}{'B':>12}   B/A (95 % confidence)"]
    for ratio in ratios:
        interval = f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
        verdict = "" if ratio.differs else "  no clear difference"
        lines.append(f"  {ratio.name:<20}{ratio.a:>12,.2f}{ratio.b:>12,.2f}   {interval}{verdict}")
    lines.append(f"  {'failed requests':<20}{sides[0].failed:>12,}{sides[1].failed:>12,}")
    return "\n".join(lines)
