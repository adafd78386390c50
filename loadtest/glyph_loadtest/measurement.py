"""What was measured, second by second, in a form that merges without loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glyph_loadtest.histogram import Histogram


@dataclass(slots=True)
class Second:
    """One second of the measurement.

    Attributes:
        latency: of the answered requests that were due in this second, in microseconds.
        failures: the failed requests that were due in this second, by kind.
        finished: how many answers arrived in this second, whenever they were due.
        checked: how many answered images, of requests due in this second, were compared with the truth.
        correct: how many of those were right.
        lag: how late the generator itself was, in microseconds: in an open loop the time from when a request was due to
            when it was sent, in a closed loop the delay of a timer.
        cpu: the processor time that each process of the generator used in this second, in seconds.
    """

    latency: Histogram = field(default_factory=Histogram)
    failures: dict[str, int] = field(default_factory=dict)
    finished: int = 0
    checked: int = 0
    correct: int = 0
    lag: Histogram = field(default_factory=Histogram)
    cpu: dict[str, float] = field(default_factory=dict)

    def merge(self, other: "Second") -> None:
        """Adds what another process, or another second, has."""
        self.latency.merge(other.latency)
        for kind, count in other.failures.items():
            self.failures[kind] = self.failures.get(kind, 0) + count
        self.finished += other.finished
        self.checked += other.checked
        self.correct += other.correct
        self.lag.merge(other.lag)
        for worker, used in other.cpu.items():
            self.cpu[worker] = self.cpu.get(worker, 0.0) + used

    @property
    def failed(self) -> int:
        """How many requests failed."""
        return sum(self.failures.values())


@dataclass(slots=True)
class Measurement:
    """All seconds of a measurement, by Unix time, and one example message for each kind of failure."""

    seconds: dict[int, Second] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def at(self, when: float) -> Second:
        """The second that holds a moment, in Unix time."""
        number = int(when)
        second = self.seconds.get(number)
        if second is None:
            second = self.seconds[number] = Second()
        return second

    def merge(self, other: "Measurement") -> None:
        """Adds all that another process measured."""
        for number, second in other.seconds.items():
            self.at(number).merge(second)
        self.examples = {**other.examples, **self.examples}

    def between(self, first: int, end: int) -> Second:
        """The seconds from `first` up to `end` (exclusive), as if they were one."""
        whole = Second()
        for number, second in self.seconds.items():
            if first <= number < end:
                whole.merge(second)
        return whole

    def as_dict(self) -> dict[str, Any]:
        """A form for JSON and for Locust's messages; see `from_dict`."""
        return {
            "seconds": [
                {
                    "time": number,
                    "latency": second.latency.as_dict(),
                    "failures": second.failures,
                    "finished": second.finished,
                    "checked": second.checked,
                    "correct": second.correct,
                    "lag": second.lag.as_dict(),
                    "cpu": second.cpu,
                }
                for number, second in sorted(self.seconds.items())
            ],
            "examples": self.examples,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Measurement":
        """The measurement of a form made by `as_dict`."""
        seconds = {
            entry["time"]: Second(
                Histogram.from_dict(entry["latency"]),
                dict(entry["failures"]),
                entry["finished"],
                entry["checked"],
                entry["correct"],
                Histogram.from_dict(entry["lag"]),
                dict(entry["cpu"]),
            )
            for entry in data["seconds"]
        }
        return cls(seconds, dict(data["examples"]))
