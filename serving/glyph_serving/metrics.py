"""Prometheus metrics under the genuine server's names, labels and buckets, and a few that it lacks."""

import threading
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from glyph_serving.errors import ServingError

T = TypeVar("T")

_MOST_SERIES = 10_000  # label values of a counter: callers may make up names of models, and each is counted
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
            if values in self._values or len(self._values) < _MOST_SERIES:
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
        self._buckets = buckets
        self._bounds = [*(_number(bound) for bound in buckets), "+Inf"]
        self._labels = labels
        self._series: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}
        self._lock = threading.Lock()

    def observe(self, value: float, *values: str) -> None:
        """Counts a value for these label values."""
        self.observe_all((value,), *values)

    def observe_all(self, observed: Sequence[float], *values: str) -> None:
        """Counts several values for the same label values."""
        with self._lock:
            series = self._series.get(values)
            if series is None:
                series = self._series[values] = ([0] * (len(self._buckets) + 1), [0.0])
            counts, total = series
            for value in observed:
                counts[bisect_left(self._buckets, value)] += 1
                total[0] += value

    def lines(self) -> Iterable[str]:
        """The samples in Prometheus' text format."""
        with self._lock:
            series = sorted((values, list(counts), total[0]) for values, (counts, total) in self._series.items())
        for values, counts, total in series:
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


class Metrics:
    """All metrics of a server."""

    def __init__(self) -> None:
        serving = ":tensorflow:serving:"
        batching = f"{serving}batching_session:"
        load = ":tensorflow:cc:saved_model:"
        self.load_attempts = Counter(f"{load}load_attempt_count", ["model_path", "status"])
        self.load_latency = Counter(f"{load}load_latency", ["model_path"])
        self.graph_runs = Counter(":tensorflow:core:graph_runs")
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

    def add(self, metric: Counter | Histogram | Gauge) -> None:
        """Exports one more metric."""
        self._metrics.append(metric)

    async def record(self, model: str, api: str, entrypoint: str, answer: Awaitable[T]) -> T:
        """Counts a request and, if it succeeds, how long it takes.

        Args:
            model: The model's name.
            api: What the genuine server calls the method: "Predict" over gRPC, "predict" over REST.
            entrypoint: "GRPC" or "REST".
            answer: The request.

        Raises:
            ServingError: What the request ends with.
        """
        began = time.perf_counter()
        try:
            result = await answer
        except ServingError as error:
            self.request_count.add(model, error.code.name)
            raise
        self.request_count.add(model, "OK")
        self.request_latency.observe((time.perf_counter() - began) * 1e6, model, api, entrypoint)
        return result

    def count_examples(self, model: str, examples: int) -> None:
        """Counts the examples of a classify or regress request."""
        self.example_total.add(model, amount=examples)
        self.example_counts.observe(examples, model)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        lines: list[str] = []
        for metric in self._metrics:
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            lines.extend(metric.lines())
        return ("\n".join(lines) + "\n").encode()


def add_expositions(texts: Sequence[bytes]) -> bytes:
    """Several expositions of the same metrics as one, values of the same name and labels added up."""
    if len(texts) == 1:
        return texts[0]
    samples: dict[str, dict[str, float]] = {}
    for text in texts:
        series: dict[str, float] = {}
        for line in text.decode().splitlines():
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


def _braces(names: Sequence[str], values: Sequence[str]) -> str:
    pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return f"{int(value)}" if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"
