"""`glyph-load`: how much can a server take?"""

import argparse
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

# Timers to the microsecond: of libev's ways to wait only select() has them, epoll() waits whole milliseconds.
os.environ.setdefault("GEVENT_BACKEND", "select")

# Locust's import patches the standard library for gevent; everything below relies on it.
import locust  # noqa: F401, I001
import gevent

from glyph_loadtest import commands
from glyph_loadtest.commands import capacity, compare, report, run, slo, sweep
from glyph_loadtest.generator import WorkersError
from glyph_loadtest.target import TargetError

_COMMANDS = {
    "run": (run, "load a server and report throughput, latency and failures"),
    "slo": (slo, "find the highest arrival rate at which a server meets an objective"),
    "compare": (compare, "compare two targets, taking turns, or two saved runs"),
    "report": (report, "draw a saved run as one HTML file"),
    "capacity": (capacity, "say how many servers a rate and an objective need"),
    "sweep": (sweep, "try a server's configurations and write down the best one"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit code: 0 when all is well, 1 when requests failed, none was answered, or an expectation was not met, 2
        when the target or the options cannot be used, 3 when the generator was the limit, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="glyph-load", description="How much can a server take?")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, purpose) in _COMMANDS.items():
        subparser = subparsers.add_parser(name, help=purpose, description=purpose.capitalize() + ".")
        module.add(subparser)
        subparser.set_defaults(execute=module.execute)
    options = parser.parse_args(arguments)
    logging.getLogger("locust").setLevel(logging.ERROR)  # its advice is about options that are not ours
    _interrupt_main_greenlet()
    _open_all_files_allowed()
    try:
        code: int = options.execute(options)
    except KeyboardInterrupt:
        print("glyph-load: interrupted", file=sys.stderr)
        return commands.EXIT_INTERRUPTED
    except (TargetError, WorkersError, commands.CommandError, OSError) as error:
        print(f"glyph-load: error: {error}", file=sys.stderr)
        return commands.EXIT_UNUSABLE
    return code


def _interrupt_main_greenlet() -> None:
    """Lets SIGINT and SIGTERM raise KeyboardInterrupt where the command waits, not in whatever greenlet is running."""
    throw = gevent.getcurrent().throw
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, lambda: gevent.get_hub().loop.run_callback(throw, KeyboardInterrupt))


def _open_all_files_allowed() -> None:
    """Lets this process, and those that it starts, open as many connections as the system lets them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # some systems have a lower limit than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    sys.exit(main())
