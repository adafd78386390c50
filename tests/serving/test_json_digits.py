"""Whole numbers are read without a JSON parser, and never otherwise than a JSON parser reads them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from glyph_serving.json_digits import only_numbers, read_numbers
from glyph_serving.servable import Array, TensorSpec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorflow.python.framework import dtypes

SPEC = TensorSpec("image", "image:0", dtypes.uint8, (-1, 2, 3, 1))


def read(body: bytes, spec: TensorSpec = SPEC) -> Array | None:
    numbers = only_numbers(body)
    return None if numbers is None else read_numbers(numbers, spec)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("shape", [(-1, 28, 28, 1), (-1,), (-1, 3)])
@pytest.mark.parametrize("dtype", [dtypes.uint8, dtypes.int32])
def test_numbers_of_the_signatures_shape_are_read(
    dtype: dtypes.DType, shape: tuple[int, ...], separators: tuple[str, str]
) -> None:
    spec = TensorSpec("image", "image:0", dtype, shape)
    limits = np.iinfo(spec.numpy_dtype)
    given_array = np.random.default_rng(0).integers(0, limits.max, (5, *shape[1:]), endpoint=True)
    given_array.flat[:2] = 0, limits.max
    body = json.dumps({"instances": given_array.tolist()}, separators=separators).encode()
    array = read(body, spec)
    assert array is not None
    assert array.dtype == spec.numpy_dtype
    np.testing.assert_array_equal(array, given_array)


@pytest.mark.parametrize(
    "instances",
    [
        "[[[[1],[2],[3]],[[4],[5],[256]]]]",  # too large
        "[[[[1],[2],[3]],[[4],[5],[99999999999999999999]]]]",
        "[[[[1],[2],[3]],[[4],[5],[06]]]]",  # no JSON
        "[[[[1],[2],[3]],[[4],[5],[]]]]",
        "[[[[],[2],[3]],[[4],[5],[6]]]]",
        "[[[[1],[],[3]],[[4],[5],[6]]]]",
        "[[[[1],[2],[3]],[[4],[5],6[7]]]]",
        "[[[[1],[2],[3]],[[4],[5]6,[7]]]]",
        "[[[[1], [2], [3]], [[4], [5], [6 7]]]]",
        "[[[[1],[2],[3]],[[4],[5],[6 ]]]]",  # JSON, but blanks elsewhere than after commas
        "[[[[1],[2],[3]],[[4],[5],6]]]",  # another shape
        "[[[[1],[2]],[[3],[4]],[[5],[6]]]]",
        "[]",
    ],
)
def test_everything_else_is_left_to_the_parser(instances: str) -> None:
    assert read(f'{{"instances": {instances}}}'.encode()) is None


def test_a_blank_within_a_number_is_not_taken_for_one_after_a_comma() -> None:
    spec = TensorSpec("x", "x:0", dtypes.uint8, (-1, 3))
    assert read(b'{"instances": [[1, 2, 34]]}', spec) is not None
    assert read(b'{"instances": [[1, 2,3 4]]}', spec) is None


def test_other_members_and_other_types_are_left_to_the_parser() -> None:
    assert only_numbers(b'{"instances": [1], "signature_name": "a"}') is None
    assert only_numbers(b'{"instances": [1]} {}') is None
    assert read(b'{"instances": [1, 2]}', TensorSpec("x", "x:0", dtypes.int64, (-1,))) is None
    assert read(b'{"instances": [1, 2]}', TensorSpec("x", "x:0", dtypes.float32, (-1,))) is None
    assert read(b'{"instances": [[1], [2]]}', TensorSpec("x", "x:0", dtypes.uint8, (-1, -1))) is None
    assert read(b'{"instances": [[1], [2]]}', TensorSpec("x", "x:0", dtypes.uint8, None)) is None


@st.composite
def _almost_json(draw: st.DrawFn) -> bytes:
    rows = draw(st.integers(1, 2))
    values = draw(st.lists(st.integers(0, 300), min_size=6 * rows, max_size=6 * rows))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    text = json.dumps({"instances": np.reshape(values, (rows, 2, 3, 1)).tolist()}, separators=separators)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text) - 1))
        text = text[:at] + draw(st.sampled_from([*"[],0129 ", ""])) + text[at + draw(st.integers(0, 1)) :]
    return text.encode()


@settings(max_examples=1000, deadline=None)
@given(_almost_json())
@example(b'{"instances": [[[[1],[2],[3]],[[4],[5],[6]]]]}')
def test_what_is_read_is_what_a_json_parser_reads(body: bytes) -> None:
    array = read(body)
    if array is not None:
        parsed = np.array(json.loads(body)["instances"])
        assert parsed.shape == array.shape
        np.testing.assert_array_equal(array, parsed)
