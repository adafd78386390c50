"""The stack in a real Docker Engine, as somebody meets it who types the README's command. Run by `tests/stack/run`."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from tests.stack.engine import REPOSITORY, SAMPLES, Gateway, compose, execute, inspect, output

SERVICES = ["trainer", "serving", "gateway", "client"]


def test_the_client_asks_about_every_sample_over_both_protocols(terminal: Any) -> None:
    assert len(SAMPLES) >= 12
    assert inspect("client")[0]["State"]["ExitCode"] == 0
    table = output("logs", "--no-log-prefix", "client").splitlines()
    for sample in SAMPLES:
        over_grpc, over_rest = (line for line in table if sample.name in line)
        assert over_grpc == over_rest


def test_this_machine_is_answered_through_the_gateway(gateway: Gateway) -> None:
    with gateway.client(gateway.client_key) as client:
        answers = [client.predict(sample) for sample in SAMPLES]
    assert {answer.version for answer in answers} == {1}
    assert sum(answer.label == sample.name[0] for answer, sample in zip(answers, SAMPLES, strict=True)) >= 9


@pytest.mark.parametrize("service", ["serving", "gateway"])
def test_what_stays_is_healthy(terminal: Any, service: str) -> None:
    assert inspect(service)[0]["State"]["Health"]["Status"] == "healthy"


def test_version_1_is_published_and_belongs_to_no_root(terminal: Any) -> None:
    assert inspect("trainer")[0]["State"]["ExitCode"] == 0
    assert execute("serving", "ls", "/models/digits") == "1"
    assert execute("serving", "stat", "--format=%u", "/models/digits/1/saved_model.pb") == "10001"


@pytest.mark.parametrize("service", SERVICES)
def test_every_container_is_confined(terminal: Any, service: str) -> None:
    (container,) = inspect(service)
    host = container["HostConfig"]
    assert container["Config"]["User"] == "10001:10001"
    assert host["ReadonlyRootfs"]
    assert host["Init"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}


@pytest.mark.parametrize("service", ["serving", "gateway"])
def test_no_process_is_root_or_has_capabilities(terminal: Any, service: str) -> None:
    status = execute(service, "cat", "/proc/1/status")
    for line in ("Uid:\t10001\t10001", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"):
        assert line in status


@pytest.mark.parametrize(
    ("service", "path"),
    [("serving", "/models/digits/new"), ("serving", "/config/new"), ("serving", "/new"), ("gateway", "/etc/new")],
)
def test_what_need_not_write_cannot(terminal: Any, service: str, path: str) -> None:
    done = compose("exec", "--no-TTY", service, "touch", path)
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr


def test_a_second_up_publishes_nothing_and_restarts_nothing(terminal: Any) -> None:
    before = [inspect(service)[0]["State"]["StartedAt"] for service in ("serving", "gateway")]
    output("up", "--detach", "--wait", "gateway")
    assert execute("serving", "ls", "/models/digits") == "1"
    assert [inspect(service)[0]["State"]["StartedAt"] for service in ("serving", "gateway")] == before


def test_the_example_settings_are_the_defaults() -> None:
    used = set(re.findall(r"\$\{(\w+)", (REPOSITORY / "docker-compose.yml").read_text()))
    explained = set(re.findall(r"^(\w+)=", (REPOSITORY / ".env.example").read_text(), re.M))
    assert used == explained

    plain = {name: value for name, value in os.environ.items() if name not in used}
    with_example, without = (
        compose("--profile=*", "config", environment=plain | {"COMPOSE_ENV_FILES": file})
        for file in (".env.example", os.devnull)
    )
    assert with_example.returncode == 0, with_example.stderr
    assert with_example.stdout == without.stdout
