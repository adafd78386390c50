"""A new version is published, promoted and rolled back while at least 200 requests a second are answered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from glyph_client import CallError, Client

from tests.stack.engine import SAMPLES, Gateway, Load, execute, load, output, wait_until

MODELS = ["--models-dir", "/models", "--config", "/models/models.config"]
MANY = 500  # answers of a version that is to be seen for a while
TRAINING = ["--recipe", "deck", "--fast", "--mnist-dir", "mnist", "--data-dir", "/data/digits"]


def trainer(*arguments: str) -> str:
    """A `glyph-train` command in a container of its own."""
    return output("run", "--rm", "--no-TTY", "trainer", *arguments, *MODELS)


def answered_by(client: Client, label: str, version: int) -> None:
    def answers() -> bool:
        try:
            return client.predict(SAMPLES[0], label=label).version == version
        except CallError:  # The label is not known yet.
            return False

    wait_until(f"version {version} answers as {label}", answers)


@pytest.fixture(scope="module")
def released(gateway: Gateway) -> Load:
    """A load on the stable version, during which version 2 came and went."""
    with gateway.client(gateway.client_key) as client, gateway.client(gateway.client_key, label="stable") as stable:
        trainer("promote", "1")
        answered_by(client, "stable", 1)
        with load(stable) as running:
            trainer("run", *TRAINING)
            assert sorted(execute("serving", "ls", "/models/digits").split()) == ["1", "2"]
            assert stable.predict(SAMPLES[0]).version == 1
            trainer("promote", "2", "--label", "canary")
            answered_by(client, "canary", 2)
            trainer("promote", "2")
            wait_until("version 2 answers the load", lambda: running.count(2) >= MANY)
            trainer("rollback")
            answered_by(client, "stable", 1)
            seen = running.count(1)
            wait_until("version 1 answers the load again", lambda: running.count(1) >= seen + MANY)
    return running


def test_no_request_fails(released: Load) -> None:
    assert released.errors == []


def test_at_least_200_requests_a_second_were_answered(released: Load, record_property: Callable[..., None]) -> None:
    record_property("requests_per_second", round(released.rate))
    if released.rate < 200:
        pytest.skip(f"{released.rate:.0f} requests a second: this machine is too busy to show what happens at 200")


def test_each_version_answers_when_it_was_said_to(released: Load) -> None:
    assert {answer.version for answer in released.answers} == {1, 2}
    first = min(answer.answered for answer in released.answers if answer.version == 2)
    last = max(answer.asked for answer in released.answers if answer.version == 2)
    meanwhile = [answer for answer in released.answers if first < answer.asked and answer.answered < last]
    assert {answer.version for answer in meanwhile} == {2}  # nothing flaps
    assert {answer.version for answer in released.answers if answer.answered < first} == {1}
    assert {answer.version for answer in released.answers if answer.asked > last} == {1}
