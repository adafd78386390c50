"""Produces load, in this process or in several, through Locust."""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import gevent
from locust import LoadTestShape
from locust.env import Environment

from glyph_loadtest.channel import NO_CONNECTION, CallError, call
from glyph_loadtest.clock import now
from glyph_loadtest.machine import machine
from glyph_loadtest.measurement import Measurement, Second
from glyph_loadtest.payload import answered_labels, open_channel, payloads
from glyph_loadtest.plan import Plan, as_options
from glyph_loadtest.result import Run
from glyph_loadtest.session import REPORT, REPORT_EVERY, Session, close_session, open_session
from glyph_loadtest.shapes import CONSTANT
from glyph_loadtest.target import Target
from glyph_loadtest.users import DigitUser

_GIVE_UP_AFTER = 3  # seconds in which the server refused every connection
_WORKERS_START = 60.0  # seconds in which worker processes must be there
INTERRUPTED = "interrupted"

Progress = Callable[[int, Second], None]


class WorkersError(RuntimeError):
    """The worker processes could not be brought together."""


def probe(target: Target) -> None:
    """Asks one request and reads its answer.

    Raises:
        CallError: the target did not answer it.
        AnswerError: the answer cannot be read.
    """
    channel = open_channel(target)
    try:
        payload = payloads(target)[0]
        reply = call(channel, payload.request)
        if reply.error is not None:
            raise CallError(reply.error.kind, reply.error.message)
        answered_labels(target.rest, reply.body, len(payload.labels))
    finally:
        channel.close()


class _Course(LoadTestShape):  # type: ignore[misc]
    """Tells Locust how many users there are, by the plan's shape."""

    def __init__(self, plan: Plan, first: int) -> None:
        super().__init__()
        self._plan = plan
        self._first = first

    def tick(self) -> tuple[int, float]:
        plan, moment = self._plan, now() - self._first
        users = max(1, round(plan.shape.level(plan.level, plan.seconds, min(moment, plan.seconds - 0.001))))
        return users, float(plan.level)  # at once, down as well as up


class _Crew(Protocol):
    """The processes that share a plan."""

    workers: int
    lead: float  # seconds that it takes to tell them
    delay: float  # seconds until what they have measured is known here

    def begin(self, target: Target, plan: Plan, first: int) -> None: ...

    def collect(self) -> Measurement: ...

    def idle(self) -> bool:
        """Whether all has been sent, replied to, and collected."""

    def alive(self) -> int:
        """How many processes there still are."""

    def finish(self) -> None: ...


class _Local:
    """This process alone."""

    workers, lead, delay = 1, 0.1, 0.0

    def __init__(self) -> None:
        self._environment: Environment | None = None
        self._session: Session | None = None

    def begin(self, target: Target, plan: Plan, first: int) -> None:
        environment = self._environment = Environment(user_classes=[DigitUser], host=str(target))
        environment.create_local_runner()
        environment.parsed_options = as_options(target, plan, first, parts=1)
        self._session = open_session(environment)
        _start(environment, plan, first, parts=1)

    def collect(self) -> Measurement:
        return self._session.take() if self._session is not None else Measurement()

    def idle(self) -> bool:
        return self._session is None or (self._session.over and not self._session.on_their_way)

    def alive(self) -> int:
        return 1

    def finish(self) -> None:
        if self._session is not None:
            self._session.stop()
        if self._environment is not None:
            self._environment.runner.quit()
            close_session(self._environment)


class _Workers:
    """Locust's master in this process, and its workers in processes of their own."""

    lead, delay = 1.0, 2.0

    def __init__(self, count: int, stack: ExitStack) -> None:
        self.workers = count
        self._measurement = Measurement()
        self._idle: dict[str, bool] = {}
        self._environment = Environment(user_classes=[DigitUser])
        self._runner = self._environment.create_master_runner("127.0.0.1", 0)
        self._environment.events.worker_report.add_listener(self._receive)
        command = [sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py")), "--worker"]
        command += ["--master-host", "127.0.0.1", "--master-port", str(self._runner.server.port)]
        command += ["--loglevel", "CRITICAL"]
        environment = dict(os.environ, GEVENT_BACKEND="select")
        self._processes = [stack.enter_context(_process(command, environment)) for _ in range(count)]
        stack.callback(self._runner.quit)
        self._await_workers()

    def _await_workers(self) -> None:
        deadline = time.monotonic() + _WORKERS_START
        while len(self._runner.clients.ready) < self.workers:
            if self.alive() < self.workers:
                raise WorkersError("a worker process ended before the load test began")
            if time.monotonic() > deadline:
                present = len(self._runner.clients.ready)
                raise WorkersError(f"{present} of {self.workers} workers were there after {_WORKERS_START:g} s")
            gevent.sleep(0.05)

    def _receive(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        if report := data.get(REPORT):
            self._measurement.merge(Measurement.from_dict(report["measurement"]))
            self._idle[client_id] = report["idle"]

    def begin(self, target: Target, plan: Plan, first: int) -> None:
        self._idle.clear()
        self._measurement = Measurement()
        self._environment.host = str(target)
        self._environment.parsed_options = as_options(target, plan, first, parts=self.workers)
        gevent.spawn(_start, self._environment, plan, first, parts=self.workers)

    def collect(self) -> Measurement:
        collected, self._measurement = self._measurement, Measurement()
        return collected

    def idle(self) -> bool:
        return sum(self._idle.values()) >= self.alive()

    def alive(self) -> int:
        return sum(process.poll() is None for process in self._processes)

    def finish(self) -> None:
        if not self.idle():
            self._runner.stop()
            gevent.sleep(1.5 * REPORT_EVERY)  # the last reports
        else:
            self._runner.stop()


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own, so that Ctrl-C reaches only the process that knows what to do about it.
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def _start(environment: Environment, plan: Plan, first: int, parts: int) -> None:
    if plan.arrivals is not None:
        environment.shape_class = None
        environment.runner.start(parts, spawn_rate=parts)
    elif plan.shape is CONSTANT:
        environment.shape_class = None
        environment.runner.start(round(plan.level), spawn_rate=plan.level)
    else:
        environment.shape_class = _Course(plan, first)
        environment.runner.start_shape()


class Generator:
    """What produces the load of one run after the other; a context manager.

    Args:
        workers: in how many processes; one means in this one.

    Raises:
        WorkersError: on entering, when the processes cannot be brought together.
    """

    def __init__(self, workers: int = 1) -> None:
        self._count = workers
        self._stack = ExitStack()
        self._crew: _Crew = _Local()

    def __enter__(self) -> Self:
        if self._count > 1:
            with ExitStack() as stack:
                self._crew = _Workers(self._count, stack)
                self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, target: Target, plan: Plan, progress: Progress) -> Run:
        """Loads a target and measures it.

        Ctrl-C, or a server that refuses every connection for three seconds, ends the run early; what was measured is
        kept.

        Args:
            target: what to ask.
            plan: how.
            progress: called after each second with its number (0 and below: warm-up) and what happened in it.
        """
        crew = self._crew
        measurement = Measurement()
        first = math.ceil(now() + crew.lead) + plan.warm_up
        end = first + plan.seconds
        cut_short = None
        try:
            crew.begin(target, plan, first)
            cut_short = self._watch(measurement, range(first - plan.warm_up, end), first, progress)
            patience = now() + (target.timeout + 1 if cut_short is None else 0)
            while not crew.idle() and now() < patience:
                gevent.sleep(0.02)
        except KeyboardInterrupt:
            cut_short = INTERRUPTED
        finally:
            end = max(first, min(end, math.floor(now() - crew.delay)))
            crew.finish()
            measurement.merge(crew.collect())
        return Run(target, plan, first, end, measurement, crew.workers, cut_short, machine())

    def _watch(self, measurement: Measurement, seconds: range, first: int, progress: Progress) -> str | None:
        """Collects each second when it is over; returns why the run cannot go on, None when it came to its end."""
        crew = self._crew
        refused = 0
        for second in seconds:
            gevent.sleep(max(0.0, second + 1 + crew.delay - now()))
            measurement.merge(crew.collect())
            seen = measurement.at(second)
            progress(second - first + 1, seen)
            refused = refused + 1 if not seen.finished and set(seen.failures) == {NO_CONNECTION} else 0
            if refused == _GIVE_UP_AFTER:
                return f"the server refused every connection for {_GIVE_UP_AFTER} s"
            if not crew.alive():
                return "no worker process is left"
        return None
