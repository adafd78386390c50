"""Which threads may interrupt others.

Every message passes through several threads, and where there are few cores, each that wakes up takes the core from the
event loop, which is the one that all others wait for: with one request or two, where a moment later it would have found
ten. Threads under Linux's policy for batch work do not interrupt: they run when a core is free or their turn has come.
"""

import contextlib
import os
from pathlib import Path


def let_no_thread_interrupt() -> None:
    """Puts all threads of the process, and with them those that they will start, under the policy for batch work."""
    if hasattr(os, "SCHED_BATCH"):
        for thread in Path("/proc/self/task").iterdir():
            _set(int(thread.name), os.SCHED_BATCH)


def let_this_thread_interrupt() -> None:
    """Puts the calling thread, and with it those that it will start, under the usual policy."""
    if hasattr(os, "SCHED_BATCH"):
        _set(0, os.SCHED_OTHER)


def _set(thread: int, policy: int) -> None:
    with contextlib.suppress(OSError):  # it has ended, or a sandbox forbids it: this only saves time
        os.sched_setscheduler(thread, policy, os.sched_param(0))
