"""When to try again, whom to try, and when to stop."""

import math
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from glyph_client._errors import CallError, Overloaded, Unavailable

T = TypeVar("T")

_DOWN_SECONDS: Final = 10.0  # others are preferred so long to a replica that failed


@dataclass(frozen=True, slots=True)
class Retry:
    """How failed calls are repeated, always within the call's deadline.

    Only UNAVAILABLE, RESOURCE_EXHAUSTED and lost connections are worth another attempt; predictions change nothing on
    the server, so that repeating one is safe.

    Attributes:
        attempts: at most so many in all for each target; 1 means no retry.
        initial: seconds to wait before the second attempt, doubled each time; the wait is drawn evenly from half of
            that to all of it.
        longest: the longest wait, in seconds, unless the server asks for more (Retry-After).
        budget: retries that may be spent at once; each call that succeeds gives a tenth of one back. An overloaded
            server is so spared a storm of retries (gRPC's proposal A6). Turning to another target is free.
    """

    attempts: int = 5
    initial: float = 0.1
    longest: float = 2.0
    budget: float = 100.0

    def wait(self, failures: int, error: CallError) -> float:
        """Seconds to wait after so many failed attempts, of which `error` is the last."""
        if error.retry_after is not None:
            return error.retry_after
        longest = min(self.initial * 2.0 ** (failures - 1), self.longest)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)


class Budget:
    """The retries that a client may still spend; safe to use from several threads."""

    def __init__(self, retries: float) -> None:
        self._most = retries
        self._left = retries
        self._lock = threading.Lock()

    def spend(self) -> bool:
        """Takes one retry; False if there is none left."""
        with self._lock:
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True

    def refill(self) -> None:
        """A call has succeeded."""
        if self._left < self._most:
            with self._lock:
                self._left = min(self._left + 0.1, self._most)


class Deadline:
    """A moment until which a call must be done."""

    def __init__(self, timeout: float) -> None:
        self._end = time.monotonic() + timeout

    def left(self) -> float:
        """Seconds left, negative when it has passed."""
        return self._end - time.monotonic()


class Replicas(Generic[T]):
    """The targets in the order of preference, and which of them have just failed."""

    def __init__(self, replicas: Sequence[T]) -> None:
        self.all = list(replicas)
        self._down_until = [0.0] * len(self.all)

    def pick(self, tried: Sequence[T] = ()) -> T:
        """The first that is not down and not just tried, else the one that has been down the longest."""
        if not tried and not self._down_until[0]:
            return self.all[0]
        now = time.monotonic()
        order = sorted(range(len(self.all)), key=lambda i: (self.all[i] in tried, self._down_until[i] > now, i))
        best = order[0]
        if self._down_until[best] > now:
            untried = [i for i in order if (self.all[i] in tried) == (self.all[best] in tried)]
            best = min(untried, key=lambda i: self._down_until[i])
        elif self._down_until[best]:  # This request finds out; the others need not wait for it.
            self._down_until[best] = now + _DOWN_SECONDS
        return self.all[best]

    def failed(self, replica: T) -> None:
        """Prefers others for a while."""
        self._down_until[self.all.index(replica)] = time.monotonic() + _DOWN_SECONDS

    def answered(self, replica: T) -> None:
        """Prefers it again."""
        self._down_until[self.all.index(replica)] = 0.0


def is_worth_retrying(error: CallError) -> bool:
    """Whether another attempt may succeed, and the server has not asked for none."""
    return isinstance(error, Unavailable | Overloaded) and error.retry_after != math.inf


def seconds_to_wait(text: str) -> float | None:
    """The number in a header that asks for a wait; None where it is no finite one from 0, such as a date."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0.0 <= number < math.inf else None
