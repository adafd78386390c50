"""One process's part in a load test: the channel, the payloads and the measurement, tied to a Locust environment."""

import random
from collections.abc import Callable
from functools import partial
from itertools import cycle, repeat
from time import perf_counter, process_time
from typing import Any

import gevent
from gevent.hub import Waiter
from locust.env import Environment

from glyph_loadtest.arrival import due_times, phases
from glyph_loadtest.channel import CallError, Reply
from glyph_loadtest.clock import EPOCH, now
from glyph_loadtest.measurement import Measurement
from glyph_loadtest.payload import AnswerError, Payload, answered_labels, open_channel, payloads
from glyph_loadtest.plan import Job, job_of
from glyph_loadtest.shapes import Segment

UNREADABLE = "UNREADABLE ANSWER"
NOT_SENT = "NOT SENT"
_MOST_ON_THEIR_WAY = 10_000  # requests of one process: beyond that the server does not keep up, and memory is finite
_TICK = 0.02  # seconds between two looks at the process itself
_LOOK_UP_EVERY = 0.1  # seconds of waiting for the next request
_FOREVER = 1e9
REPORT = "glyph"  # where Locust's messages from a worker to the master carry what was measured
REPORT_EVERY = 1.0  # seconds


class Session:
    """Sends the requests of one process and measures them.

    Args:
        environment: the Locust environment whose `request` event hears of every request.
        job: what to ask, and when.
        worker: the name of this process among those that share the load test.
        index: its number among them.

    Attributes:
        measurement: what was measured since the last `take`.
        on_their_way: requests that have no reply yet.
    """

    def __init__(self, environment: Environment, job: Job, worker: str = "local", index: int = 0) -> None:
        self.job = job
        self.measurement = Measurement()
        self.on_their_way = 0
        self._stopping = False
        self._channel = open_channel(job.target)
        self._payloads = cycle(payloads(job.target))
        self._fire = environment.events.request.fire
        self._kind = "REST" if job.target.rest else "gRPC"
        self._chance = random.Random()  # noqa: S311 (answers are drawn, for faults may come at regular intervals)
        self._phases = repeat((index + 0.5) / job.parts) if job.first else phases(self._chance.random())
        self._checked_one = False
        self._watch = gevent.spawn(self._watch_itself, worker)

    @property
    def over(self) -> bool:
        """Whether no further request is due."""
        return self._stopping or now() >= self.job.end

    def stop(self) -> None:
        """Lets no further request be sent."""
        self._stopping = True
        self._watch.kill()

    def close(self) -> None:
        """Closes the channel."""
        self.stop()
        self._channel.close()

    def take(self) -> Measurement:
        """Hands over what was measured since the last time."""
        taken, self.measurement = self.measurement, Measurement()
        return taken

    def report(self) -> dict[str, Any]:
        """What a worker tells the master."""
        return {"measurement": self.take().as_dict(), "idle": self.over and not self.on_their_way}

    def ask(self) -> CallError | None:
        """Closed loop: sends one request, waits for its end, and measures it; returns the error if there was one."""
        payload, started = next(self._payloads), perf_counter()
        waiter: Waiter[CallError | None] = Waiter()
        wake = gevent.get_hub().loop.run_callback
        self.on_their_way += 1
        # Measured in the callback: Locust may take away the user who waits.
        self._channel.start(payload.request, lambda reply: wake(waiter.switch, self._ended(payload, started, reply)))
        error: CallError | None = waiter.get()
        return error

    def keep_schedule(self, leaving: Callable[[], bool]) -> None:
        """Open loop: sends requests when they are due, without regard to the replies, until none is due any more.

        Args:
            leaving: whether to leave off before that; asked ten times a second.
        """
        job = self.job
        if job.first:
            start = job.first - EPOCH
            segments = job.shape.segments(job.rate, job.seconds, job.warm_up)
        else:
            start = perf_counter()
            segments = iter([Segment(0.0, _FOREVER, job.rate, job.rate)])
        sent_in_a_row = 0
        for moment in due_times(segments, job.arrivals, next(self._phases)):
            due = start + moment
            while (early := due - perf_counter()) > 0 and not (self._stopping or leaving()):
                gevent.sleep(min(early, _LOOK_UP_EVERY))
                sent_in_a_row = 0
            if self._stopping or leaving():
                return
            self._send(due)
            sent_in_a_row += 1
            if sent_in_a_row % 8 == 0:
                gevent.sleep(0)  # the replies must be read even when the schedule leaves no time

    def _send(self, due: float) -> None:
        payload = next(self._payloads)
        self.on_their_way += 1
        if self.on_their_way > _MOST_ON_THEIR_WAY:
            error = CallError(NOT_SENT, f"{_MOST_ON_THEIR_WAY:,} requests were still on their way")
            self._ended(payload, due, Reply(b"", error, perf_counter()))
            return
        self._channel.start(payload.request, partial(self._ended, payload, due))
        self.measurement.at(EPOCH + due).lag.record(round((perf_counter() - due) * 1e6))

    def _ended(self, payload: Payload, due: float, reply: Reply) -> CallError | None:
        self.on_their_way -= 1
        latency, error = reply.at - due, reply.error
        second = self.measurement.at(EPOCH + due)
        if error is None and (not self._checked_one or self._chance.random() < self.job.check_share):
            self._checked_one = True
            try:
                answers = answered_labels(self.job.target.rest, reply.body, len(payload.labels))
                second.checked += len(payload.labels)
                second.correct += sum(map(str.__eq__, answers, payload.labels))
            except AnswerError as unreadable:
                error = CallError(UNREADABLE, str(unreadable))
        if error is None:
            second.latency.record(round(latency * 1e6))
            self.measurement.at(EPOCH + reply.at).finished += 1
        else:
            second.failures[error.kind] = second.failures.get(error.kind, 0) + 1
            self.measurement.examples.setdefault(error.kind, error.message)
        self._fire(
            request_type=self._kind,
            name=self.job.target.model,
            response_time=latency * 1000,
            response_length=len(reply.body),
            exception=error,
            context={},
        )
        return error

    def _watch_itself(self, worker: str) -> None:
        """Notes the processor time that this process uses and, in a closed loop, how late its timers are."""
        used = process_time()
        while True:
            due = perf_counter() + _TICK
            gevent.sleep(_TICK)
            second = self.measurement.at(now())
            before, used = used, process_time()
            second.cpu[worker] = second.cpu.get(worker, 0.0) + used - before
            if not self.job.rate:
                second.lag.record(round((perf_counter() - due) * 1e6))


def open_session(environment: Environment) -> Session:
    """Opens the session of a process that Locust has told to start.

    Raises:
        TargetError: the environment's host and options describe no job.
    """
    close_session(environment)
    job = job_of(environment.host, environment.parsed_options)
    worker = getattr(environment.runner, "client_id", "local")
    session = Session(environment, job, worker, max(0, environment.runner.worker_index))
    environment.glyph_session = session
    return session


def session_of(environment: Environment) -> Session | None:
    """The open session of a Locust environment, None when it has none."""
    held: dict[str, Any] = environment.__dict__
    session: Session | None = held.get("glyph_session")
    return session


def close_session(environment: Environment) -> None:
    """Closes the session of a Locust environment, if it has one."""
    session = session_of(environment)
    if session is not None:
        session.close()
        environment.glyph_session = None
