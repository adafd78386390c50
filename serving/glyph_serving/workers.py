"""Several processes on the same ports, for machines with more cores than one interpreter can use."""

import ctypes
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from glyph_serving.log import LOGGER

FOLDER_VARIABLE = "GLYPH_SERVE_WORKERS"
NUMBER_VARIABLE = "GLYPH_SERVE_WORKER"
_PR_SET_PDEATHSIG = 1
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SETTLED_SECONDS = 30.0  # a worker that ends sooner would only do so again


def supervise(count: int, become_worker: Callable[[], NoReturn]) -> NoReturn:
    """Runs workers until they are told to end, and starts one anew that dies.

    Args:
        count: How many.
        become_worker: Turns the calling process into a worker.
    """
    with tempfile.TemporaryDirectory(prefix="glyph-serve-") as folder:
        os.environ[FOLDER_VARIABLE] = folder
        sys.exit(_Supervisor(count, become_worker).run())


def sockets(count: int) -> tuple[Path, Sequence[Path]] | None:
    """The UNIX sockets of this worker and of the others; None in a server that has no workers."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None or count < 2:
        return None
    own = int(os.environ[NUMBER_VARIABLE])
    paths = [Path(folder) / f"{number}.sock" for number in range(count)]
    return paths[own], [path for number, path in enumerate(paths) if number != own]


def is_first() -> bool:
    """Whether this process speaks for all workers; it does if there are none."""
    return os.environ.get(NUMBER_VARIABLE, "0") == "0"


class _Supervisor:
    def __init__(self, count: int, become_worker: Callable[[], NoReturn]) -> None:
        self._count = count
        self._become_worker = become_worker
        self._running: dict[int, tuple[int, float]] = {}  # number and start by process id
        self._ending = False

    def run(self) -> int:
        """The exit status for all: that of the first worker that failed, else 0."""
        status = 0
        for signum in _FORWARDED:
            signal.signal(signum, self._forward)
        for number in range(self._count):
            self._start(number)
        while self._running:
            pid, ended = os.wait()
            number, began = self._running.pop(pid)
            code = os.waitstatus_to_exitcode(ended)
            if self._ending:
                status = status or code
            elif time.monotonic() - began < _SETTLED_SECONDS:
                status = code or 1
                self._end_all()
            else:
                LOGGER.warning("worker %d ended with %d and is started anew", number, code)
                self._start(number)
        return status & 0xFF

    def _start(self, number: int) -> None:
        supervisor = os.getpid()
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            self._running[pid] = (number, time.monotonic())
            return
        for signum in _FORWARDED:
            signal.signal(signum, signal.SIG_DFL)
        # The worker ends in good order when this process is killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:
            os._exit(1)
        os.environ[NUMBER_VARIABLE] = str(number)
        try:
            self._become_worker()
        except SystemExit as ended:
            os._exit(int(ended.code or 0))  # nothing of the supervisor's is to be tidied up here

    def _end_all(self) -> None:
        self._forward(signal.SIGTERM, None)

    def _forward(self, signum: int, _frame: object) -> None:
        self._ending = self._ending or signum != signal.SIGHUP
        for pid in self._running:
            os.kill(pid, signal.SIGTERM if signum == signal.SIGINT else signum)
