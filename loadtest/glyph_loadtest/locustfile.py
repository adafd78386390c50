"""For Locust's own command line: `locust -f loadtest/glyph_loadtest/locustfile.py --host localhost:8500`.

The host says the protocol: ``localhost:8500`` or ``grpc://...`` is gRPC, ``http://...`` is REST. Master and workers
merge their measurements without loss; the master, or the only process, logs the percentiles at the end.
"""

import logging
from argparse import ArgumentParser
from typing import Any

import locust.runners
from locust import events
from locust.env import Environment

from glyph_loadtest.measurement import Measurement
from glyph_loadtest.options import add_request_options, add_stock_options
from glyph_loadtest.plan import job_of
from glyph_loadtest.result import PERCENTILES
from glyph_loadtest.session import REPORT, REPORT_EVERY, close_session, open_session, session_of
from glyph_loadtest.target import TargetError
from glyph_loadtest.users import DigitUser

__all__ = ["DigitUser"]

_logger = logging.getLogger(__name__)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: ArgumentParser, **_: Any) -> None:
    add_request_options(parser)
    add_stock_options(parser)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _prepare(environment: Environment, **_: Any) -> None:
    locust.runners.WORKER_REPORT_INTERVAL = REPORT_EVERY  # Locust reports every third second, too seldom to look at
    whole = Measurement()

    @environment.events.test_start.add_listener  # type: ignore[untyped-decorator]
    def begin(**_: Any) -> None:
        whole.seconds.clear()
        whole.examples.clear()
        _begin(environment)

    @environment.events.test_stopping.add_listener  # type: ignore[untyped-decorator]
    def stop(**_: Any) -> None:
        if session := session_of(environment):
            session.stop()

    @environment.events.report_to_master.add_listener  # type: ignore[untyped-decorator]
    def report(data: dict[str, Any], **_: Any) -> None:
        if session := session_of(environment):
            data[REPORT] = session.report()

    @environment.events.worker_report.add_listener  # type: ignore[untyped-decorator]
    def merge(data: dict[str, Any], **_: Any) -> None:
        if REPORT in data:
            whole.merge(Measurement.from_dict(data[REPORT]["measurement"]))

    @environment.events.quit.add_listener  # type: ignore[untyped-decorator]
    def tell(**_: Any) -> None:
        if session := session_of(environment):
            whole.merge(session.take())
            close_session(environment)
        if not isinstance(environment.runner, locust.runners.WorkerRunner):
            _tell(whole)


def _begin(environment: Environment) -> None:
    try:
        job = job_of(environment.host, environment.parsed_options)
    except TargetError as error:
        _logger.error("--host: %s", error)
        environment.process_exit_code = 2
        environment.runner.quit()
        return
    if not isinstance(environment.runner, locust.runners.MasterRunner):
        if not job.first and not environment.stop_timeout:
            environment.stop_timeout = job.target.timeout + 1  # what is on its way at the end still counts
        open_session(environment)


def _tell(measurement: Measurement) -> None:
    whole = measurement.between(0, max(measurement.seconds, default=0) + 1)
    figures = (f"p{percent:g} {whole.latency.percentile(percent) / 1000:.2f} ms" for percent in PERCENTILES)
    _logger.info("%d answers: %s", whole.latency.count, ", ".join(figures))
    _logger.info("%d of %d checked answers were right", whole.correct, whole.checked)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def _fail_without_answers(environment: Environment, **_: Any) -> None:
    stats = environment.stats.total
    if environment.process_exit_code is None and stats.num_requests == stats.num_failures:
        _logger.error("no request was answered")
        environment.process_exit_code = 1
