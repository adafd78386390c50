"""Runs `glyph-load` again and again without importing it again: reads commands, one JSON a line, and forks for each.

A command is ``{"call": NAME, "arguments": [...], "out": PATH, "err": PATH}``; the answer is its exit code on a line.
The name is ``glyph-load``, or that of a function of inside_locust.py.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path

import gevent
from gevent import monkey
from glyph_loadtest import cli

_INSIDE = runpy.run_path(str(Path(__file__).with_name("inside_locust.py")))
_fork = monkey.get_original("os", "fork")


def _run(call: str, arguments: list[str], out: str, err: str) -> int:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    gevent.reinit()
    try:
        code = cli.main(arguments) if call == "glyph-load" else _INSIDE[call](*arguments) or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 (it ends here, and must be seen)
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    for line in sys.stdin:
        child = _fork()
        if child == 0:
            os._exit(_run(**json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
