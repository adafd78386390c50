"""The folder of 42,000 digits: written whole or not at all."""

import signal
import subprocess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from glyph_trainer.data.digits import build_digit_folder
from glyph_trainer.data.mnist import DEFAULT_DIRECTORY
from glyph_trainer.errors import DataError

from tests.trainer.conftest import COMMAND, PROCESSES, Run, give_up_root, limit_files_to


def test_there_are_as_many_as_the_deck_has(dataset_dir: Path) -> None:
    names = sorted(path.name for path in dataset_dir.iterdir() if not path.name.startswith("."))
    assert len(names) == 42_000
    assert len({int(name.split(".")[1]) for name in names}) == 42_000
    assert {name.split(".")[0] for name in names} == set("0123456789")


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


def test_a_file_is_no_folder_to_build(tmp_path: Path) -> None:
    (tmp_path / "digits").write_text("years of work")
    with pytest.raises(DataError, match="digits is no folder"):
        build_digit_folder(tmp_path / "digits", DEFAULT_DIRECTORY, 10)
    assert (tmp_path / "digits").read_text() == "years of work"


def test_more_digits_than_there_are_is_an_error(glyph_train: Run, tmp_path: Path) -> None:
    done = glyph_train("dataset", "--data-dir", tmp_path / "digits", "--images", 60_001)
    assert done.returncode == 1
    assert done.stderr == ("glyph-train: error: there are 60,000 official training images; 60,001 were asked for\n")
    assert not list(tmp_path.iterdir())


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


def build_when_ready(folder: Path, all_ready: Barrier) -> None:
    all_ready.wait(60)
    build_digit_folder(folder, DEFAULT_DIRECTORY, 300)


def test_several_who_build_the_same_folder_at_once_all_have_it(tmp_path: Path) -> None:
    all_ready = PROCESSES.Barrier(4)
    builders = [PROCESSES.Process(target=build_when_ready, args=(tmp_path / "digits", all_ready)) for _ in range(4)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert [builder.exitcode for builder in builders] == [0] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    assert len(list((tmp_path / "digits").iterdir())) == 300


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
