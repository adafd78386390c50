"""`glyph-load sweep`: starts a server with one configuration after the other, and writes the best one down."""

import argparse
import tempfile
from collections import Counter
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from glyph_loadtest import commands
from glyph_loadtest.arrival import Arrivals
from glyph_loadtest.generator import Generator
from glyph_loadtest.machine import machine
from glyph_loadtest.options import add_arrivals, add_request_options, duration, rate, share, target_of
from glyph_loadtest.plan import Plan
from glyph_loadtest.result import summarise
from glyph_loadtest.servers import Command, Container, ServerError, command, free_ports, running
from glyph_loadtest.slo import Objective
from glyph_loadtest.sweep import (
    BATCHING_FIELDS,
    Candidate,
    batching_config,
    batching_text,
    frontier,
    grid,
    server_flags,
    table,
    winner,
)

_GRID = ["max_batch_size=16,64", "num_batch_threads=1,2", "batch_timeout_micros=0,1000"]
_ALIKE = 0.8  # of 1: a slip of the hand; num_load_threads, which is a flag of its own, is 0.79 like num_batch_threads


def _axis(text: str) -> tuple[str, list[str]]:
    name, _, values = text.partition("=")
    if not name.replace("_", "").isalnum() or not all(values.split(",")):
        raise argparse.ArgumentTypeError(f"an axis looks like max_batch_size=16,64. Received: {text!r}")
    return name, values.split(",")


def _rates(text: str) -> list[float]:
    return sorted({rate(one) for one in text.split(",")})


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--server",
        type=command,
        metavar="COMMAND",
        help="a command with tensorflow_model_server's flags; ports and the grid's values are added",
    )
    which.add_argument("--image", metavar="IMAGE", help="an image like tensorflow/serving:2.20.0, with --models")
    parser.add_argument("--models", type=Path, metavar="DIR", help="the folder of the models, for --image")
    parser.add_argument(
        "--grid",
        type=_axis,
        action="append",
        metavar="NAME=V1,V2",
        help="a batching parameter, or any other flag of the server such as grpc_max_threads, and the values to try; "
        f"may be repeated (default: {' '.join(_GRID)})",
    )
    parser.add_argument(
        "--rates", type=_rates, default="500,1000,2000", metavar="R1,R2", help="rates to try (default: 500,1000,2000)"
    )
    parser.add_argument("--p99", type=duration, default=0.05, metavar="TIME", help="the objective (default: 50ms)")
    parser.add_argument(
        "--errors", type=share, default=0.001, metavar="SHARE", help="requests that may fail (default: 0.1%%)"
    )
    parser.add_argument("--rest", action="store_true", help="ask over REST instead of gRPC")
    parser.add_argument("--time", type=duration, default=3.0, metavar="TIME", help="how long each rate (default: 3s)")
    parser.add_argument(
        "--output", type=Path, default=Path("batching.config"), metavar="FILE", help="default: batching.config"
    )
    add_request_options(parser)
    add_arrivals(parser)
    commands.add_workers(parser)
    commands.add_outcome(parser)


def execute(options: argparse.Namespace) -> int:
    """Carries out the command; returns the exit code."""
    server: Command | Container = options.server
    if options.image:
        if options.models is None or not options.models.is_dir():
            raise commands.CommandError("--image needs --models with the folder of the models")
        server = Container(options.image, options.models, options.model)
    seconds = commands.whole_seconds(options.time, "--time")
    commands.check_writable(options.save)
    commands.check_writable(options.output, "--output")
    configurations = grid(_axes(options.grid or [_axis(text) for text in _GRID]))
    objective = Objective({99.0: 1000 * options.p99}, options.errors)
    candidates: list[Candidate] = []
    failure: ServerError | None = None
    with (
        commands.kept(options, lambda: _document(candidates, None, objective)),
        Generator(options.workers) as generator,
    ):
        for number, configuration in enumerate(configurations, 1):
            candidates.append(Candidate(configuration, {}))
            commands.tell(f"{number} of {len(configurations)}: {candidates[-1]}")
            try:
                _measure(options, server, candidates[-1], generator, objective, seconds)
            except ServerError as error:
                failure = error
                commands.tell(f"left out: {error}")
        if failure is not None and not any(candidate.summaries for candidate in candidates):
            raise commands.CommandError(f"no configuration could be measured; in the last one, {failure}") from failure
    chosen = winner(candidates, objective)
    how = (
        f"{seconds} s for each rate, {options.arrivals} arrivals, on {machine()['system']}, {machine()['cores']} cores."
    )
    commands.finish(options, _document(candidates, chosen, objective), table(candidates, objective))
    if chosen is None:
        commands.tell(f"glyph-load: error: no configuration met {objective}; {options.output} is not written")
        return commands.EXIT_FAILURES
    commands.save(batching_config(candidates, chosen, objective, how), options.output)
    commands.tell(
        f"{chosen}: {chosen.best(objective)[0]:,.0f} requests a second with {objective}; see {options.output}"
    )
    return 0


def _axes(given: list[tuple[str, list[str]]]) -> dict[str, list[str]]:
    """The values of each name.

    Raises:
        CommandError: a name is given twice, or is a batching parameter but for a slip: a server may well start with a
            flag that it does not know, and the sweep would measure nothing.
    """
    for name, times in Counter(name for name, _ in given).items():
        if times > 1:
            raise commands.CommandError(f"all values of {name} belong into one --grid, as in {name}=1,2")
        if name not in BATCHING_FIELDS and (meant := get_close_matches(name, BATCHING_FIELDS, 1, _ALIKE)):
            raise commands.CommandError(f"--grid: {name} is no batching parameter. Is {meant[0]} meant?")
    return dict(given)


def _measure(
    options: argparse.Namespace,
    server: Command | Container,
    candidate: Candidate,
    generator: Generator,
    objective: Objective,
    seconds: int,
) -> None:
    """Adds what comes of each rate to the candidate.

    Raises:
        ServerError: the server does not start with it.
    """
    ports = free_ports()
    server_at = f"http://127.0.0.1:{ports.rest}" if options.rest else f"grpc://127.0.0.1:{ports.grpc}"
    patience = min(options.request_timeout, max(1.0, 10 * options.p99))
    target = replace(target_of(server_at, options), timeout=patience)
    with tempfile.TemporaryDirectory() as folder:
        batching = Path(folder) / "batching.config"
        batching.write_text(batching_text(candidate.configuration))
        file = batching if batching.stat().st_size else None
        arguments = server.arguments(ports, file, server_flags(candidate.configuration))
        with running(server, target, arguments, Path(folder) / "log"):
            for level in options.rates:
                plan = Plan(level, seconds, 1, Arrivals(options.arrivals), check_share=options.check_share)
                run = generator.run(target, plan, commands.show_nothing)
                commands.check_interrupt(run)
                summary = candidate.summaries[level] = summarise(run)
                missed = objective.misses(summary)
                p99 = summary.percentiles[99.0]
                commands.tell(f"{level:10,.0f}/s  p99 {p99:8.2f} ms  {f'missed: {missed}' if missed else 'met'}")


def _document(candidates: list[Candidate], chosen: Candidate | None, objective: Objective) -> dict[str, Any]:
    best = frontier(candidates, objective)
    return {
        "objective": str(objective),
        "candidates": [
            {
                "configuration": dict(candidate.configuration),
                "rates": [
                    {
                        "rate": level,
                        "missed": objective.misses(summary),
                        "requests_per_second": summary.rate,
                        "p50_ms": summary.percentiles[50.0],
                        "p99_ms": summary.percentiles[99.0],
                        "frontier": best.get(level) is candidate,
                    }
                    for level, summary in candidate.summaries.items()
                ],
                "highest_rate": candidate.best(objective)[0],
            }
            for candidate in candidates
        ],
        "chosen": None if chosen is None else dict(chosen.configuration),
        "generator": machine(),
    }
