"""Which threads may interrupt others.

A message passes through several threads. Where there are few cores, each of them that wakes up would take the core from
the event loop, for which all others wait. Threads under Linux's policy for batch work do not interrupt: they run when a
core is free or their turn has come, and hand over several messages at a time.
"""

import contextlib
import os
from pathlib import Path


def let_no_thread_interrupt() -> None:
    """Puts all threads of the process, and with them those that they will start, under the policy for batch work.

    Threads that run under any other than the usual policy stay under it: somebody has chosen it.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # there is no /proc
            for thread in Path("/proc/self/task").iterdir():
                _change(int(thread.name), os.SCHED_OTHER, os.SCHED_BATCH)


def let_this_thread_interrupt() -> None:
    """Puts the calling thread, and with it those that it will start, back under the usual policy."""
    if hasattr(os, "SCHED_BATCH"):
        _change(0, os.SCHED_BATCH, os.SCHED_OTHER)


def _change(thread: int, policy: int, to: int) -> None:
    with contextlib.suppress(OSError):  # it has ended, or a sandbox forbids it: this only saves time
        if os.sched_getscheduler(thread) == policy:
            os.sched_setscheduler(thread, to, os.sched_param(0))
