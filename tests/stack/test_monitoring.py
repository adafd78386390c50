"""What Prometheus records and Grafana draws: every expression is asked of a real Prometheus that reads the stack."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.loadtest.conftest import read_until
from tests.stack.engine import REPOSITORY, SAMPLES, Gateway, docker, execute, inspect, output, wait_until

MONITORING = REPOSITORY / "serving/monitoring"
DASHBOARD = json.loads((MONITORING / "grafana/glyph.json").read_text())
SERVICES = ["prometheus", "node-exporter"]  # Grafana only shows what these know, and has no stand-in

RULES = (MONITORING / "rules.yml").read_text()
RECORDED = re.findall(r"record: (\S+)", RULES)
ALERTS = re.findall(r"alert: (\S+)\n +expr: (.+) [<>] [\d.]+\n", RULES)
DRAWN = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


class Prometheus:
    def __init__(self) -> None:
        self._address = output("port", "prometheus", 9090)

    def ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{self._address}/api/v1/{path}?{query}", timeout=30) as response:
            return json.loads(response.read())["data"]

    def values(self, expression: str) -> list[float]:
        """What an instant query returns, without NaN."""
        values = [float(sample["value"][1]) for sample in self.ask("query", query=expression)["result"]]
        return [value for value in values if value == value]


@pytest.fixture(scope="module")
def prometheus(gateway: Gateway) -> Iterator[Prometheus]:
    """Prometheus, started beside the stack; by both protocols something right and something wrong is being asked."""
    output("--profile", "monitoring", "up", "--detach", "--wait", *SERVICES)
    prometheus = Prometheus()
    wait_until("all targets are read", lambda: len(prometheus.values("up == 1")) == len(prometheus.values("up")) >= 3)
    yield prometheus
    output("--profile", "monitoring", "rm", "--stop", "--force", *SERVICES)


def test_tensorboard_starts(gateway: Gateway) -> None:
    output("--profile", "tensorboard", "up", "--detach", "tensorboard")
    assert "TensorBoard" in read_until("http://" + output("port", "tensorboard", 6006), "<title>")
    output("--profile", "tensorboard", "rm", "--stop", "--force", "tensorboard")


@pytest.fixture(scope="module")
def asked(gateway: Gateway, prometheus: Prometheus) -> Prometheus:
    """Prometheus, when it has seen requests come and go."""
    body = {"signature_name": "image_bytes", "instances": [{"image_bytes": {"b64": "AAAA"}}]}
    with gateway.client(gateway.client_key) as client:

        def seen() -> bool:
            for sample in SAMPLES:
                client.predict(sample)
            gateway.ask("POST", "/v1/models/digits:predict", body, {"x-api-key": gateway.client_key})
            pixels = {"instances": [{"image": [[[0]] * 28] * 28}]}
            gateway.ask("POST", "/v1/models/digits:predict", pixels, {"x-api-key": gateway.client_key})
            return len(prometheus.values("glyph:latency_seconds:p99")) == 2

        wait_until("both protocols have a latency", seen)
    return prometheus


def test_the_rules_and_the_configuration_are_sound(prometheus: Prometheus) -> None:
    said = execute("prometheus", "promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    assert f"{len(RECORDED) + len(ALERTS)} rules found" in said


def test_every_replica_the_gateway_and_the_machine_are_read(prometheus: Prometheus) -> None:
    targets = prometheus.ask("targets")["activeTargets"]
    assert {target["labels"]["job"] for target in targets} == {"serving", "gateway", "host"}
    running = [container for container in inspect("serving") if container["State"]["Running"]]
    assert sum(target["labels"]["job"] == "serving" for target in targets) == len(running)


@pytest.mark.parametrize("expression", sorted({*RECORDED, *DRAWN}))
def test_every_expression_returns_data(asked: Prometheus, expression: str) -> None:
    wait_until("there are values", lambda: asked.values(expression) != [])


def test_the_figures_are_those_of_the_stack(asked: Prometheus) -> None:
    assert asked.values("glyph:replicas_available") == [1.0]
    assert asked.values("glyph:failed_loads:increase10m") == [0.0]
    assert all(0 < seconds < 10 for seconds in asked.values("glyph:latency_seconds:p99"))


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    image = output("--profile", "monitoring", "config", "--images", "prometheus").splitlines()[0]
    mounts = [f"--volume={MONITORING}:/rules:ro", f"--volume={REPOSITORY / 'tests/stack'}:/tests:ro"]
    said = docker("run", "--rm", *mounts, "--entrypoint=promtool", image, "test", "rules", "/tests/alerts.yml")
    assert "SUCCESS" in said


def test_each_alert_watches_a_figure_is_tried_and_is_explained() -> None:
    names = {name for name, _ in ALERTS}
    assert {figure for _, figure in ALERTS} <= set(RECORDED)
    assert len(names) == RULES.count("- alert:") == 7
    assert names == set(re.findall(r"alertname: (\w+)", (REPOSITORY / "tests/stack/alerts.yml").read_text()))
    explained = (REPOSITORY / "docs/operations.md").read_text()
    assert all(f"`{name}`" in explained for name in names)


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    source = (MONITORING / "grafana/datasource.yml").read_text()
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["type"] in {"timeseries", "stat"}
        assert f"uid: {panel['datasource']['uid']}," in source
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    drawn = " ".join(DRAWN)
    for what in (
        "request_count",
        "requests:rate1m",
        "p50",
        "p95",
        "p99",
        "batch_size",
        "queuing",
        "model_path",
        "node_cpu",
    ):
        assert what in drawn
