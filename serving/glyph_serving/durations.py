"""How long runs of a model will take, learned from those that were."""

_SMOOTHING = 0.1  # weight in the expectation of a run that took longer


class Durations:
    """How long runs take, by the power of two that the number of examples lies below.

    Attributes:
        least: The seconds that the quickest run took, of whatever size; infinite before there was any.
    """

    def __init__(self) -> None:
        self.least = float("inf")
        self._seconds: dict[int, float] = {}

    def expect(self, examples: int) -> float:
        """The seconds that a run will take; 0 before anything is known, in proportion where it has to be guessed."""
        power = examples.bit_length()
        known = self._seconds.get(power)
        if known is not None:
            return known
        smaller = max((other for other in self._seconds if other < power), default=None)
        return self._seconds[smaller] * 2 ** (power - smaller) if smaller is not None else 0.0

    def add(self, examples: int, seconds: float) -> None:
        """Learns from a run: at once when it was quicker than expected, for a slow one may only have been disturbed."""
        self.least = min(self.least, seconds)
        power = examples.bit_length()
        known = self._seconds.get(power, seconds)
        self._seconds[power] = min(seconds, known + _SMOOTHING * (seconds - known))
