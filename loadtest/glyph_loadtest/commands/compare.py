"""`glyph-load compare`: two targets, taking turns, or two saved runs."""

import argparse
import math
from pathlib import Path
from typing import Any

from glyph_loadtest import commands
from glyph_loadtest.commands import run as run_command
from glyph_loadtest.comparison import Ratio, figures, paired_ratio, samples, unpaired_ratio
from glyph_loadtest.generator import Generator
from glyph_loadtest.options import positive
from glyph_loadtest.result import summarise
from glyph_loadtest.target import Target

_Figures = list[dict[str, float]]


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    run_command.add(parser, targets=("A", "B"))
    parser.add_argument(
        "--rounds", type=positive, default=5, metavar="N", help="how often A and B take turns, --time each (default: 5)"
    )
    parser.set_defaults(time=3.0)


def execute(options: argparse.Namespace) -> int:
    """Carries out the command; returns the exit code."""
    commands.check_folder(options.save)
    how = f"{options.rounds} rounds of {options.time:g} s each, taking turns"
    saved = [Path(text).is_file() for text in (options.a, options.b)]
    if all(saved):
        a, b = (commands.read_run(Path(text)) for text in (options.a, options.b))
        per_second = zip(samples(a).items(), samples(b).values(), strict=True)
        if not samples(a)["p50 (ms)"] or not samples(b)["p50 (ms)"]:
            raise commands.CommandError("one of the runs has no answers")
        ratios = [unpaired_ratio(name, left, right) for (name, left), right in per_second]
        how = "saved runs, second by second; not interleaved, so a difference may also be one of the circumstances"
    elif any(saved):
        raise commands.CommandError("compare two targets, or two saved runs, not one with the other")
    else:
        targets = [commands.reached(text, options) for text in (options.a, options.b)]
        found: tuple[_Figures, _Figures] = ([], [])
        with commands.kept(options, lambda: _document(options, how, _ratios(found))):
            _take_turns(options, targets, found)
        ratios = _ratios(found)
    commands.finish(options, _document(options, how, ratios), _table(options.a, options.b, how, ratios))
    return 0


def _document(options: argparse.Namespace, how: str, ratios: list[Ratio]) -> dict[str, Any]:
    return {
        "a": options.a,
        "b": options.b,
        "how": how,
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


def _take_turns(options: argparse.Namespace, targets: list[Target], found: tuple[_Figures, _Figures]) -> None:
    """Adds the figures of A and of B, round by round."""
    plan = run_command.plan_of(options)
    with Generator(options.workers) as generator:
        for number in range(options.rounds):
            # ABBA: what drifts evenly in the course of time meets both alike.
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                run = generator.run(targets[which], plan, commands.show_nothing)
                commands.check_interrupt(run)
                seen, summary = figures(run), summarise(run)
                if seen is None:
                    raise commands.CommandError(f"{targets[which]} answered nothing in round {number + 1}")
                if summary.refused is not None:
                    raise commands.CommandError(f"no comparison, for {summary.refused}")
                found[which].append(seen)
                rate, p99 = seen["requests per second"], seen["p99 (ms)"]
                name = f"round {number + 1}  {'AB'[which]}"
                commands.tell(f"{name}  {rate:10,.1f}/s  p99 {p99:8.2f} ms  {summary.failed:,} failures")


def _ratios(found: tuple[_Figures, _Figures]) -> list[Ratio]:
    """The ratios over all rounds in which both have had their turn."""
    rounds = list(zip(*found, strict=False))
    names = rounds[0][0] if rounds else {}
    return [paired_ratio(name, [a[name] for a, _ in rounds], [b[name] for _, b in rounds]) for name in names]


def _table(a: str, b: str, how: str, ratios: list[Ratio]) -> str:
    lines = [f"A = {a}, B = {b} ({how})", f"  {'':<20}{'A':>12}{'B':>12}   B/A (95 % confidence)"]
    for ratio in ratios:
        interval = f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
        verdict = "" if ratio.differs else "  no clear difference"
        lines.append(f"  {ratio.name:<20}{ratio.a:>12,.2f}{ratio.b:>12,.2f}   {interval}{verdict}")
    return "\n".join(lines)
