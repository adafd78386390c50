"""Whole data sets: IDX files, the report on them, files set aside."""

import gzip
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from glyph_trainer.data.dataset import Dataset
from glyph_trainer.data.mnist import DEFAULT_DIRECTORY
from glyph_trainer.data.source import open_source
from glyph_trainer.data.validation import UnusableFile, validate
from glyph_trainer.errors import DataError, UnusableFilesError
from glyph_trainer.fit import FitSettings
from glyph_trainer.pipeline import load_images

PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fashion-MNIST, as Debian packages it: installed, or taken out of the package."""
    if (Path("/") / INSTALLED).is_dir():
        return Path("/") / INSTALLED
    folder = tmp_path_factory.mktemp("debian")
    if not shutil.which("apt-get"):
        pytest.skip(f"{PACKAGE} is not installed, and this is no Debian to get it from")
    got = subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, capture_output=True, timeout=60, check=False)
    packages = list(folder.glob("*.deb"))
    if got.returncode or not packages:
        pytest.skip(f"{PACKAGE} is not installed, and cannot be had: {got.stderr.decode()}")
    subprocess.run(["dpkg", "-x", packages[0], folder], check=True, timeout=60)
    return folder / INSTALLED


def test_any_folder_of_idx_files_is_a_data_set(fashion: Path) -> None:
    source = open_source(fashion, DEFAULT_DIRECTORY, 0)
    assert source.images.images.shape == (60_000, 28, 28, 1)
    assert source.official is not None
    assert np.bincount(source.official.labels).tolist() == [1000] * 10
    assert source.images.fingerprint() != open_source(DEFAULT_DIRECTORY, DEFAULT_DIRECTORY, 0).images.fingerprint()


def test_an_idx_folder_without_its_test_images_is_an_error(tmp_path: Path) -> None:
    for kind in ("images-idx3", "labels-idx1"):
        shutil.copy(DEFAULT_DIRECTORY / f"t10k-{kind}-ubyte.gz", tmp_path / f"train-{kind}-ubyte.gz")
    with pytest.raises(DataError, match="has no t10k-images and t10k-labels"):
        open_source(tmp_path, DEFAULT_DIRECTORY, 0)


def test_idx_images_and_labels_must_be_as_many(tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        shutil.copy(DEFAULT_DIRECTORY / "t10k-images-idx3-ubyte.gz", tmp_path / f"{part}-images-idx3-ubyte.gz")
        labels = b"\0\0\x08\x01\0\0\0\x03\1\2\3"
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    with pytest.raises(DataError, match=r"labels of shape \(3,\) for 10,000 images"):
        open_source(tmp_path, DEFAULT_DIRECTORY, 0)


def test_balanced_classes_are_told_in_a_word() -> None:
    images = np.arange(4, dtype=np.uint8).repeat(28 * 28).reshape(4, 28, 28, 1)
    train, test = Dataset(images, np.array([0, 1, 0, 1], np.int32), ("cat", "dog")).split(3)
    assert validate(train, test, None, 0, [], []).as_text().splitlines()[0] == "4 images of 2 classes, 2 of each"


def test_the_report_counts_what_one_would_want_to_know() -> None:
    shades = [1, 2, 3, 3, 4, 5, 6, 7, 2, 8]
    images = np.stack([np.full((28, 28, 1), shade, np.uint8) for shade in shades])
    dataset = Dataset(images, np.array([0, 0, 0, 1, 0, 0, 0, 0, 0, 1], np.int32), ("cat", "dog"))
    train, test = dataset.split(8)
    official = dataset.take([0, 9])
    report = validate(
        train, test, official, 4, [UnusableFile("x.jpg", "no label")], [UnusableFile("y.jpg", "no image")]
    )
    assert report.counts == {"cat": 8, "dog": 2}
    assert report.imbalance == 4
    assert (report.duplicates, report.contradictions, report.duplicates_across) == (2, 1, 2)
    assert report.as_text().splitlines() == [
        "10 images of 2 classes, from 2 of dog to 8 of cat: imbalanced, 4.0 to 1",
        "  4 made 28 x 28, white on black",
        "  1 without a label, left out",
        "  1 unreadable, left out",
        "  2 exact copies of another one",
        "  1 of these copies under another label",
        "  2 test images that are also training images",
    ]


def test_bad_files_are_an_error_unless_they_are_to_be_left_out(small_folder: Path, tmp_path: Path) -> None:
    for path in sorted(small_folder.glob("*.jpg"))[::7]:
        shutil.copy(path, tmp_path)
    (tmp_path / "8.77777.jpg").write_bytes(b"no image")
    with pytest.raises(UnusableFilesError, match=r"leave them out with --skip-bad:\n  8\.77777\.jpg: it is no image"):
        load_images(tmp_path, DEFAULT_DIRECTORY, 0, seed=1)
    images = load_images(tmp_path, DEFAULT_DIRECTORY, 0, seed=1, skip_bad=True)
    assert len(images.train) + len(images.held_out) == 200
    assert [file.name for file in images.validation.unusable] == ["8.77777.jpg"]


def test_one_class_is_an_error(small_folder: Path, tmp_path: Path) -> None:
    for path in small_folder.glob("3.*.jpg"):
        shutil.copy(path, tmp_path)
    with pytest.raises(DataError, match="holds images of one class, 3"):
        load_images(tmp_path, DEFAULT_DIRECTORY, 0, seed=1)


def test_too_few_images_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="50 images are too few: 71% of them train, and a batch needs 100"):
        load_images(tmp_path / "few", DEFAULT_DIRECTORY, 50, seed=1, least=100)


@pytest.mark.parametrize(("train", "test"), [([1, 2, 2], [1, 2, 1]), ([1, 2, 2], [1, 2, 3]), ([1, 2, 3], [1, 2, 2])])
def test_both_parts_of_an_idx_folder_have_the_classes_of_either(
    tmp_path: Path, train: list[int], test: list[int]
) -> None:
    for part, labels in (("train", train), ("t10k", test)):
        images = b"\0\0\x08\x03\0\0\0\x03\0\0\0\x1c\0\0\0\x1c" + np.arange(3 * 784, dtype=np.uint8).tobytes()
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(images)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x03" + bytes(labels))
    source = open_source(tmp_path, DEFAULT_DIRECTORY, 0)
    assert source.official
    assert source.images.names == source.official.names == tuple(map(str, range(max(train + test) + 1)))
    validation = validate(source.images, source.official, None, 0, (), ())
    assert validation.counts["0"] == 0
    assert validation.imbalance > 1, "although there is no 0"


@pytest.mark.parametrize("batch_size", [1, 9, 10, 80, 81, 100])
def test_with_patience_a_whole_batch_must_be_left_beside_what_is_set_aside(batch_size: int) -> None:
    least = FitSettings(epochs=1, batch_size=batch_size, patience=1).least_images
    assert least - least // 10 >= batch_size
    assert least // 10 >= 1
