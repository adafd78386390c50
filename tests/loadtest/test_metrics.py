"""The server's side of the report, read from a real server and held against what was sent."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.loadtest.conftest import Outcome

_QUEUE_MS = 80


@pytest.fixture(scope="module")
def batching_server(
    models_dir: Path, serve: Callable[..., AbstractContextManager[Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A server where a request waits 80 ms for company."""
    folder = tmp_path_factory.mktemp("batching")
    batching, monitoring = folder / "batching.config", folder / "monitoring.config"
    batching.write_text(f"max_batch_size {{ value: 64 }} batch_timeout_micros {{ value: {1000 * _QUEUE_MS} }}")
    monitoring.write_text('prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }')
    model = ["--model_name=digits", f"--model_base_path={models_dir / 'digits'}"]
    files = [f"--batching_parameters_file={batching}", f"--monitoring_config_file={monitoring}"]
    with serve(*model, "--enable_batching", *files) as server:
        yield server


@pytest.mark.parametrize(("users", "images"), [(1, 4), (8, 2)])
def test_what_the_server_counts_is_what_was_sent(
    batching_server: Any, glyph_load: Callable[..., Outcome], users: int, images: int
) -> None:
    """One user's requests run alone; those of eight wait for one another and run together."""
    load = ["--users", str(users), "--batch", str(images), "--time", "1s", "--warm-up", "0s", "--json"]
    metrics = ["--metrics", f"{batching_server.rest}/monitoring/prometheus/metrics"]
    done = glyph_load("run", batching_server.grpc, *load, *metrics)
    assert done.code == 0, done.err
    seen, client = done.json["server"], done.json["latency_ms"]
    batches = sum(count for _, count in seen["batch_sizes"])
    assert seen["requests"] >= done.json["requests"] > 0
    assert seen["batch_size"] * batches == pytest.approx(images * seen["requests"])
    if users == 1:
        assert seen["batch_sizes"] == [[images, seen["requests"]]]
    else:
        assert seen["batch_size"] > images
        assert seen["queue_ms"] > 1
    # The server's counts take in those last requests that come too late for the client's.
    assert 0 <= seen["queue_ms"] < seen["request_ms"] < 1.1 * client["mean"]
    assert 0 < seen["runtime_ms"] < seen["request_ms"]
