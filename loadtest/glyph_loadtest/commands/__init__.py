"""The commands of `glyph-load`, one module each, and what they share."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from glyph_loadtest.channel import NO_CONNECTION, CallError
from glyph_loadtest.generator import INTERRUPTED, probe
from glyph_loadtest.measurement import Second
from glyph_loadtest.options import add_request_options, positive, target_of
from glyph_loadtest.payload import AnswerError
from glyph_loadtest.result import Run
from glyph_loadtest.saved import from_dict
from glyph_loadtest.target import Target

EXIT_FAILURES, EXIT_UNUSABLE, EXIT_REFUSED, EXIT_INTERRUPTED = 1, 2, 3, 130


class CommandError(Exception):
    """A command cannot do what it was asked for; the message is for the user."""


def add_targets(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds one or more targets and the options that say what requests to them look like."""
    for name in names:
        parser.add_argument(
            name.lower(), metavar=name, help="localhost:8500 or grpc://... for gRPC, http://... for REST"
        )
    add_request_options(parser)


def add_outcome(parser: argparse.ArgumentParser) -> None:
    """Adds where the result goes."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the result, as JSON, to a file")


def add_workers(group: argparse._ActionsContainer) -> None:
    """Adds the number of processes."""
    group.add_argument(
        "--workers", type=positive, default=1, metavar="N", help="processes that share the load (default: 1)"
    )


def reached(text: str, options: argparse.Namespace) -> Target:
    """The target that a text and the request options describe, which has answered one request.

    Raises:
        TargetError: they describe none.
        CommandError: it does not answer.
    """
    target = target_of(text, options)
    try:
        probe(target)
    except CallError as error:
        if error.kind == NO_CONNECTION:
            raise CommandError(f"{target}: cannot connect ({error.message}). Is a server running there?") from error
        unknown = error.kind in ("NOT_FOUND", "HTTP 404")
        hint = f"Is --model {target.model} its name?" if unknown else "Nothing was measured."
        raise CommandError(f"{target} answered {error}. {hint}") from error
    except AnswerError as error:
        raise CommandError(f"{target}: {error}. Is {target.model!r} a model of digits?") from error
    return target


def whole_seconds(seconds: float, option: str) -> int:
    """A length of time in whole seconds.

    Raises:
        CommandError: it is less than one.
    """
    if seconds < 1:
        raise CommandError(f"{option} is at least 1s. Received: {seconds:g}s")
    return round(seconds)


def check_writable(path: Path | None, option: str = "--save") -> None:
    """Makes sure, before the work, that its result can be written.

    Raises:
        CommandError: there is no such folder, it takes no files, or the path is itself a folder.
    """
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir():
        raise CommandError(f"{option} takes the name of a file. Received the folder {path}")
    if not folder.is_dir():
        raise CommandError(f"{option}: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CommandError(f"{option}: files cannot be made in the folder {folder}")


def save(text: str, path: Path) -> None:
    """Writes a file so that it is whole or not there; what is no file, such as /dev/stdout, is written as it is.

    Raises:
        CommandError: it cannot be written.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and not path.is_file():
            path.write_text(text)
        else:
            staged.write_text(text)
            staged.replace(path)
    except OSError as error:
        with suppress(OSError):
            staged.unlink()
        raise CommandError(f"{path} cannot be written: {error.strerror or error}") from error


def read_run(path: Path) -> Run:
    """Reads a saved run.

    Raises:
        CommandError: the file is none.
    """
    try:
        return from_dict(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CommandError(
            f"{path} is no run saved by glyph-load run --save ({type(error).__name__}: {error})"
        ) from error


def tell(text: str) -> None:
    """Shows progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def show_second(number: int, second: Second) -> None:
    """Shows one second of a run."""
    name = f"{number:4d} s" if number > 0 else "warm-up"
    p99 = f"{second.latency.percentile(99) / 1000:8.2f} ms" if second.latency.counts else f"{'-':>11}"
    tell(f"{name:>8}  {second.finished:7,} answers  p99 {p99}  {second.failed:,} failures")


def show_nothing(number: int, second: Second) -> None:
    """Shows nothing: for runs that are steps of something longer."""


def finish(options: argparse.Namespace, document: dict[str, Any], text: str | None) -> None:
    """Prints the result as JSON or as text, and saves it when that is wanted.

    Raises:
        CommandError: it cannot be saved; it has been printed all the same.
    """
    try:
        if options.json:
            print(json.dumps(document), flush=True)
        elif text is not None:
            print(text, flush=True)
    finally:
        if options.save is not None:
            save(json.dumps(document), options.save)


@contextmanager
def kept(options: argparse.Namespace, document: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Saves what there is, when that is wanted, should the work inside be interrupted or fail."""
    try:
        yield
    except (KeyboardInterrupt, CommandError):
        if options.save is not None:
            save(json.dumps(document()), options.save)
            tell(f"glyph-load: what was measured until then is in {options.save}")
        raise


def check_interrupt(run: Run) -> None:
    """Passes on Ctrl-C to the command whose step the run was.

    Raises:
        KeyboardInterrupt: the run was interrupted.
        CommandError: the run ended early for another reason.
    """
    if run.cut_short == INTERRUPTED:
        raise KeyboardInterrupt
    if run.cut_short is not None:
        raise CommandError(f"{run.target}: {run.cut_short}")
