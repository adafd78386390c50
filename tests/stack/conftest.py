"""These tests need a Docker Engine and the images that `tests/stack/run` prepares; else they are not collected.

One stack lives through all of them: it comes up in `test_up.py` and goes down in `test_down.py`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.stack.engine import COMPOSE, REPOSITORY, UP_WITHIN, Gateway, execute, published_at

collect_ignore_glob = [] if "GLYPH_STACK" in os.environ else ["test_*.py"]

COMMAND = "docker compose up --build"
NAMES = ["up", "load", "access", "limits", "release", "replicas", "monitoring", "down"]
ORDER = [f"test_{name}" for name in NAMES]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    here.sort(key=lambda item: ORDER.index(item.path.stem))
    items[:] = [item for item in items if item not in here] + here
    for item in here:
        item.add_marker(pytest.mark.timeout(UP_WITHIN + 60))


@pytest.fixture(scope="session")
def terminal(start: Callable[..., AbstractContextManager[Any]]) -> Iterator[Any]:
    """The terminal in which the command was typed, from the moment when the client has done its work."""
    with start([COMPOSE, "--ansi=never", *COMMAND.split()[2:]], cwd=REPOSITORY) as running:
        running.wait_for("client-1 exited with code", timeout=UP_WITHIN)
        yield running


@pytest.fixture(scope="session")
def gateway(terminal: Any, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """The gateway on this machine, with a key of each role that was made for the tests."""
    ca = tmp_path_factory.mktemp("access") / "ca.crt"
    ca.write_text(execute("gateway", "cat", "/access/ca.crt"))
    tls, plain = published_at()
    return Gateway(
        tls=tls,
        plain=plain,
        ca=ca,
        client_key=execute("gateway", "keys", "add", "client", "tester"),
        operator_key=execute("gateway", "keys", "add", "operator", "chief"),
    )
