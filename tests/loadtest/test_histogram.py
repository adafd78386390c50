"""Latencies keep three significant digits, and merge without loss."""

import json

import numpy as np
from glyph_loadtest.histogram import Histogram, bounds_of, bucket_of
from hypothesis import given
from hypothesis import strategies as st

_latencies = st.lists(st.integers(0, 3_600_000_000), min_size=1, max_size=200)


def _filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(st.integers(0, 3_600_000_000))
def test_a_bucket_is_no_wider_than_a_microsecond_or_a_thousandth_of_its_values(value: int) -> None:
    low, high = bounds_of(bucket_of(value))
    assert low <= value < high
    assert high - low <= max(1, value / 1000)


@given(st.integers(0, 3_000_000))
def test_buckets_follow_each_other_without_gaps(value: int) -> None:
    index = bucket_of(value)
    assert bounds_of(index)[1] == bounds_of(index + 1)[0]


@given(_latencies, st.sampled_from([50, 90, 95, 99, 99.9, 100]))
def test_a_percentile_is_the_exact_one_to_a_thousandth(values: list[int], percent: float) -> None:
    exact = np.percentile(values, percent, method="inverted_cdf")
    assert abs(_filled(values).percentile(percent) - exact) <= max(1, exact / 1000)


@given(_latencies, _latencies)
def test_merging_is_the_same_as_recording_everything_in_one(left: list[int], right: list[int]) -> None:
    merged = _filled(left)
    merged.merge(_filled(right))
    assert merged == _filled(left + right)


@given(_latencies)
def test_count_mean_and_maximum_are_exact(values: list[int]) -> None:
    histogram = _filled(values)
    assert (histogram.count, histogram.mean, histogram.largest) == (len(values), sum(values) / len(values), max(values))


@given(_latencies)
def test_the_form_for_files_and_messages_loses_nothing(values: list[int]) -> None:
    assert Histogram.from_dict(json.loads(json.dumps(_filled(values).as_dict()))) == _filled(values)


def test_an_empty_histogram_has_zeros() -> None:
    empty = Histogram()
    assert (empty.count, empty.mean, empty.percentile(99), empty.share_above(1)) == (0, 0, 0, 0)
