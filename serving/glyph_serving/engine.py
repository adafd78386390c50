"""The threads on which heavy runs go on."""

import queue
import threading
from collections.abc import Callable

from glyph_serving.denormals import flush_in_this_thread
from glyph_serving.handover import Handover
from glyph_serving.log import LOGGER

Work = Callable[[], None]


class Engine:
    """Threads that do what they are given, in its order.

    An executor would keep a future of each piece of work, which costs what a small model's run does; here, work tells
    by itself how it ended.

    Args:
        threads: How many.
        handover: Told when there is work, and when there is none.
    """

    def __init__(self, threads: int, handover: Handover) -> None:
        self._handover = handover
        self._waiting: queue.SimpleQueue[Work] = queue.SimpleQueue()
        for number in range(threads):
            threading.Thread(target=self._work, name=f"engine_{number}", daemon=True).start()

    def submit(self, work: Work) -> None:
        """Has a thread do some work as soon as one is free."""
        self._waiting.put(work)

    def _work(self) -> None:
        flush_in_this_thread()
        while True:
            work = self._waiting.get()
            self._handover.run_begins()
            try:
                work()
            except Exception:  # noqa: BLE001 (the thread goes on with what others wait for)
                LOGGER.exception("an engine thread failed")
            finally:
                del work  # until there is more, nothing of a model may be kept
                self._handover.run_ends()
