"""Loading a version: its session, its warm-up, and the queues in front of its signatures."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import prediction_log_pb2

from glyph_serving import config as configuration
from glyph_serving import op_libraries, servable
from glyph_serving.batching import Batcher
from glyph_serving.config import BatchingParameters, ServerConfig
from glyph_serving.engine import Engine
from glyph_serving.errors import ServingError, invalid_argument
from glyph_serving.flags import Flags
from glyph_serving.harness import Loaded
from glyph_serving.metrics import Metrics
from glyph_serving.servable import Servable
from glyph_serving.text_proto import read_message
from glyph_serving.warmup import MAX_RECORDS, WARMUP_FILE, read_records, replay

BATCHING_FILE = "batching_params.pbtxt"
_LARGE_BYTES = 16 * 2**20
_HEAVY_SECONDS = 0.005  # what takes longer gains more from several threads than waking them costs


class Loader:
    """Loads versions.

    Args:
        config: The checked configuration.
        metrics: Told about loads, warm-ups and runs.
        engine: Where heavy runs go.
        is_only: Whether a single request is in flight.

    Raises:
        ServingError: The session config file is missing or unreadable.
    """

    def __init__(self, config: ServerConfig, metrics: Metrics, engine: Engine, is_only: Callable[[], bool]) -> None:
        self._config = config
        self._metrics = metrics
        self._engine = engine
        self._is_only = is_only
        self._session_config = read_session_config(config.flags)
        op_libraries.load_installed()

    def __call__(self, name: str, version: int, path: Path) -> Loaded:
        """Loads a version and replays its warm-up requests.

        Raises:
            ServingError: It cannot be loaded, or fails a warm-up request.
        """
        began = time.perf_counter()
        try:
            batching = self._batching(path)
            loaded = self._load(name, version, path)
        except BaseException:
            self._metrics.load_attempts.add(str(path), "fail")
            raise
        self._metrics.load_attempts.add(str(path), "success")
        self._metrics.load_latency.add(str(path), amount=int((time.perf_counter() - began) * 1e6))
        observer = _BatchMetrics(self._metrics, batching, name, version)
        batchers = {
            key: Batcher(signature, batching, self._engine, observer, self._is_only)
            for key, signature in loaded.signatures.items()
        }
        servable.spare_from_collection()
        return Loaded(loaded, batchers)

    def _load(self, name: str, version: int, path: Path) -> Servable:
        """Loads a version with as many threads as suit it.

        Operations of a small model take less time than it takes to wake the threads that would share them: one thread
        is three times as fast. What the warm-up shows to be heavy is loaded again with a thread for every CPU; without
        warm-up requests, the size on disk decides.
        """
        flags = self._config.flags
        records = list(self._warmup_records(path)) if flags.enable_model_warmup else []
        is_large = not records and _bytes_in(path) > _LARGE_BYTES
        if is_large or self._session_config.intra_op_parallelism_threads:
            return self._load_and_warm_up(name, version, path, self._session_config, records)[0]
        one_thread = config_pb2.ConfigProto(intra_op_parallelism_threads=1)
        one_thread.MergeFrom(self._session_config)
        loaded, seconds = self._load_and_warm_up(name, version, path, one_thread, records)
        if seconds > _HEAVY_SECONDS:
            loaded.close()
            loaded, _ = self._load_and_warm_up(name, version, path, self._session_config, records)
        return loaded

    def _load_and_warm_up(
        self, name: str, version: int, path: Path, session_config: config_pb2.ConfigProto, records: list[bytes]
    ) -> tuple[Servable, float]:
        """A loaded version, and the seconds that its quickest warm-up request took (0 without any)."""
        flags = self._config.flags
        loaded = servable.load(
            name,
            version,
            path,
            flags.saved_model_tags.split(",") if flags.saved_model_tags else ["serve"],
            session_config,
            flags.enable_signature_method_name_check,
        )
        try:
            return loaded, self._warm_up(loaded, records)
        except BaseException:
            loaded.close()
            raise

    def _warmup_records(self, path: Path) -> Iterable[bytes]:
        file = path / WARMUP_FILE
        if not file.is_file():
            return
        for count, record in enumerate(read_records(file), 1):
            if count > MAX_RECORDS:
                raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}")
            yield record

    def _warm_up(self, loaded: Servable, records: list[bytes]) -> float:
        """Replays the recorded requests; the seconds that the quickest of them took.

        Raises:
            ServingError: One of them fails, and with it the load.
        """
        path = str(loaded.path / WARMUP_FILE)
        seconds = []
        for count, record in enumerate(records, 1):
            try:
                log = prediction_log_pb2.PredictionLog.FromString(record)
            except DecodeError:
                raise invalid_argument(f"Failed to parse warmup record: {count} from {path}") from None
            for _ in range(self._config.flags.num_request_iterations_for_warmup or 1):
                began = time.perf_counter()
                try:
                    replay(loaded, log)
                except ServingError as error:
                    self._metrics.warmup_latency.observe(0, path, error.code.name)
                    raise ServingError(error.code, f"warm-up request {count} failed: {error.message}") from error
                seconds.append(time.perf_counter() - began)
                self._metrics.warmup_latency.observe(seconds[-1] * 1e6, path, "OK")
        if records:
            self._metrics.warmup_records.add(path, "OK", amount=len(records))
        return min(seconds, default=0.0)

    def _batching(self, path: Path) -> BatchingParameters | None:
        """The parameters for one model: the common ones or, where that is switched on, those in its own folder.

        As on the genuine server, a model without such a file is then not batched.

        Raises:
            ServingError: The parameters ask for what cannot be.
        """
        batching = self._config.batching
        if batching is not None and self._config.flags.enable_per_model_batching_parameters:
            file = path / BATCHING_FILE
            batching = configuration.read_model_batching(str(file), batching) if file.is_file() else None
        if batching is not None:
            configuration.check_batching(batching)
        return batching


def _bytes_in(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


class _BatchMetrics:
    """Feeds what the batchers see into the metrics."""

    def __init__(self, metrics: Metrics, batching: BatchingParameters | None, name: str, version: int) -> None:
        self._metrics = metrics
        self._key = (name, str(version), *([batching.thread_pool_name] if batching is not None else []))

    def queued(self, requests: Sequence[tuple[int, float]]) -> None:
        self._metrics.waits.add_all(self._key, requests)

    def ran(self, examples: int, padding: int, seconds: float) -> None:
        self._metrics.runs.add(self._key, (examples, padding, seconds))


def read_session_config(flags: Flags) -> config_pb2.ConfigProto:
    """The sessions' thread pools.

    Raises:
        ServingError: The session config file is missing or unreadable.
    """
    config = config_pb2.ConfigProto()
    if flags.tensorflow_session_config_file:
        read_message(flags.tensorflow_session_config_file, config)
    config.intra_op_parallelism_threads = (
        flags.tensorflow_intra_op_parallelism
        or flags.tensorflow_session_parallelism
        or config.intra_op_parallelism_threads
    )
    config.inter_op_parallelism_threads = (
        flags.tensorflow_inter_op_parallelism
        or flags.tensorflow_session_parallelism
        or config.inter_op_parallelism_threads
    )
    return config
