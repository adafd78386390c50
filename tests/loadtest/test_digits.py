"""The digits that come with the package are the genuine ones."""

from pathlib import Path

import numpy as np
from glyph_loadtest.digits import known_digits, read_idx

_MNIST = Path(__file__).parents[2] / "trainer" / "data" / "mnist"


def test_the_known_digits_are_the_first_64_official_test_images() -> None:
    images, labels = read_idx(_MNIST / "t10k-images-idx3-ubyte.gz", _MNIST / "t10k-labels-idx1-ubyte.gz")
    digits = known_digits()
    np.testing.assert_array_equal(digits.images, images)
    assert digits.labels == tuple(str(label) for label in labels)


def test_every_class_is_among_them() -> None:
    assert set(known_digits().labels) == set("0123456789")
