"""A new version is published, promoted and rolled back while at least 200 requests a second are answered."""

from __future__ import annotations

import pytest
from glyph_client import Client

from tests.stack.engine import SAMPLES, Gateway, Load, execute, load, output, wait_until

MODELS = ["--models-dir", "/models", "--config", "/models/models.config"]
TRAINING = ["--recipe", "deck", "--fast", "--mnist-dir", "mnist", "--data-dir", "/data/digits"]


def trainer(*arguments: str) -> str:
    """A `glyph-train` command in a container of its own."""
    return output("run", "--rm", "--no-TTY", "trainer", *arguments, *MODELS)


@pytest.fixture(scope="module")
def released(gateway: Gateway) -> Load:
    """A load during which version 2 came and went."""
    with gateway.client(gateway.client_key) as client, load(client) as running:
        answered_by(client, 1)
        trainer("promote", "1")
        trainer("run", *TRAINING)
        assert sorted(execute("serving", "ls", "/models/digits").split()) == ["1", "2"]
        assert client.predict(SAMPLES[0]).version == 1
        trainer("promote", "2")
        answered_by(client, 2)
        trainer("rollback")
        answered_by(client, 1)
    return running


def answered_by(client: Client, version: int) -> None:
    wait_until(f"version {version} answers", lambda: client.predict(SAMPLES[0]).version == version)


def test_no_request_fails(released: Load) -> None:
    assert released.errors == []


def test_at_least_200_requests_a_second_were_answered(released: Load) -> None:
    assert released.rate >= 200


def test_each_version_answers_when_it_was_said_to(released: Load) -> None:
    """The answers of several callers overlap at a change, so what counts is the order within each version's first."""
    first = [next(answer.at for answer in released.answers if answer.version == v) for v in (1, 2)]
    last = [max(answer.at for answer in released.answers if answer.version == v) for v in (1, 2)]
    assert first[0] < first[1]  # 1 before 2,
    assert last[1] < last[0]  # and 1 again after 2
    assert {answer.version for answer in released.answers} == {1, 2}
    between = [a.version for a in released.answers if first[1] + 0.5 < a.at < last[1] - 0.5]
    assert set(between) <= {2}  # nothing flaps
