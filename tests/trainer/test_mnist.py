"""The MNIST files are genuine, or not used."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from glyph_trainer.data.idx import read_idx
from glyph_trainer.data.mnist import DEFAULT_DIRECTORY, SHA256, read_mnist, read_mnist_test
from glyph_trainer.errors import DataError

LABELS = "t10k-labels-idx1-ubyte.gz"


@pytest.fixture
def mnist_copy(tmp_path: Path) -> Path:
    for name in SHA256:
        shutil.copy(DEFAULT_DIRECTORY / name, tmp_path / name)
    return tmp_path


def test_there_are_60000_training_and_10000_test_images() -> None:
    mnist = read_mnist()
    assert mnist.train.images.shape == (60_000, 28, 28, 1)
    assert mnist.test.images.shape == (10_000, 28, 28, 1)
    assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(mnist.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_a_missing_file_is_named(mnist_copy: Path) -> None:
    (mnist_copy / LABELS).unlink()
    with pytest.raises(DataError, match=f"{LABELS} does not exist. Put the file there"):
        read_mnist_test(mnist_copy)


def test_a_truncated_file_is_named(mnist_copy: Path) -> None:
    path = mnist_copy / LABELS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{LABELS} is truncated or corrupt"):
        read_mnist_test(mnist_copy)


def test_a_file_with_one_other_byte_is_refused(mnist_copy: Path) -> None:
    path = mnist_copy / LABELS
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(DataError, match=f"{LABELS} is not the genuine MNIST file"):
        read_mnist_test(mnist_copy)


def test_an_idx_file_need_not_be_compressed(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(gzip.decompress((DEFAULT_DIRECTORY / LABELS).read_bytes()))
    assert read_idx(path)[:4].tolist() == [7, 2, 1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file of unsigned bytes.*begins with nothing"),
        (b"PNG!", "no IDX file of unsigned bytes.*begins with 50 4e 47 21"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "no IDX file of unsigned bytes"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "truncated or corrupt: its header promises 13 bytes"),
        (b"\0\0\x08\x03\0\0\0\x05", "truncated or corrupt"),
    ],
    ids=["empty", "another format", "floats", "too short", "half a header"],
)
def test_a_file_that_is_no_whole_idx_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(path)
