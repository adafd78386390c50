"""One clock for all that a process measures, which nobody sets while it runs."""

import time
from time import perf_counter

EPOCH = time.time() - perf_counter()
"""What makes Unix time of ``perf_counter``, in seconds: by the system's clock when this process began."""


def now() -> float:
    """Unix time in seconds, which steps of the system's clock do not falsify."""
    return EPOCH + perf_counter()
