"""Latencies, kept as an HDR histogram: every value with three significant digits, merged without loss.

The buckets are those of HdrHistogram (Gil Tene, http://hdrhistogram.org) at three significant digits: one microsecond
wide below 2,048 us, and above that never wider than a thousandth of the value. Only buckets in use take room.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_HALF_BITS = 10  # 2 * 2**10 sub-buckets a bucket: what three significant digits need
_HALF = 1 << _HALF_BITS


def bucket_of(value: int) -> int:
    """The index of the bucket that holds a value, in microseconds."""
    shift = value.bit_length() - _HALF_BITS - 1
    return value if shift <= 0 else (shift << _HALF_BITS) + (value >> shift)


def bounds_of(index: int) -> tuple[int, int]:
    """The lowest value of a bucket, and the lowest of the next one, in microseconds."""
    shift = max(0, (index >> _HALF_BITS) - 1)
    lowest = (index - (shift << _HALF_BITS)) << shift
    return lowest, lowest + (1 << shift)


@dataclass(slots=True)
class Histogram:
    """How often each latency was seen.

    Attributes:
        counts: by bucket.
        total: sum of all values, in microseconds, exact.
        largest: the largest value, in microseconds, exact.
    """

    counts: dict[int, int] = field(default_factory=dict)
    total: int = 0
    largest: int = 0

    def record(self, microseconds: int) -> None:
        """Adds one value; negative ones count as 0."""
        value = max(microseconds, 0)
        index = bucket_of(value)
        self.counts[index] = self.counts.get(index, 0) + 1
        self.total += value
        if value > self.largest:
            self.largest = value

    def merge(self, other: "Histogram") -> None:
        """Adds all values of another histogram."""
        for index, count in other.counts.items():
            self.counts[index] = self.counts.get(index, 0) + count
        self.total += other.total
        self.largest = max(self.largest, other.largest)

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        """The mean of all values in microseconds; 0 when there is none."""
        return self.total / self.count if self.counts else 0.0

    def percentile(self, percent: float) -> float:
        """The value in microseconds that `percent` of all values do not exceed; 0 when there is none."""
        wanted = percent / 100 * self.count
        seen = 0
        for index in sorted(self.counts):
            seen += self.counts[index]
            if seen >= wanted:
                low, high = bounds_of(index)
                return min((low + high - 1) / 2, float(self.largest))
        return float(self.largest)

    def share_above(self, microseconds: float) -> float:
        """The share of values, 0 to 1, in buckets that lie wholly above a value; 0 when there is none."""
        above = sum(count for index, count in self.counts.items() if bounds_of(index)[0] > microseconds)
        return above / self.count if self.counts else 0.0

    def buckets(self) -> Iterator[tuple[int, int, int]]:
        """Lowest value, end (exclusive), and count of each bucket in use, in ascending order."""
        for index in sorted(self.counts):
            yield (*bounds_of(index), self.counts[index])

    def as_dict(self) -> dict[str, Any]:
        """A form for JSON and for Locust's messages; see `from_dict`."""
        indices = sorted(self.counts)
        return {
            "buckets": indices,
            "counts": [self.counts[index] for index in indices],
            "total_us": self.total,
            "max_us": self.largest,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Histogram":
        """The histogram of a form made by `as_dict`."""
        return cls(dict(zip(data["buckets"], data["counts"], strict=True)), data["total_us"], data["max_us"])
