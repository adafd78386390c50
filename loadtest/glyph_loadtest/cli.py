"""`glyph-load`: how much can a server take?"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

# Timers to the microsecond: of libev's ways to wait only select() has them, epoll() waits whole milliseconds.
os.environ.setdefault("GEVENT_BACKEND", "select")

# Locust's import patches the standard library for gevent; everything below relies on it.
import gevent
import locust  # noqa: F401

from glyph_loadtest.arrival import Arrivals
from glyph_loadtest.channel import NO_CONNECTION, CallError
from glyph_loadtest.generator import INTERRUPTED, Generator, WorkersError, probe
from glyph_loadtest.measurement import Second
from glyph_loadtest.options import add_arrivals, add_request_options, duration, positive, rate
from glyph_loadtest.payload import AnswerError
from glyph_loadtest.plan import Plan
from glyph_loadtest.result import Run, as_dict, summarise, table
from glyph_loadtest.shapes import SHAPES
from glyph_loadtest.target import PayloadKind, Target, TargetError, parse_address

EXIT_FAILURES, EXIT_UNUSABLE, EXIT_REFUSED, EXIT_INTERRUPTED = 1, 2, 3, 130


class _StopError(Exception):
    """Nothing could be measured; the message is for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit code: 0 when all is well, 1 when requests failed or none was answered, 2 when the target cannot be
        used, 3 when the generator was the limit, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    _interrupt_main_greenlet()
    try:
        code: int = options.command(options)
    except KeyboardInterrupt:
        print("glyph-load: interrupted before anything was measured", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (TargetError, WorkersError, _StopError, OSError) as error:
        print(f"glyph-load: error: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    return code


def _interrupt_main_greenlet() -> None:
    """Lets SIGINT and SIGTERM raise KeyboardInterrupt where the command waits, not in whatever greenlet is running."""
    throw = gevent.getcurrent().throw
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, lambda: gevent.get_hub().loop.run_callback(throw, KeyboardInterrupt))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="glyph-load", description="How much can a server take?")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run_parser = commands.add_parser("run", help="load a server and report throughput, latency and failures")
    run_parser.set_defaults(command=_run)
    _add_target(run_parser)
    load = run_parser.add_argument_group("load")
    level = load.add_mutually_exclusive_group()
    level.add_argument(
        "--users", type=positive, default=8, metavar="N", help="closed loop: how many ask at once (default: 8)"
    )
    level.add_argument(
        "--rate", type=rate, metavar="RATE", help="open loop: requests due in a second, however long answers take"
    )
    add_arrivals(load)
    load.add_argument(
        "--shape",
        choices=list(SHAPES),
        default="constant",
        help="; ".join(f"{shape.name}: {shape.meaning}" for shape in SHAPES.values()),
    )
    load.add_argument("--time", type=duration, default=10.0, metavar="TIME", help="how long (default: 10s)")
    load.add_argument(
        "--warm-up", type=duration, default=1.0, metavar="TIME", help="load before that does not count (default: 1s)"
    )
    load.add_argument(
        "--workers", type=positive, default=1, metavar="N", help="processes that share the load (default: 1)"
    )
    run_parser.add_argument("--json", action="store_true", help="print the result as JSON")
    run_parser.add_argument("--save", type=Path, metavar="FILE", help="also write the result, as JSON, to a file")
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help="localhost:8500 or grpc://... for gRPC, http://... for REST")
    add_request_options(parser)


def _target(options: argparse.Namespace) -> Target:
    address, rest = parse_address(options.target)
    payload = PayloadKind(options.payload)
    return Target(address, rest, options.model, payload, options.batch, options.request_timeout)


def _probe(target: Target) -> None:
    """Makes sure that the target answers at all, before it is loaded."""
    try:
        probe(target)
    except CallError as error:
        if error.kind == NO_CONNECTION:
            raise _StopError(f"{target}: cannot connect ({error.message}). Is a server running there?") from error
        hint = (
            f"Is --model {target.model} its name?"
            if error.kind in ("NOT_FOUND", "HTTP 404")
            else "Nothing was measured."
        )
        raise _StopError(f"{target} answered {error}. {hint}") from error
    except AnswerError as error:
        raise _StopError(f"{target}: {error}. Is {target.model!r} a model of digits?") from error


def _run(options: argparse.Namespace) -> int:
    target, plan = _target(options), _plan(options)
    if options.save is not None and not options.save.parent.is_dir():
        raise _StopError(f"--save: there is no folder {options.save.parent}")
    _probe(target)
    with Generator(options.workers) as generator:
        print(f"{target}: {plan}, {plan.seconds} s after {plan.warm_up} s of warm-up", file=sys.stderr)
        result = generator.run(target, plan, _show)
    if options.save is not None:
        _save(result, options.save)
    if options.json:
        print(json.dumps(as_dict(result)))
    elif summarise(result).refused is None:
        print(table(result))
    return _verdict(result)


def _plan(options: argparse.Namespace) -> Plan:
    if options.time < 1:
        raise _StopError(f"--time is at least 1s. Received: {options.time:g}s")
    seconds, warm_up, shape = round(options.time), round(options.warm_up), SHAPES[options.shape]
    if options.rate is None:
        return Plan(options.users, seconds, warm_up, None, shape, options.check_share)
    return Plan(options.rate, seconds, warm_up, Arrivals(options.arrivals), shape, options.check_share)


def _show(number: int, second: Second) -> None:
    """Shows one second of a run on standard error."""
    name = f"{number:4d} s" if number > 0 else "warm-up"
    p99 = second.latency.percentile(99) / 1000
    failed = sum(second.failures.values())
    print(
        f"{name:>8}  {second.finished:7,} answers  p99 {p99:8.2f} ms  {failed:,} failures",
        file=sys.stderr,
        flush=True,
    )


def _save(result: Run, path: Path) -> None:
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_text(json.dumps(as_dict(result)))
    staged.replace(path)


def _verdict(result: Run) -> int:
    summary = summarise(result)
    if result.cut_short is not None:
        print(f"glyph-load: {result.cut_short}; measured until then: {summary.seconds} s", file=sys.stderr)
    if summary.refused is not None:
        print(f"glyph-load: error: no figures, for {summary.refused}", file=sys.stderr)
    if result.cut_short == INTERRUPTED:
        return EXIT_INTERRUPTED
    if summary.refused is not None:
        return EXIT_REFUSED
    if summary.requests == 0:
        print("glyph-load: error: no request was answered", file=sys.stderr)
        return EXIT_FAILURES
    if summary.failed:
        print(f"glyph-load: error: {summary.failed:,} requests failed", file=sys.stderr)
        return EXIT_FAILURES
    return 0


if __name__ == "__main__":
    sys.exit(main())
