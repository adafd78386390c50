"""The calls whose message is still on its way, and those that wait for them.

A call is heard of before its message is here: between the two lie some 50 microseconds and two of Envoy's threads. When
many callers ask at once, a run that does not wait for what has been announced begins with the first one or two of them,
at nearly the price of all.
"""

import asyncio
from collections.abc import Callable

_LATE = 0.001  # seconds; a message that takes longer is not waited for


class Arrivals:
    """The calls that have been announced to one event loop.

    Args:
        all_here: Called whenever the last of them has come, or those that have not turn out to be late.

    Attributes:
        expected: Those that have not come and are waited for.
    """

    def __init__(self, all_here: Callable[[], None]) -> None:
        self._all_here = all_here
        self.expected: set[object] = set()
        self._timed = False

    def announce(self, call: object) -> None:
        """A call's message is on its way."""
        self.expected.add(call)

    def arrived(self, call: object) -> None:
        """It has come, as far as it will be waited for."""
        self.expected.discard(call)
        if not self.expected:
            self._all_here()
        elif not self._timed:
            self._time()

    def _time(self) -> None:
        self._timed = True
        asyncio.get_running_loop().call_later(_LATE, self._give_up, set(self.expected))

    def _give_up(self, late: set[object]) -> None:
        self._timed = False
        self.expected -= late
        if self.expected:
            self._time()
        else:
            self._all_here()
