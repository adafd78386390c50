"""Three replicas: each request goes to the next one, and the death of one is nobody's loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.stack.engine import SAMPLES, Gateway, docker, inspect, load, metric, output, wait_until

REPLICAS = 3
REQUESTS = 600


@pytest.fixture(scope="module")
def replicas(gateway: Gateway) -> Iterator[list[str]]:
    """The container of each replica."""
    up = ["up", "--detach", "--wait", "--no-recreate", "serving"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SERVING_REPLICAS", str(REPLICAS))
        output(*up)
        yield output("ps", "--quiet", "serving").split()
    output(*up)


def answered(container: str) -> float:
    """How many predictions over gRPC a replica has answered."""
    read = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8501/monitoring/prometheus/metrics').read().decode())"
    metrics = docker("exec", container, "python", "-c", read)
    return metric(metrics, ":tensorflow:serving:request_latency_count", entrypoint="GRPC", API="Predict")


def test_other_commands_leave_the_replicas_alone(replicas: list[str]) -> None:
    output("run", "--rm", "loadtest")
    assert output("ps", "--quiet", "serving").split() == replicas


def test_the_requests_of_one_connection_are_spread_evenly(gateway: Gateway, replicas: list[str]) -> None:
    with gateway.client(gateway.client_key) as client:
        before = [answered(replica) for replica in replicas]
        for _ in range(REQUESTS):
            client.predict(SAMPLES[0])
        after = [answered(replica) for replica in replicas]
    shares = [now - then for now, then in zip(after, before, strict=True)]
    assert sum(shares) == REQUESTS
    assert all(abs(share - REQUESTS / REPLICAS) <= 0.2 * REQUESTS / REPLICAS for share in shares), shares


def test_the_death_of_a_replica_is_nobodys_loss(gateway: Gateway, replicas: list[str]) -> None:
    with gateway.client(gateway.client_key) as client, load(client) as running:
        wait_until("the load runs", lambda: len(running.answers) > 100)
        docker("kill", replicas[-1])
        dead = len(running.answers)
        wait_until("the load runs on", lambda: len(running.answers) > dead + 1000)
    assert running.errors == []
    states: list[dict[str, Any]] = [container["State"] for container in inspect("serving")]
    assert sum(state["Running"] for state in states) == REPLICAS - 1
