"""Locust's users: each asks about one handwritten digit after the other, over gRPC or REST as its host says."""

import gevent
from locust import User, constant, task
from locust.exception import StopUser

from glyph_loadtest.channel import NO_CONNECTION
from glyph_loadtest.session import Session, session_of

_PAUSE_WITHOUT_SERVER = 0.1  # seconds: so that a dead server does not drown the report in failures


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
            raise gevent.GreenletExit  # what was asked for cannot be done; that has been said
        self.session = session

    @task  # type: ignore[untyped-decorator]
    def predict(self) -> None:
        """Asks once; as a source, sends all that is due."""
        if self.session.over:
            raise StopUser
        if self.session.job.rate:
            self.session.keep_schedule()
            while self.session.on_their_way:
                gevent.sleep(0.02)
            raise StopUser
        error = self.session.ask()
        if error is not None and error.kind == NO_CONNECTION:
            gevent.sleep(_PAUSE_WITHOUT_SERVER)
