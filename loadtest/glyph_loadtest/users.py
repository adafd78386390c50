"""Locust's users: each asks about one handwritten digit after the other, over gRPC or REST as its host says."""

import gevent
from locust import User, constant, task

from glyph_loadtest.channel import NO_CONNECTION
from glyph_loadtest.session import Session, session_of

_PAUSE_WITHOUT_SERVER = 0.1  # seconds: so that a dead server does not drown the report in failures


class DigitUser(User):  # type: ignore[misc]
    """A user who asks, waits for the answer, and asks again (a closed loop).

    All users of a process share one channel. `host` is ``localhost:8500``, ``grpc://...`` or ``http://...``.
    """

    wait_time = constant(0)
    session: Session

    def on_start(self) -> None:
        """Joins the session of this process."""
        self.session = session_of(self.environment)

    @task  # type: ignore[untyped-decorator]
    def predict(self) -> None:
        """Asks once."""
        error = self.session.ask()
        if error is not None and error.kind == NO_CONNECTION:
            gevent.sleep(_PAUSE_WITHOUT_SERVER)
