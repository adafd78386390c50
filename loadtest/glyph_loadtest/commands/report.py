"""`glyph-load report`: a saved run as one HTML file."""

import argparse
from pathlib import Path

from glyph_loadtest import commands
from glyph_loadtest.html import page


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a file written by glyph-load run --save")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to (default: beside the run, as .html)")


def execute(options: argparse.Namespace) -> int:
    """Carries out the command; returns the exit code."""
    output = options.output or options.run.with_suffix(".html")
    if output == options.run:
        raise commands.CommandError(f"the report would overwrite the run {options.run}: name another --output")
    commands.check_writable(output, "--output")
    commands.save(page(commands.read_run(options.run)), output)
    print(output)
    return 0
