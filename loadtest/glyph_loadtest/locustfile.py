"""For Locust's own command line: `locust -f loadtest/glyph_loadtest/locustfile.py --host localhost:8500`.

The host says the protocol: ``localhost:8500`` or ``grpc://...`` is gRPC, ``http://...`` is REST. Master and workers
merge their measurements without loss; the master, or the only process, prints them at the end, and Locust's web page
has them at ``/glyph`` at any time.
"""

import logging
from argparse import ArgumentParser
from typing import Any

import gevent
from locust import events, runners
from locust.env import Environment

from glyph_loadtest.html import page
from glyph_loadtest.machine import machine
from glyph_loadtest.measurement import Measurement
from glyph_loadtest.options import add_request_options, add_stock_options
from glyph_loadtest.plan import Job, Plan, job_of
from glyph_loadtest.result import LOST_WITH_WORKER, Run, summarise, table
from glyph_loadtest.session import REPORT, REPORT_EVERY, close_session, open_session, session_of
from glyph_loadtest.target import TargetError
from glyph_loadtest.users import DigitUser

__all__ = ["DigitUser"]

_NO_MORE = "glyph-no-more"  # what the master tells the workers at the end, before Locust's own message
_LAST_REPORTS = 3.0  # seconds until a worker's report is there, beyond the time-out of its last request

_logger = logging.getLogger(__name__)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: ArgumentParser, **_: Any) -> None:
    add_request_options(parser)
    add_stock_options(parser)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _attach(environment: Environment, **_: Any) -> None:
    runners.WORKER_REPORT_INTERVAL = REPORT_EVERY  # Locust reports every third second, too seldom to look at
    # Locust's timers count from when gevent last looked at the clock, which was before the imports.
    gevent.get_hub().loop.update_now()
    record = environment.glyph_record = _Record(environment)
    for event in ("test_stopping", "report_to_master", "worker_report", "quitting", "quit"):
        getattr(environment.events, event).add_listener(getattr(record, event))
    environment.runner.register_message(_NO_MORE, record.no_more)
    if environment.web_ui is not None:
        show = environment.web_ui.auth_required_if_enabled(record.page)
        environment.web_ui.app.add_url_rule("/glyph", view_func=show)


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _begin(environment: Environment, **_: Any) -> None:
    # A worker that joins a running test may be told to start while Locust is still at making its runner.
    while "glyph_record" not in environment.__dict__:
        gevent.sleep(0.01)
    environment.glyph_record.test_start()


class _Record:
    """What this process, and as master its workers, measured in a test; its methods are named after Locust's events."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._job: Job | None = None
        self._measurement = Measurement()
        self._idle: set[str] = set()  # the workers from whom nothing more will come

    def test_start(self) -> None:
        """Opens the session of a process that sends."""
        environment = self._environment
        close_session(environment)
        self._job, self._measurement = None, Measurement()
        self._idle.clear()
        try:
            job = self._job = job_of(environment.host, environment.parsed_options)
        except TargetError as error:
            _logger.error("--host: %s", error)
            if environment.web_ui is None:
                environment.process_exit_code = 2
                environment.runner.quit()
            else:
                gevent.spawn(environment.runner.stop)  # once it has started: another host may be typed
            return
        if not isinstance(environment.runner, runners.MasterRunner):
            if not job.first and not environment.stop_timeout:
                environment.stop_timeout = job.target.timeout + 1  # what is on its way at the end still counts
            open_session(environment)

    def test_stopping(self, **_: Any) -> None:
        """Lets no further request be sent; as master, waits for what is on its way."""
        runner = self._environment.runner
        if isinstance(runner, runners.MasterRunner):
            # Locust's own message would end the workers within half a second.
            runner.send_message(_NO_MORE)
            with gevent.Timeout(_LAST_REPORTS + (self._job.target.timeout if self._job is not None else 0), False):
                while any(worker.id not in self._idle for worker in runner.clients.running + runner.clients.spawning):
                    gevent.sleep(0.05)
        elif session := session_of(self._environment):
            session.stop()

    def no_more(self, **_: Any) -> None:
        """Lets no further request be sent, as the master says."""
        if session := session_of(self._environment):
            session.stop()

    def report_to_master(self, data: dict[str, Any], **_: Any) -> None:
        """Tells the master what was measured since the last time."""
        if session := session_of(self._environment):
            data[REPORT] = session.report()

    def worker_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        """Merges what a worker tells."""
        if REPORT in data:
            self._measurement.merge(Measurement.from_dict(data[REPORT]["measurement"]))
            if data[REPORT]["idle"]:
                self._idle.add(client_id)

    def quitting(self, **_: Any) -> None:
        """Sets the exit code: Locust's own, unless there are no figures or a worker has died."""
        environment = self._environment
        if isinstance(environment.runner, runners.WorkerRunner) or environment.process_exit_code is not None:
            return
        run = self._run()
        summary = None if run is None else summarise(run)
        if summary is None or not summary.requests:
            _logger.error("no request was answered")
            environment.process_exit_code = 1
        elif summary.refused is not None:
            environment.process_exit_code = 3
        elif any(failure.kind == LOST_WITH_WORKER for failure in summary.failures):
            environment.process_exit_code = 1

    def quit(self, **_: Any) -> None:
        """Prints the figures."""
        run = self._run()
        close_session(self._environment)
        if run is None or isinstance(self._environment.runner, runners.WorkerRunner):
            return
        if (refused := summarise(run).refused) is not None:
            _logger.error("no figures, for %s", refused)
        else:
            print(table(run))

    def page(self) -> str:
        """The page `/glyph`."""
        run = self._run()
        return "Nothing has been measured yet." if run is None else page(run)

    def _run(self) -> Run | None:
        """What was measured so far, in the whole seconds between the first request and the last."""
        environment, measurement, job = self._environment, self._measurement, self._job
        if session := session_of(environment):
            measurement.merge(session.take())
        used = [number for number, second in measurement.seconds.items() if second.latency.counts or second.failures]
        if job is None or not used:
            return None
        first, end = min(used), max(used) + 1
        if end - first > 2:
            first, end = first + 1, end - 1
        users = environment.runner.target_user_count
        level, arrivals = (job.rate * users, job.arrivals) if job.rate else (users, None)
        plan = Plan(level, end - first, 0, arrivals, check_share=job.check_share)
        workers = {worker for second in measurement.seconds.values() for worker in second.cpu}
        if isinstance(environment.runner, runners.MasterRunner):
            workers.update(environment.runner.clients)
        return Run(job.target, plan, first, end, measurement, len(workers), machine=machine())
