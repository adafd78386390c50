"""The threads that heed the signals which every other thread has blocked (see envoy.py)."""

import os
import signal
import threading
from collections.abc import Callable

from glyph_serving.envoy import HANDLED_SIGNALS


class Signals(threading.Thread):
    """Waits for SIGTERM, SIGINT and SIGHUP, from before TensorFlow is imported."""

    def __init__(self) -> None:
        super().__init__(name="signals", daemon=True)
        self._terminate: Callable[[], None] = lambda: None  # there is nothing to put in order yet
        self._reload_due = threading.Event()

    def heed(self, terminate: Callable[[], None], reload: Callable[[], None]) -> None:
        """Passes signals on from now on, and a SIGHUP that has come before.

        Args:
            terminate: Ends the server in good order.
            reload: Reads the configuration again. It may take any time: it has a thread of its own, and is called once
                more after a SIGHUP that comes meanwhile.
        """
        self._terminate = terminate
        threading.Thread(target=self._keep_reloading, args=[reload], name="reload", daemon=True).start()

    def run(self) -> None:
        """Handles signals until one ends the process."""
        while signal.sigwait(HANDLED_SIGNALS) == signal.SIGHUP:
            self._reload_due.set()
        self._terminate()
        os._exit(0)  # Envoy's own way out would wait for its destructors, and take TensorFlow's threads by surprise

    def _keep_reloading(self, reload: Callable[[], None]) -> None:
        while self._reload_due.wait():
            self._reload_due.clear()
            reload()
