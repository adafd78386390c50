"""The files of a request log: which are written, and which are deleted."""

import contextlib
import queue
import resource
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from glyph_serving.config import LoggingConfig
from glyph_serving.request_log import RequestLog, RequestLogs
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


class Configured:
    """The logs, of two files each, of models that are configured, again and again, as a test says."""

    def __init__(
        self, folder: Path, count: Callable[[str, str], None] = lambda *_: None, file_bytes: int = 10**6
    ) -> None:
        self._folder = folder
        self._configs: dict[str, LoggingConfig] = {}
        self._others = set(threading.enumerate())
        self.logs = RequestLogs(self._configs.get, file_bytes, files=2, count=count)

    def configure(self, model: str, prefix: str | None, rate: float = 1) -> None:
        """Has the requests of a model logged under a prefix; None: no more."""
        if prefix is None:
            del self._configs[model]
        else:
            self._configs[model] = LoggingConfig(str(self._folder / prefix), rate)

    def add(self, model: str, name: str) -> None:
        """Logs a request that is known by the name in it."""
        log = self.logs.sample(model)
        assert log is not None
        log.add(record_of(name))

    @property
    def threads(self) -> list[threading.Thread]:
        """Those that write."""
        return [thread for thread in threading.enumerate() if thread not in self._others]

    def names(self) -> dict[str, list[str]]:
        """The names in each file."""
        read = prediction_log_pb2.PredictionLog.FromString
        return {
            path.name: [
                read(record).predict_log.request.model_spec.name for record in tf_record.tf_record_iterator(str(path))
            ]
            for path in sorted(self._folder.iterdir())
        }


def record_of(name: str) -> prediction_log_pb2.PredictionLog:
    record = prediction_log_pb2.PredictionLog()
    record.predict_log.request.model_spec.name = name
    return record


def wait_for_ends(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_another_rate_changes_neither_the_file_nor_the_thread(tmp_path: Path) -> None:
    configured = Configured(tmp_path)
    configured.configure("digits", "a")
    configured.add("digits", "first")
    configured.configure("digits", "a", rate=0)
    assert configured.logs.sample("digits") is None
    configured.configure("digits", "a")
    configured.add("digits", "second")
    assert len(configured.threads) == 1
    configured.logs.close()
    assert configured.names() == {"a-000001.tfrecord": ["first", "second"]}


def test_a_log_is_closed_when_requests_are_logged_elsewhere(tmp_path: Path) -> None:
    configured = Configured(tmp_path)
    configured.configure("digits", "a")
    configured.add("digits", "first")
    old = configured.threads
    configured.configure("digits", "b")
    configured.add("digits", "second")
    wait_for_ends(old)
    configured.logs.close()
    assert configured.names() == {"a-000001.tfrecord": ["first"], "b-000001.tfrecord": ["second"]}


def test_a_log_is_closed_when_requests_are_logged_no_more(tmp_path: Path) -> None:
    configured = Configured(tmp_path)
    configured.configure("digits", "a")
    configured.add("digits", "first")
    configured.configure("digits", None)
    assert configured.logs.has("digits")  # or else nobody would ask for it, which is when it is closed
    assert configured.logs.sample("digits") is None
    assert not configured.logs.has("digits")
    wait_for_ends(configured.threads)
    assert configured.names() == {"a-000001.tfrecord": ["first"]}


def test_the_log_of_a_model_that_is_gone_is_closed_with_the_next_that_is_opened(tmp_path: Path) -> None:
    configured = Configured(tmp_path)
    configured.configure("digits", "a")
    configured.add("digits", "first")
    old = configured.threads
    configured.configure("digits", None)
    configured.configure("letters", "b")
    configured.add("letters", "second")
    wait_for_ends(old)
    configured.logs.close()
    assert configured.names() == {"a-000001.tfrecord": ["first"], "b-000001.tfrecord": ["second"]}


def test_nobody_waits_for_a_disk_to_log_elsewhere(tmp_path: Path) -> None:
    busy, left_out, disk_is_quick = threading.Event(), threading.Event(), threading.Event()
    in_time: list[bool] = []  # and not only once the disk has been given up

    def count(model: str, status: str) -> None:
        if status == "RESOURCE_EXHAUSTED":
            left_out.set()
        else:
            busy.set()
            in_time.append(disk_is_quick.wait(timeout=30))

    configured = Configured(tmp_path, count)
    configured.configure("digits", "a")
    configured.add("digits", "first")
    assert busy.wait(timeout=30)
    while not left_out.is_set():
        configured.add("digits", "first")
    old = configured.threads
    configured.configure("digits", "b")
    configured.add("digits", "second")
    disk_is_quick.set()
    configured.logs.close()
    assert all(in_time)
    assert not old[0].is_alive()
    names = configured.names()
    assert len(names["a-000001.tfrecord"]) > 1000
    assert names["b-000001.tfrecord"] == ["second"]


def test_logs_of_the_same_files_write_one_after_the_other(tmp_path: Path) -> None:
    later = threading.Event()

    def count(model: str, status: str) -> None:
        if model == "letters":
            later.set()
        else:
            later.wait(timeout=0.5)  # what is too early comes meanwhile

    configured = Configured(tmp_path, count, file_bytes=1)
    configured.configure("digits", "a")
    for name in ("first", "second"):
        configured.add("digits", name)
    configured.configure("digits", None)
    configured.configure("letters", "a")
    configured.add("letters", "third")
    configured.logs.close()
    assert configured.names() == {"a-000002.tfrecord": ["second"], "a-000003.tfrecord": ["third"]}
