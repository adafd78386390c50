"""The files of a request log: which are written, and which are deleted."""

import contextlib
import queue
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from glyph_serving.config import LoggingConfig
from glyph_serving.request_log import RequestLog
from tensorflow.python.lib.io import tf_record
from tensorflow_serving.apis import prediction_log_pb2

RECORD = prediction_log_pb2.PredictionLog()
RECORD.predict_log.request.model_spec.name = "digits" * 20


def records_in(folder: Path) -> dict[str, int]:
    """How many records there are in each file; fails for a file that does not end with a whole one."""
    return {path.name: sum(1 for _ in tf_record.tf_record_iterator(str(path))) for path in sorted(folder.iterdir())}


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process grows beyond a size in bytes: as on a full disk, writes end short, and then fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))  # Python ignores the signal that comes with it
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["digits", "digits[1]"])
def test_only_old_files_of_its_own_are_deleted(tmp_path: Path, name: str) -> None:
    others = [f"{name}-canary-000009.tfrecord", f"{name}-worker-0-000009.tfrecord"]
    for other in others:
        (tmp_path / other).touch()
    log = RequestLog(LoggingConfig(str(tmp_path / name), 1), file_bytes=1, files=2, count=lambda _: None)
    for _ in range(4):
        log.add(prediction_log_pb2.PredictionLog())
    log.close()
    kept = [f"{name}-000003.tfrecord", f"{name}-000004.tfrecord"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*kept, *others]


def test_a_folder_that_cannot_be_written_to_is_told_once_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    counted: queue.Queue[str] = queue.Queue()
    log = RequestLog(LoggingConfig(str(folder / "digits"), 1), file_bytes=1, files=2, count=counted.put)

    def add() -> str:
        log.add(RECORD)
        return counted.get(timeout=30)

    said = []
    for _ in range(2):
        folder.write_text("a file in its place")
        assert [add(), add()] == ["UNKNOWN", "UNKNOWN"]
        said.append(caplog.text.count(f"requests are not logged under {folder}/digits"))
        folder.unlink()
        assert add() == "OK"
        shutil.rmtree(folder)
    log.close()
    assert said == [1, 2]


@pytest.fixture
def add(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Logs a record in two files of some records each, and says how that went."""
    counted: queue.Queue[str] = queue.Queue()
    log = RequestLog(LoggingConfig(str(tmp_path / "digits"), 1), file_bytes=1000, files=2, count=counted.put)

    def add() -> str:
        log.add(RECORD)
        return counted.get(timeout=30)

    yield add
    log.close()


def test_half_a_record_is_taken_back(tmp_path: Path, add: Callable[[], str]) -> None:
    assert [add(), add()] == ["OK", "OK"]
    (file,) = tmp_path.iterdir()
    with room_for(file.stat().st_size + 50):
        assert add() == "UNKNOWN"
    assert records_in(tmp_path) == {file.name: 2}


def test_a_full_disk_costs_none_of_what_was_written(
    tmp_path: Path, add: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    second, third = (f"digits-{number:06d}.tfrecord" for number in (2, 3))
    while not (tmp_path / second).exists():
        assert add() == "OK"
    written = records_in(tmp_path)
    with room_for(0):
        assert [add() for _ in range(5)] == ["UNKNOWN"] * 5
    assert records_in(tmp_path) == written | {third: 0}
    assert add() == "OK"
    assert records_in(tmp_path) == {second: written[second], third: 1}
    assert caplog.text.count("requests are not logged") == 1


def test_a_log_that_ends_on_a_full_disk_leaves_no_empty_file(tmp_path: Path) -> None:
    counted: queue.Queue[str] = queue.Queue()
    log = RequestLog(LoggingConfig(str(tmp_path / "digits"), 1), file_bytes=1000, files=2, count=counted.put)
    with room_for(0):
        log.add(RECORD)
        log.close()
    assert counted.get_nowait() == "UNKNOWN"
    assert not list(tmp_path.iterdir())
