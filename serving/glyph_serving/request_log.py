"""Request logging: sampled requests and their answers, as the TFRecords that a warm-up replays.

The genuine server has the configuration for it (``logging_config`` of a model) but no collector to write it with. Ours
is of type ``tfrecord``: files ``<filename_prefix>-<number>.tfrecord``, of which the newest few are kept. Of several
workers each writes, and deletes, its own: ``<filename_prefix>-worker-<worker>-<number>.tfrecord``.
"""

import contextlib
import os
import queue
import random
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorflow.python.lib.io import tf_record
from tensorflow_serving.apis import prediction_log_pb2

from glyph_serving.config import LoggingConfig
from glyph_serving.errors import Code
from glyph_serving.log import LOGGER
from glyph_serving.workers import NUMBER_VARIABLE

_WAITING = 1000  # records; what comes faster than the disk takes it is left out
_FRAME_BYTES = 16  # around a record: its length and two checksums


class _File:
    """A file of whole records, also when the disk is full.

    Attributes:
        path: Where it is; something empty is there already.
        size: Of its records, in bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._writer: Any = None

    def write(self, record: bytes) -> None:
        """Appends a record, or fails, and leaves the file closed and with the records that it had."""
        try:
            if self._writer is None:
                self._writer = tf_record.TFRecordWriter(str(self.path))
            self._writer.write(record)
            self._writer.flush()
        except Exception:
            with contextlib.suppress(Exception):  # it tries once more to write what the disk has not taken
                self.close()
            os.truncate(self.path, self.size)
            raise
        self.size += len(record) + _FRAME_BYTES

    @property
    def takes_more(self) -> bool:
        """Whether the next record can go here: one can append only to what is still open."""
        return self._writer is not None or (not self.size and self.path.exists())

    def close(self) -> None:
        """Closes the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


class RequestLog:
    """The log of one model.

    Args:
        config: Where to write, and how much of what is asked.
        file_bytes: The size at which the next file is begun.
        files: How many files are kept.
        count: Told how every record went, by the name of a status code.
        after: Logs of the same files: closed before anything is written, for two would delete each other's.

    Attributes:
        config: What was given; another may take its place that differs in the rate only.
    """

    def __init__(
        self,
        config: LoggingConfig,
        file_bytes: int,
        files: int,
        count: Callable[[str], None],
        after: Iterable["RequestLog"] = (),
    ) -> None:
        self.config = config
        self._prefix = Path(config.filename_prefix)
        worker = os.environ.get(NUMBER_VARIABLE)
        self._name = self._prefix.name if worker is None else f"{self._prefix.name}-worker-{worker}"
        self._file_bytes = file_bytes
        self._files = files
        self._count = count
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # never full, so that no end waits
        self._writer = threading.Thread(target=self._write, args=(after,), name="request log", daemon=True)
        self._writer.start()

    @property
    def sampled(self) -> bool:
        """Whether this time a request is to be logged."""
        rate = self.config.sampling_rate
        return rate >= 1 or random.random() < rate  # noqa: S311 (a sample, not a secret)

    def add(self, log: prediction_log_pb2.PredictionLog) -> None:
        """Has a record written; leaves it out if too many wait for the disk."""
        log.log_metadata.sampling_config.sampling_rate = self.config.sampling_rate
        if self._waiting.qsize() < _WAITING:
            self._waiting.put(log.SerializeToString())
        else:
            self._count(Code.RESOURCE_EXHAUSTED.name)

    def end(self) -> None:
        """Has what still waits written, and the file closed, but waits for neither."""
        self._waiting.put(None)

    def close(self) -> None:
        """Writes what still waits."""
        self.end()
        self._writer.join()

    @property
    def has_ended(self) -> bool:
        """Whether everything is written."""
        return not self._writer.is_alive()

    def _write(self, after: Iterable["RequestLog"]) -> None:
        for log in after:
            log.close()
        file: _File | None = None
        said: type[Exception] | None = None  # why records are not written now, which is told once
        while (record := self._waiting.get()) is not None:
            try:
                if file is None:
                    file = _File(self._next_path())
                is_first = not file.size
                file.write(record)
                if is_first:
                    self._delete_oldest()
                if file.size >= self._file_bytes:
                    file.close()
                    file = None
                said = None
            except Exception as error:  # noqa: BLE001 (a full disk must not end the log, let alone the server)
                if type(error) is not said:
                    LOGGER.warning("requests are not logged under %s: %s", self._prefix, error)
                said = type(error)
                self._count(Code.UNKNOWN.name)
                if file is not None and not file.takes_more:
                    file = None
            else:
                self._count(Code.OK.name)
        if file is not None:
            file.close()
            if not file.size:
                file.path.unlink(missing_ok=True)

    def _next_path(self) -> Path:
        """The file to begin, which is there and empty."""
        self._prefix.parent.mkdir(parents=True, exist_ok=True)
        numbered = self._numbered()
        number = numbered[-1][0] + 1 if numbered else 1
        while True:
            path = self._prefix.with_name(f"{self._name}-{number:06d}.tfrecord")
            try:
                path.touch(exist_ok=False)
            except FileExistsError:  # another server, or model, of the same prefix was quicker
                number += 1
            else:
                return path

    def _delete_oldest(self) -> None:
        """Keeps the newest few; to be called once the newest holds something, for nothing may come of one begun."""
        for _, path in self._numbered()[: -self._files]:
            path.unlink(missing_ok=True)

    def _numbered(self) -> list[tuple[int, Path]]:
        """The files of this log, oldest first."""
        own = re.compile(rf"{re.escape(self._name)}-(\d+)\.tfrecord")  # not those of a prefix that begins like this one
        return sorted(
            (int(match.group(1)), path) for path in self._prefix.parent.iterdir() if (match := own.fullmatch(path.name))
        )


class RequestLogs:
    """The logs of all models, opened when they are first needed.

    Args:
        find: The logging configuration of a model; None where it is not logged.
        file_bytes: The size at which a log's next file is begun.
        files: How many files of a log are kept.
        count: Told the model and how every record went.
    """

    def __init__(
        self,
        find: Callable[[str], LoggingConfig | None],
        file_bytes: int,
        files: int,
        count: Callable[[str, str], None],
    ) -> None:
        self._find = find
        self._file_bytes = file_bytes
        self._files = files
        self._count = count
        self._logs: dict[str, RequestLog] = {}
        self._ending: list[RequestLog] = []
        self._lock = threading.Lock()

    def has(self, model: str) -> bool:
        """Whether a model has a log, which may be one to be closed."""
        return self._find(model) is not None or model in self._logs

    def sample(self, model: str) -> RequestLog | None:
        """Where to log a request of a model; None if it is not to be logged."""
        if not self.has(model):
            return None
        with self._lock:
            log = self._current(model)
        return log if log is not None and log.sampled else None

    def record(self, model: str, kind: str, request: Any, response: Any) -> None:
        """Logs a request of a kind (``classify_log`` and so on) and its answer, if it is to be logged."""
        log = self.sample(model)
        if log is None:
            return
        entry = prediction_log_pb2.PredictionLog()
        entry.log_metadata.model_spec.name = model
        getattr(entry, kind).request.CopyFrom(request)
        getattr(entry, kind).response.CopyFrom(response)
        log.add(entry)

    def close(self) -> None:
        """Writes what still waits."""
        with self._lock:
            logs = [*self._ending, *self._logs.values()]
            self._ending, self._logs = [], {}
        for log in logs:
            log.close()

    def _current(self, model: str) -> RequestLog | None:
        """The log of a model as it is configured now. With another rate, it goes on in the same files."""
        config = self._find(model)
        log = self._logs.get(model)
        if log is None or not _is_for(log, config):
            self._end_old({name: self._find(name) for name in self._logs} | {model: config})
            log = None
        if config is None:
            return None
        if log is None:
            log = RequestLog(
                config,
                self._file_bytes,
                self._files,
                lambda status: self._count(model, status),
                [ending for ending in self._ending if _is_for(ending, config)],
            )
            self._logs[model] = log
        log.config = config
        return log

    def _end_old(self, configs: Mapping[str, LoggingConfig | None]) -> None:
        """Ends the logs of models that are gone, or whose requests are logged elsewhere now or no more."""
        for model, log in list(self._logs.items()):
            if not _is_for(log, configs[model]):
                log.end()
                self._ending.append(self._logs.pop(model))
        self._ending = [log for log in self._ending if not log.has_ended]


def _is_for(log: RequestLog, config: LoggingConfig | None) -> bool:
    """Whether a log is of the files of a configuration."""
    return config is not None and config.filename_prefix == log.config.filename_prefix
