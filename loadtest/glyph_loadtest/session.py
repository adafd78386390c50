"""One process's part in a load test: the channel, the payloads and the measurement, tied to a Locust environment."""

import random
import time
from argparse import Namespace
from itertools import cycle
from time import perf_counter
from typing import Any

from locust.env import Environment

from glyph_loadtest.channel import CallError, Reply, call
from glyph_loadtest.measurement import Measurement
from glyph_loadtest.payload import AnswerError, Payload, answered_labels, open_channel, payloads
from glyph_loadtest.target import PayloadKind, Target, parse_address

UNREADABLE = "UNREADABLE ANSWER"


def target_of(host: str | None, options: Namespace) -> Target:
    """The target that Locust's options describe.

    Raises:
        TargetError: they describe none.
    """
    address, rest = parse_address(host or "")
    return Target(address, rest, options.model, PayloadKind(options.payload), options.batch, options.request_timeout)


class Session:
    """Sends requests to one target and measures them.

    Args:
        environment: the Locust environment whose `request` event hears of every request.
        target: what to ask.
        check_share: the share of the answers, 0 to 1, that is compared with the truth; the first one always is.
    """

    def __init__(self, environment: Environment, target: Target, check_share: float = 0.1) -> None:
        self.target = target
        self.measurement = Measurement()
        self.stopping = False
        self._channel = open_channel(target)
        self._payloads = cycle(payloads(target))
        self._fire = environment.events.request.fire
        self._kind = "REST" if target.rest else "gRPC"
        self._epoch = time.time() - perf_counter()
        self._check_share = check_share
        self._chance = random.Random()  # noqa: S311 (answers are drawn, for faults may come at regular intervals)
        self._checked_one = False

    def ask(self) -> CallError | None:
        """Sends one request, waits for its end, and measures it; returns the error if there was one."""
        payload = next(self._payloads)
        started = perf_counter()
        return self._ended(payload, started, call(self._channel, payload.request))

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def _ended(self, payload: Payload, due: float, reply: Reply) -> CallError | None:
        latency, error = reply.at - due, reply.error
        second = self.measurement.at(self._epoch + due)
        if error is None and (not self._checked_one or self._chance.random() < self._check_share):
            self._checked_one = True
            try:
                answers = answered_labels(self.target.rest, reply.body, len(payload.labels))
                second.checked += len(payload.labels)
                second.correct += sum(map(str.__eq__, answers, payload.labels))
            except AnswerError as unreadable:
                error = CallError(UNREADABLE, str(unreadable))
        if error is None:
            second.latency.record(round(latency * 1e6))
            self.measurement.at(self._epoch + reply.at).finished += 1
        else:
            second.failures[error.kind] = second.failures.get(error.kind, 0) + 1
            self.measurement.examples.setdefault(error.kind, error.message)
        self._fire(
            request_type=self._kind,
            name=self.target.model,
            response_time=latency * 1000,
            response_length=len(reply.body),
            exception=error,
            context={},
        )
        return error


def session_of(environment: Environment) -> Session:
    """The session of a Locust environment, opened with its options when it is first asked for."""
    held: dict[str, Any] = environment.__dict__
    if "glyph_session" not in held:
        options = environment.parsed_options
        held["glyph_session"] = Session(environment, target_of(environment.host, options), options.check_share)
    session: Session = held["glyph_session"]
    return session


def end_session(environment: Environment) -> None:
    """Closes the session of a Locust environment, if it has one."""
    session = environment.__dict__.pop("glyph_session", None)
    if session is not None:
        session.close()
