"""Prometheus metrics under the genuine server's names, labels and buckets, and a few that it lacks."""

import itertools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from glyph_serving.errors import ServingError

T = TypeVar("T")

_MOST_ENTRIES = 1000  # of a journal under one key: counting more of them at a time would hold up requests
_MOST_MADE_UP = 1000  # names of models that are none: callers may make up any number
_LONGEST_MADE_UP = 256  # characters of such a name
LATENCY_BUCKETS = tuple(10 * 1.8**k for k in range(33))
QUEUING_BUCKETS = tuple(100 * 1.2**k for k in range(52))
SIZE_BUCKETS = tuple(float(2**k) for k in range(14))
EXAMPLE_BUCKETS = tuple(float(2**k) for k in range(15))


class Counter:
    """A number that only grows, by label values."""

    kind = "counter"

    def __init__(self, name: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self._labels = labels
        self._values: dict[tuple[str, ...], float] = {}
        self._lock = threading.Lock()

    def add(self, *values: str, amount: float = 1) -> None:
        """Adds to the count of these label values."""
        with self._lock:
            self._values[values] = self._values.get(values, 0) + amount

    def lines(self) -> Iterable[str]:
        """The samples in Prometheus' text format."""
        with self._lock:
            samples = sorted(self._values.items())
        for values, value in samples:
            yield f"{self.name}{_braces(self._labels, values)} {_number(value)}"


class Histogram:
    """How often values fell into which bucket, by label values."""

    kind = "histogram"

    def __init__(self, name: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> None:
        self.name = name
        self._buckets = np.array(buckets)
        self._bounds = [*(_number(bound) for bound in buckets), "+Inf"]
        self._labels = labels
        self._series: dict[tuple[str, ...], tuple[list[int], float]] = {}
        self._lock = threading.Lock()

    def observe(self, value: float, *values: str) -> None:
        """Counts a value for these label values."""
        self.observe_all((value,), *values)

    def observe_all(self, observed: npt.ArrayLike, *values: str) -> None:
        """Counts several values for the same label values."""
        observed = np.asarray(observed, np.float64)
        found = np.bincount(np.searchsorted(self._buckets, observed), minlength=len(self._bounds)).tolist()
        with self._lock:
            counts, total = self._series.get(values, ([0] * len(self._bounds), 0.0))
            counts = [old + new for old, new in zip(counts, found, strict=True)]
            self._series[values] = (counts, total + float(observed.sum()))

    def lines(self) -> Iterable[str]:
        """The samples in Prometheus' text format."""
        with self._lock:
            series = sorted(self._series.items())
        for values, (counts, total) in series:
            running = 0
            for bound, count in zip(self._bounds, counts, strict=True):
                running += count
                yield f"{self.name}_bucket{_braces([*self._labels, 'le'], [*values, bound])} {running}"
            yield f"{self.name}_sum{_braces(self._labels, values)} {_number(total)}"
            yield f"{self.name}_count{_braces(self._labels, values)} {running}"


class Gauge:
    """A number read when it is asked for, by label values."""

    kind = "gauge"

    def __init__(
        self, name: str, labels: Sequence[str], read: Callable[[], Iterable[tuple[tuple[str, ...], float]]]
    ) -> None:
        self.name = name
        self._labels = labels
        self._read = read

    def lines(self) -> Iterable[str]:
        """The samples in Prometheus' text format."""
        for values, value in self._read():
            yield f"{self.name}{_braces(self._labels, values)} {_number(value)}"


class Journal(Generic[T]):
    """What happens, written down at once and counted later: to count costs ten times as much, and nobody may look.

    Args:
        count: Takes all entries under one key.
    """

    def __init__(self, count: Callable[[tuple[str, ...], list[T]], None]) -> None:
        self._count = count
        self._entries: defaultdict[tuple[str, ...], deque[T]] = defaultdict(deque)
        self._lock = threading.Lock()

    def add(self, key: tuple[str, ...], entry: T) -> None:
        """Writes an entry down."""
        self.add_all(key, (entry,))

    def add_all(self, key: tuple[str, ...], new: Iterable[T]) -> None:
        """Writes several entries down."""
        entries = self._entries[key]
        entries.extend(new)
        if len(entries) >= _MOST_ENTRIES:
            self._settle(key)

    def settle(self) -> None:
        """Counts what was written down so far."""
        for key in list(self._entries):
            self._settle(key)

    def _settle(self, key: tuple[str, ...]) -> None:
        entries = self._entries[key]
        with self._lock:
            if settled := [entries.popleft() for _ in range(len(entries))]:
                self._count(key, settled)


class _Request:
    """The time in which a request is answered, as a context."""

    __slots__ = ("_began", "_key", "_metrics")

    def __init__(self, metrics: "Metrics", key: tuple[str, str, str]) -> None:
        self._metrics = metrics
        self._key = key
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, _kind: object, error: object, _traceback: object) -> None:
        if error is None:
            self._metrics.answers.add(self._key, time.monotonic() - self._began)
        else:
            self._metrics.count_error(self._key[0], error)


class Metrics:
    """All metrics of a server.

    Attributes:
        answers: For each request that succeeded, under its model, API and entrypoint: how many seconds it took.
        waits: For each request whose run begins, under its model, version and, if it is batched, thread pool: of how
            many examples it is, and how many seconds it has waited.
        runs: For each run that ends, under the same: of how many examples it was, padding not counted, how much padding
            there was, and how many seconds it took.
        is_configured: Whether there is to be a model of a name; of all other names, only so many are counted.
    """

    def __init__(self) -> None:
        serving = ":tensorflow:serving:"
        batching = f"{serving}batching_session:"
        load = ":tensorflow:cc:saved_model:"
        self.load_attempts = Counter(f"{load}load_attempt_count", ["model_path", "status"])
        self.load_latency = Counter(f"{load}load_latency", ["model_path"])
        self.graph_runs = Counter(":tensorflow:core:graph_runs")
        self.direct_session_runs = Counter(":tensorflow:core:direct_session_runs")
        self.graph_run_time = Counter(":tensorflow:core:graph_run_time_usecs")
        self.input_batch_size = Histogram(f"{batching}input_batch_size", SIZE_BUCKETS)
        self.padding_size = Histogram(f"{batching}padding_size", SIZE_BUCKETS, ["execution_batch_size"])
        self.processed_batch_size = Histogram(f"{batching}processed_batch_size", SIZE_BUCKETS)
        self.queuing_latency = Histogram(f"{batching}queuing_latency", QUEUING_BUCKETS, ["thread_pool_name"])
        self.wrapped_runs = Counter(f"{batching}wrapped_run_count")
        self.warmup_latency = Histogram(f"{serving}model_warmup_latency", LATENCY_BUCKETS, ["model_path", "status"])
        self.warmup_records = Counter(f"{serving}model_warmup_records_read", ["model_path", "status"])
        self.request_count = Counter(f"{serving}request_count", ["model_name", "status"])
        self.request_log_count = Counter(f"{serving}request_log_count", ["model_name", "status_code"])
        self.example_total = Counter(f"{serving}request_example_count_total", ["model"])
        self.example_counts = Histogram(f"{serving}request_example_counts", EXAMPLE_BUCKETS, ["model"])
        self.request_latency = Histogram(
            f"{serving}request_latency", LATENCY_BUCKETS, ["model_name", "API", "entrypoint"]
        )
        self.runtime_latency = Histogram(f"{serving}runtime_latency", LATENCY_BUCKETS, ["model_name", "API", "runtime"])
        glyph = ":glyph:serving:"
        version = ["model_name", "version"]
        self.queue_time = Histogram(f"{glyph}queue_time", LATENCY_BUCKETS, version)
        self.run_time = Histogram(f"{glyph}run_time", LATENCY_BUCKETS, version)
        self.run_size = Histogram(f"{glyph}run_size", SIZE_BUCKETS, version)
        self._metrics: list[Counter | Histogram | Gauge] = list(vars(self).values())
        self.answers = Journal(self._count_answers)
        self.waits = Journal(self._count_waits)
        self.runs = Journal(self._count_runs)
        self.is_configured: Callable[[str], bool] = lambda _name: False
        self._made_up: set[str] = set()

    def add(self, metric: Counter | Histogram | Gauge) -> None:
        """Exports one more metric."""
        self._metrics.append(metric)

    def request(self, model: str, api: str, entrypoint: str) -> AbstractContextManager[None]:
        """A context in which to answer a request: counts it and, if it succeeds, how long it takes.

        Args:
            model: The model's name.
            api: What the genuine server calls the method: "Predict" over gRPC, "predict" over REST.
            entrypoint: "GRPC" or "REST".
        """
        return _Request(self, (model, api, entrypoint))

    def count_error(self, model: str, error: object) -> None:
        """Counts a request that ended with an error, if it is one that callers cause."""
        if not isinstance(error, ServingError):
            return
        if not self.is_configured(model):
            if len(model) > _LONGEST_MADE_UP or (len(self._made_up) >= _MOST_MADE_UP and model not in self._made_up):
                return
            self._made_up.add(model)
        self.request_count.add(model, error.code.name)

    def count_examples(self, model: str, examples: int) -> None:
        """Counts the examples of a classify or regress request."""
        self.example_total.add(model, amount=examples)
        self.example_counts.observe(examples, model)

    def _count_answers(self, key: tuple[str, ...], seconds: list[float]) -> None:
        self.request_count.add(key[0], "OK", amount=len(seconds))
        self.request_latency.observe_all(_micros(seconds), *key)

    def _count_waits(self, key: tuple[str, ...], waits: list[tuple[int, float]]) -> None:
        name, version, *pool = key
        examples, seconds = zip(*waits, strict=True)
        micros = _micros(seconds)
        self.queue_time.observe_all(micros, name, version)
        if pool:
            self.input_batch_size.observe_all(examples)
            self.queuing_latency.observe_all(micros, *pool)

    def _count_runs(self, key: tuple[str, ...], runs: list[tuple[int, int, float]]) -> None:
        name, version, *pool = key
        examples, padding, seconds = zip(*runs, strict=True)
        micros = _micros(seconds)
        self.run_time.observe_all(micros, name, version)
        self.run_size.observe_all(examples, name, version)
        self.runtime_latency.observe_all(micros, name, "Predict", "TF1")
        self.graph_runs.add(amount=len(runs))
        self.direct_session_runs.add(amount=len(runs))
        self.graph_run_time.add(amount=int(micros.sum()))
        if pool:
            self.wrapped_runs.add(amount=len(runs))
            sizes = [size + more for size, more in zip(examples, padding, strict=True)]
            self.processed_batch_size.observe_all(sizes)
            for size in set(sizes):
                self.padding_size.observe_all(
                    [more for one, more in zip(sizes, padding, strict=True) if one == size], str(size)
                )

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        for journal in (self.answers, self.waits, self.runs):
            journal.settle()
        lines: list[str] = []
        for metric in self._metrics:
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            lines.extend(metric.lines())
        return ("\n".join(lines) + "\n").encode()


def _micros(seconds: Sequence[float]) -> npt.NDArray[np.float64]:
    return np.array(seconds) * 1e6


def add_expositions(texts: Sequence[bytes]) -> bytes:
    """Several expositions of the same metrics as one, values of the same name and labels added up."""
    if len(texts) == 1:
        return texts[0]
    samples: dict[str, dict[str, float]] = {}
    for text in texts:
        series: dict[str, float] = {}
        for line in _lines(text):
            if line.startswith("#"):
                series = samples.setdefault(line, {})
            else:
                name, _, value = line.rpartition(" ")
                series[name] = series.get(name, 0.0) + float(value)
    lines = []
    for header, series in samples.items():
        lines.append(header)
        lines.extend(f"{name} {_number(value)}" for name, value in series.items())
    return ("\n".join(lines) + "\n").encode()


def first_samples(text: bytes, names: Iterable[str]) -> dict[str, int]:
    """The first value of each of some counters, as the genuine server reports them with a reload.

    Args:
        text: An exposition.
        names: Counters by their names inside TensorFlow, e.g. ``/tensorflow/serving/request_count``.

    Returns:
        By name; 0 for what is no counter or has not counted yet.
    """
    firsts = {name: sample for name, sample in itertools.pairwise(_lines(text)) if not sample.startswith("#")}
    return {
        name: int(float(firsts.get(f"# TYPE {name.replace('/', ':')} counter", "0").rpartition(" ")[2]))
        for name in names
    }


def _lines(text: bytes) -> list[str]:
    """The lines of an exposition, in whose names of models there may be any other separator of lines than its own."""
    return text.decode().removesuffix("\n").split("\n")


def _braces(names: Sequence[str], values: Sequence[str]) -> str:
    pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return f"{int(value)}" if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"
