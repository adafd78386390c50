"""The files of a request log: which are written, and which are deleted."""

import queue
import shutil
from pathlib import Path

import pytest
from glyph_serving.config import LoggingConfig
from glyph_serving.request_log import RequestLog
from tensorflow_serving.apis import prediction_log_pb2


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
        log.add(prediction_log_pb2.PredictionLog())
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
