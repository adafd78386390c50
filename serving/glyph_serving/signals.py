"""The thread that waits for the signals which every other thread has blocked (see envoy.py)."""

import os
import signal
import threading
from collections.abc import Callable

from glyph_serving.envoy import HANDLED_SIGNALS


class Signals(threading.Thread):
    """Waits for SIGTERM, SIGINT and SIGHUP, from before TensorFlow is imported.

    Attributes:
        terminate: Ends the server in good order; until it is set, there is nothing to put in order.
        reload: Reads the configuration again; until it is set, there is none to read.
    """

    def __init__(self) -> None:
        super().__init__(name="signals", daemon=True)
        self.terminate: Callable[[], None] = lambda: None
        self.reload: Callable[[], None] = lambda: None

    def run(self) -> None:
        """Handles signals until one ends the process."""
        while signal.sigwait(HANDLED_SIGNALS) == signal.SIGHUP:
            self.reload()
        self.terminate()
        os._exit(0)  # Envoy's own way out would wait for its destructors, and take TensorFlow's threads by surprise
