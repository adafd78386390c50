"""Carries out one load test in this process, through Locust."""

import math
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

import gevent
from locust.env import Environment

from glyph_loadtest.channel import NO_CONNECTION, CallError, call
from glyph_loadtest.measurement import Second
from glyph_loadtest.payload import answered_labels, open_channel, payloads
from glyph_loadtest.report import Run
from glyph_loadtest.session import end_session, session_of
from glyph_loadtest.target import Target
from glyph_loadtest.users import DigitUser

_GIVE_UP_AFTER = 3  # seconds in which the server refused every connection

Progress = Callable[[int, Second], None]


@dataclass(frozen=True)
class Plan:
    """How a target is to be loaded.

    Attributes:
        users: how many ask at the same time, each one again as soon as it has its answer.
        seconds: how long to measure.
        warm_up: seconds of load before that, which do not count.
        check_share: the share of the answers that is compared with the truth.
    """

    users: int
    seconds: int
    warm_up: int = 1
    check_share: float = 0.1

    def __str__(self) -> str:
        return "1 user" if self.users == 1 else f"{self.users} users"


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


def run(target: Target, plan: Plan, progress: Progress) -> Run:
    """Loads a target and measures it.

    Ctrl-C, or a server that refuses every connection for three seconds, ends the run early; what was measured is kept.

    Args:
        target: what to ask.
        plan: how.
        progress: called after each second with its number (0 and below: warm-up) and what happened in it.
    """
    environment = Environment(user_classes=[DigitUser], host=str(target))
    environment.parsed_options = Namespace(
        model=target.model,
        payload=target.payload.value,
        batch=target.batch,
        request_timeout=target.timeout,
        check_share=plan.check_share,
    )
    environment.stop_timeout = target.timeout + 1  # what is on its way at the end still counts
    measurement = session_of(environment).measurement
    runner = environment.create_local_runner()
    cut_short = None
    first = math.ceil(time.time()) + plan.warm_up
    end = first + plan.seconds
    try:
        runner.start(plan.users, spawn_rate=plan.users)
        refused = 0
        for second in range(first - plan.warm_up, end):
            gevent.sleep(max(0.0, second + 1 - time.time()))
            seen = measurement.at(second)
            progress(second - first + 1, seen)
            alive = seen.finished or set(seen.failures) != {NO_CONNECTION}
            refused = 0 if alive else refused + 1
            if refused == _GIVE_UP_AFTER:
                cut_short = f"the server refused every connection for {_GIVE_UP_AFTER} s"
                break
    except KeyboardInterrupt:
        cut_short = "interrupted"
    finally:
        end = max(first, min(end, math.floor(time.time())))
        runner.quit()
        end_session(environment)
    return Run(target, str(plan), first, end, measurement, cut_short)
