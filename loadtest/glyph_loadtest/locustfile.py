"""For Locust's own command line: `locust -f loadtest/glyph_loadtest/locustfile.py --host localhost:8500`.

The host says the protocol: ``localhost:8500`` or ``grpc://...`` is gRPC, ``http://...`` is REST.
"""

import logging
from argparse import ArgumentParser
from typing import Any

from locust import events
from locust.env import Environment

from glyph_loadtest.options import add_request_options
from glyph_loadtest.session import end_session, session_of, target_of
from glyph_loadtest.target import TargetError
from glyph_loadtest.users import DigitUser

__all__ = ["DigitUser"]

_logger = logging.getLogger(__name__)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: ArgumentParser, **_: Any) -> None:
    add_request_options(parser)


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _check(environment: Environment, **_: Any) -> None:
    try:
        target = target_of(environment.host, environment.parsed_options)
    except TargetError as error:
        _logger.error("--host: %s", error)
        environment.process_exit_code = 2
        environment.runner.quit()
        return
    if not environment.stop_timeout:
        environment.stop_timeout = target.timeout + 1  # what is on its way at the end still counts


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def _tell_accuracy(environment: Environment, **_: Any) -> None:
    if "glyph_session" in environment.__dict__:
        seconds = session_of(environment).measurement.seconds.values()
        checked, correct = (sum(getattr(second, name) for second in seconds) for name in ("checked", "correct"))
        _logger.info("%d of %d checked answers were right", correct, checked)
        end_session(environment)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def _fail_without_answers(environment: Environment, **_: Any) -> None:
    if environment.process_exit_code is None and environment.stats.total.num_requests == 0:
        _logger.error("no request was answered")
        environment.process_exit_code = 1
