"""Locust's users: each asks about one handwritten digit after the other, over gRPC or REST as its host says."""

import logging

import gevent
from locust import User, constant, task
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_STOPPING

from glyph_loadtest.channel import NO_CONNECTION, TOO_MANY_FILES
from glyph_loadtest.session import Session, session_of

_PAUSE_WITHOUT_CONNECTION = 0.1  # seconds: so that a dead server does not drown the report in failures

_logger = logging.getLogger(__name__)


class DigitUser(User):  # type: ignore[misc]
    """A user who asks, waits for the answer, and asks again (a closed loop).

    With a rate in the options it is a source of requests instead, each sent when it is due (an open loop).
    All users of a process share one session. `host` is ``localhost:8500``, ``grpc://...`` or ``http://...``.
    """

    wait_time = constant(0)
    session: Session

    def on_start(self) -> None:
        """Joins the session of this process."""
        session = session_of(self.environment)
        if session is None:
            _logger.error("a user sends nothing, for the test could not be started: the error before this one says why")
            raise gevent.GreenletExit
        self.session = session

    @task  # type: ignore[untyped-decorator]
    def predict(self) -> None:
        """Asks once; as a source, sends all that is due."""
        if self.session.over:
            raise StopUser
        if self.session.job.rate:
            self.session.keep_schedule(lambda: self._state == LOCUST_STATE_STOPPING)
            # What is on its way at the end still counts. A user who leaves before that need not stay for it: whoever
            # is left will.
            while self.session.over and self.session.on_their_way:
                gevent.sleep(0.02)
            raise StopUser
        error = self.session.ask()
        if error is not None and error.kind in (NO_CONNECTION, TOO_MANY_FILES):
            gevent.sleep(_PAUSE_WITHOUT_CONNECTION)
