"""Several processes on the same ports, for machines with more cores than one interpreter can use."""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from glyph_serving.log import LOGGER

FOLDER_VARIABLE = "GLYPH_SERVE_WORKERS"
NUMBER_VARIABLE = "GLYPH_SERVE_WORKER"
REPLACEMENT_VARIABLE = "GLYPH_SERVE_REPLACEMENT"
_MODELS = "models"  # the file in the workers' folder with the list of models that is in effect
_PR_SET_PDEATHSIG = 1
_LIVED_WITH = frozenset({signal.SIGHUP, signal.SIGUSR1})  # the latter is Envoy's own: it opens the access log anew
_FORWARDED = frozenset({signal.SIGTERM, signal.SIGINT, *_LIVED_WITH})
_SETTLED_SECONDS = 30.0  # a worker that ends sooner would probably only do so again
_LONGEST_PAUSE = 60.0  # seconds before it is tried again
_ANSWERS_WITHIN = 1.0  # seconds


def supervise(count: int, models: bytes, become_worker: Callable[[], NoReturn]) -> NoReturn:
    """Runs workers until they are told to end, and starts one anew that dies.

    Args:
        count: How many.
        models: The list of models to serve, serialized.
        become_worker: Turns the calling process into a worker. The signals that end or reload it are blocked.
    """
    with tempfile.TemporaryDirectory(prefix="glyph-serve-") as folder:
        os.environ[FOLDER_VARIABLE] = folder
        keep_models(models)
        sys.exit(_Supervisor(count, become_worker).run())


def sockets(count: int) -> tuple[Path, Sequence[Path]] | None:
    """The UNIX sockets of this worker and of the others; None in a server that has no workers."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None or count < 2:
        return None
    own = int(os.environ[NUMBER_VARIABLE])
    paths = [_socket(number) for number in range(count)]
    return paths[own], [path for number, path in enumerate(paths) if number != own]


def is_first() -> bool:
    """Whether this process speaks for all workers; it does if there are none."""
    return os.environ.get(NUMBER_VARIABLE, "0") == "0"


def is_replacement() -> bool:
    """Whether this worker takes the place of one that ended."""
    return REPLACEMENT_VARIABLE in os.environ


def models_in_effect() -> bytes | None:
    """The list of models that the workers serve, serialized; None in a server that has none."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return (Path(folder) / _MODELS).read_bytes() if folder is not None else None


def keep_models(models: bytes) -> None:
    """Keeps another list of models for workers that start from now on."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is not None and (not (kept := Path(folder) / _MODELS).exists() or kept.read_bytes() != models):
        written = kept.with_name(f"{_MODELS}.{os.getpid()}")
        written.write_bytes(models)
        written.rename(kept)


def _socket(number: int) -> Path:
    return Path(os.environ[FOLDER_VARIABLE]) / f"{number}.sock"


class _Supervisor:
    """Waits for signals and for workers that end, in one place: no handler can come in between."""

    def __init__(self, count: int, become_worker: Callable[[], NoReturn]) -> None:
        self._count = count
        self._become_worker = become_worker
        self._running: dict[int, tuple[int, float]] = {}  # number and start by process id
        self._due: dict[int, float] = {}  # when to start a worker of that number anew
        self._pauses: dict[int, float] = {}
        self._ending = False

    def run(self) -> int:
        """The exit status for all: that of the first worker that failed, else 0."""
        status = 0
        awaited = _FORWARDED | {signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        for number in range(self._count):
            self._start(number)
        while self._running or self._due:
            patience = max(0.0, min(self._due.values()) - time.monotonic()) if self._due else _LONGEST_PAUSE
            received = signal.sigtimedwait(awaited, patience)
            if received is None:
                self._start_due()
            elif received.si_signo == signal.SIGCHLD:
                status = self._bury(status)
            else:
                self._forward(received.si_signo)
        return status & 0xFF

    def _start(self, number: int) -> None:
        supervisor = os.getpid()
        sys.stdout.flush()
        _socket(number).unlink(missing_ok=True)
        pid = os.fork()
        if pid:
            self._running[pid] = (number, time.monotonic())
            return
        # The signals that are handled stay blocked: those that come before the worker can handle them wait for it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, signal.SIGUSR1})
        # The worker ends in good order when this process is killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:
            os._exit(1)
        os.environ[NUMBER_VARIABLE] = str(number)
        try:
            self._become_worker()
        except SystemExit as ended:
            os._exit(int(ended.code or 0))  # nothing of the supervisor's is to be tidied up here

    def _start_due(self) -> None:
        os.environ[REPLACEMENT_VARIABLE] = "1"
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._start(number)

    def _bury(self, status: int) -> int:
        """Takes leave of workers that have ended; the exit status for all so far."""
        while self._running:
            pid, ended = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            number, began = self._running.pop(pid)
            code = os.waitstatus_to_exitcode(ended)
            was_ready = _socket(number).exists()  # of its ports the last to be opened; loading may take any time
            settled = was_ready and time.monotonic() - began >= _SETTLED_SECONDS
            if self._ending:
                status = status or code
            elif was_ready or self._another_answers():
                pause = 0.0 if settled else min(2 * self._pauses.get(number, 0.5), _LONGEST_PAUSE)
                self._pauses[number] = pause or 0.5
                self._due[number] = time.monotonic() + pause
                LOGGER.warning("worker %d ended with %d and is started anew in %g s", number, code, pause)
            else:
                status = code or 1
                self._forward(signal.SIGTERM)
        return status

    def _another_answers(self) -> bool:
        """Whether a worker takes connections, so that callers would lose it if all ended."""
        for number, _ in self._running.values():
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(_ANSWERS_WITHIN)
                probe.connect(str(_socket(number)))
                return True
        return False

    def _forward(self, signum: int) -> None:
        if signum not in _LIVED_WITH:
            self._ending, signum = True, signal.SIGTERM
            self._due.clear()
        for pid in self._running:
            os.kill(pid, signum)
