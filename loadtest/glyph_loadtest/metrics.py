"""What a server says of itself: TensorFlow Serving's Prometheus metrics, before and after a run."""

import http.client
import math
import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace

import gevent

from glyph_loadtest.target import Target

_LINE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_]+)="((?:[^"\\]|\\.)*)"')
_PATH = "/monitoring/prometheus/metrics"
_PATIENCE = 2.0  # seconds

Sample = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class ServerSide:
    """A server's own figures of the time of a run, warm-up included.

    Attributes:
        requests: answered requests that the server counted.
        request_ms: their mean latency inside the server, in milliseconds.
        runtime_ms: mean time in the model, in milliseconds; None when the server does not say.
        queue_ms: mean time in the batching queue, in milliseconds; None without batching.
        batch_size: mean number of examples run together; None without batching.
        batch_sizes: how many batches had up to so many examples (and more than the size before).
    """

    requests: int
    request_ms: float | None
    runtime_ms: float | None
    queue_ms: float | None
    batch_size: float | None
    batch_sizes: dict[float, int]


def metrics_url(target: Target) -> str:
    """Where the metrics of a target are by convention: on its REST port, which is 8501, or one above the gRPC port."""
    address = target.address if target.rest else replace(target.address, port=target.address.port + 1)
    return f"http{'s' if address.tls else ''}://{address}{_PATH}"


def scrape(url: str) -> dict[Sample, float] | None:
    """Reads the metrics, None when there are none."""
    try:
        # The URL is the user's, or metrics_url's. What listens there may be anything, and trickle for ever.
        with gevent.Timeout(_PATIENCE, TimeoutError()), urllib.request.urlopen(url, timeout=_PATIENCE) as answer:  # noqa: S310
            return parse(answer.read().decode(errors="replace"))
    except (OSError, http.client.HTTPException, ValueError):
        return None


def parse(text: str) -> dict[Sample, float]:
    """Reads Prometheus' text format: the value of each name with its labels, where that is a finite number."""
    samples: dict[Sample, float] = {}
    for line in text.splitlines():
        if (match := _LINE.match(line)) and math.isfinite(value := float(match[3])):
            samples[match[1], frozenset(_LABEL.findall(match[2] or ""))] = value
    return samples


def between(before: Mapping[Sample, float], after: Mapping[Sample, float], model: str) -> ServerSide:
    """The figures of a model between two readings; those of batching, which name no model, are the whole server's."""

    def gained(name: str) -> dict[frozenset[tuple[str, str]], float]:
        return {
            labels: value - before.get((n, labels), 0.0)
            for (n, labels), value in after.items()
            if n == name and dict(labels).get("model_name", model) == model
        }

    def mean(name: str) -> float | None:
        count = sum(gained(name + "_count").values())
        return sum(gained(name + "_sum").values()) / count if count else None

    def milliseconds(name: str) -> float | None:
        value = mean(name)
        return None if value is None else value / 1000

    steps: dict[float, float] = {}
    for labels, value in gained(":tensorflow:serving:batching_session:processed_batch_size_bucket").items():
        limit = float(dict(labels).get("le", "inf"))
        steps[limit] = steps.get(limit, 0.0) + value
    sizes, below = {}, 0.0
    for limit, value in sorted(steps.items()):
        if value > below:
            sizes[limit] = round(value - below)
        below = value
    return ServerSide(
        requests=round(sum(gained(":tensorflow:serving:request_latency_count").values())),
        request_ms=milliseconds(":tensorflow:serving:request_latency"),
        runtime_ms=milliseconds(":tensorflow:serving:runtime_latency"),
        queue_ms=milliseconds(":tensorflow:serving:batching_session:queuing_latency"),
        batch_size=mean(":tensorflow:serving:batching_session:processed_batch_size"),
        batch_sizes=sizes,
    )
