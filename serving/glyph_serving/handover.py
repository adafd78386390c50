"""The threads by which pyvoy hands events to the event loops, and when they may interrupt others.

Such a thread wakes for nearly every event, and so interrupts the loop that is at work on those before. Where it waits
until a processor is free it finds several at once, which brings 5 to 10 % more requests. But where heavy runs keep the
processors, waiting takes milliseconds.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any


class Handover:
    """Has those threads wait for their turn, except during heavy runs (on Linux; elsewhere it does nothing)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: set[int] = set()
        self._runs = 0

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Counts the next thread that hands an event to a loop among those that are to wait."""

        def first_of_all(callback: Callable[..., object], *arguments: Any, **options: Any) -> asyncio.Handle:
            del loop.call_soon_threadsafe  # the loop's own again
            with self._lock:
                self._threads.add(threading.get_native_id())
                self._schedule()
            return loop.call_soon_threadsafe(callback, *arguments, **options)

        loop.call_soon_threadsafe = first_of_all  # type: ignore[method-assign, assignment]

    def run_begins(self) -> None:
        """Has them interrupt others from now on: a heavy run begins."""
        with self._lock:
            self._runs += 1
            if self._runs == 1:
                self._schedule()

    def run_ends(self) -> None:
        """Has them wait again if it was the last heavy run."""
        with self._lock:
            self._runs -= 1
            if not self._runs:
                self._schedule()

    def _schedule(self) -> None:
        if not hasattr(os, "SCHED_BATCH"):
            return
        policy = os.SCHED_OTHER if self._runs else os.SCHED_BATCH
        for thread in self._threads:
            with contextlib.suppress(OSError):  # where that is forbidden, they go on as before
                os.sched_setscheduler(thread, policy, os.sched_param(0))
