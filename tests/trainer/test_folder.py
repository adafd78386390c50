"""The folder of files label.index.jpg: written whole, read exactly."""

import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from glyph_trainer.data.folder import build_digit_folder, read_image_folder
from glyph_trainer.data.mnist import DEFAULT_DIRECTORY, read_mnist
from glyph_trainer.errors import DataError
from PIL import Image

from tests.trainer.conftest import COMMAND, Run, give_up_root, limit_files_to


@pytest.fixture
def folder(small_folder: Path, tmp_path: Path) -> Path:
    """Twenty of the digits, to be spoilt."""
    copy = tmp_path / "digits"
    copy.mkdir()
    for index, path in enumerate(sorted(small_folder.iterdir())):
        if index % 70 == 0:
            shutil.copy(path, copy)
    return copy


def test_the_folder_holds_the_first_training_digits(small_folder: Path) -> None:
    official = read_mnist().train.take(slice(1400))
    dataset = read_image_folder(small_folder)
    assert dataset.names == tuple("0123456789")
    assert np.array_equal(dataset.labels, official.labels)
    difference = np.abs(dataset.images.astype(int) - official.images)
    assert difference.mean() < 1, "JPEG changes pixels, but hardly"


def test_pixels_are_those_of_pillow(small_folder: Path) -> None:
    dataset = read_image_folder(small_folder)
    for index in (0, 1, 700, 1399):
        (path,) = small_folder.glob(f"*.{index}.jpg")
        with Image.open(path) as image:
            assert np.array_equal(dataset.images[index, ..., 0], np.asarray(image))


def test_shuffling_and_splitting_depend_on_the_seed_alone(small_folder: Path) -> None:
    dataset = read_image_folder(small_folder)
    first, rest = dataset.shuffled(5).split(1000)
    again, _ = dataset.shuffled(5).split(1000)
    other, _ = dataset.shuffled(6).split(1000)
    assert len(first) == 1000
    assert len(rest) == 400
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_a_folder_that_is_there_is_left_alone(small_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small_folder.iterdir()}
    assert not build_digit_folder(small_folder, DEFAULT_DIRECTORY, 1400)
    assert before == {path: path.stat().st_mtime_ns for path in small_folder.iterdir()}


def test_a_folder_of_something_else_is_not_overwritten(glyph_train: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = glyph_train("dataset", "--data-dir", tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path} already holds 1 files that are not the 42,000 digits" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_undecodable_image_is_named(folder: Path) -> None:
    spoilt = sorted(folder.iterdir())[3]
    spoilt.write_bytes(spoilt.read_bytes()[:300])
    other = sorted(folder.iterdir())[8]
    other.write_bytes(b"no image at all")
    with pytest.raises(DataError) as caught:
        read_image_folder(folder)
    message = str(caught.value)
    assert "2 files cannot be used. Repair or remove them:" in message
    assert f"{spoilt.name}: it cannot be decoded" in message
    assert f"{other.name}: it is no image" in message


def test_an_image_of_another_size_is_named(folder: Path) -> None:
    Image.new("L", (30, 20)).save(folder / "3.99999.jpg")
    with pytest.raises(DataError, match=r"3\.99999\.jpg: it is 30 x 20 pixels, not 28 x 28"):
        read_image_folder(folder)


def test_a_file_name_without_a_label_is_an_error_of_the_command(glyph_train: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "holiday.jpg").write_bytes(b"")
    done = glyph_train("run", "--data-dir", folder, "--models-dir", tmp_path / "models")
    assert done.returncode == 1
    assert done.stderr.startswith(f"glyph-train: error: {folder}: 1 file cannot be used. Repair or remove them:\n")
    assert "holiday.jpg: its name has no label: it should look like 7.123.jpg" in done.stderr
    assert not list((tmp_path / "models" / "digits").iterdir())


def test_hidden_files_are_no_images(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"left by a file manager")
    assert len(read_image_folder(folder)) == 20


def test_a_missing_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is no folder"):
        read_image_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no images"):
        read_image_folder(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_build_leaves_no_folder(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "digits"
    process = subprocess.Popen([COMMAND, "dataset", "--data-dir", folder], stderr=subprocess.PIPE, text=True)
    while not any(any(staging.iterdir()) for staging in tmp_path.glob(".staging-*")):
        assert process.poll() is None, process.stderr
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert not folder.exists()
    if number == signal.SIGKILL:
        assert len(list(tmp_path.iterdir())) == 1, "a staging folder is left"
        assert build_digit_folder(folder, DEFAULT_DIRECTORY, 10)
        assert [path.name for path in tmp_path.iterdir()] == ["digits"], "and the next run clears it"
    else:
        assert process.returncode == 130
        assert "glyph-train: interrupted; nothing is left half-written" in said
        assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_folder(glyph_train: Run, tmp_path: Path) -> None:
    done = glyph_train("dataset", "--data-dir", tmp_path / "digits", preexec_fn=limit_files_to(700))
    assert done.returncode == 1
    assert "Free some space and try again" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_may_not_be_written_is_an_error(glyph_train: Run, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    done = glyph_train("dataset", "--data-dir", tmp_path / "digits", preexec_fn=give_up_root)
    assert done.returncode == 1
    assert f"glyph-train: error: {tmp_path}" in done.stderr
    assert "Permission denied for user" in done.stderr
    assert "Give this user access, or choose another folder" in done.stderr
