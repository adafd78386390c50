"""Several servers behind one client: killed, and found by name."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from glyph_client import AsyncClient, Client

from tests.client.peers import Conversation, Peer, framed
from tests.client.stand_ins import AVAILABLE, FAST, STATUS, answered

MODELS = Path(__file__).resolve().parents[1] / "conformance" / "models"
THREADS, CALLS = 32, 20


def test_a_replica_that_is_killed_under_load_costs_no_call(serve: Any, server: Any) -> None:
    flags = ("--model_name=half_plus_two", f"--model_base_path={MODELS / 'half_plus_two'}")
    with ExitStack() as stack:
        killed = stack.enter_context(serve(*flags))
        clients = [
            stack.enter_context(Client(targets, model="half_plus_two", timeout=60))
            for targets in ([killed.grpc, server.grpc], [killed.rest, server.rest])
        ]
        answered, under_load = itertools.count(1), threading.Event()

        def ask(thread: int) -> int:
            for number in range(CALLS):
                outputs = clients[thread % 2].call({"x": [[float(number)]]})
                assert outputs["y"].tolist() == [[number / 2 + 2]]
                if next(answered) >= THREADS * CALLS // 3:
                    under_load.set()
            return CALLS

        with ThreadPoolExecutor(THREADS) as callers:
            right = [callers.submit(ask, thread) for thread in range(THREADS)]
            assert under_load.wait(60)
            killed.running.process.kill()
            assert sum(each.result() for each in right) == THREADS * CALLS


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The addresses of names that the system does not know; what is put there can be looked up."""
    known: dict[str, list[str]] = {}
    look_up = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **options: Any) -> Any:
        if host in known and not known[host]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [found for each in known.get(host, [host]) for found in look_up(each, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_name_is_balanced_over_all_its_addresses(
    grpc_stub: Any, names: dict[str, list[str]], asynchronous: bool
) -> None:
    first = grpc_stub(answered)
    port = first.target.rpartition(":")[2]
    stubs = [first, *(grpc_stub(answered, address=f"127.0.0.{end}:{port}") for end in (2, 3))]
    names["replicas.test"] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    target = f"dns:///replicas.test:{port}"

    async def ask() -> None:
        async with AsyncClient(target) as client:
            for _ in range(30):
                assert await client.status() == AVAILABLE

    if asynchronous:
        asyncio.run(ask())
    else:
        with Client(target) as client:
            for _ in range(30):
                assert client.status() == AVAILABLE
    assert [len(stub.asked) for stub in stubs] == [10, 10, 10]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_server_that_has_moved_is_looked_up_again(
    grpc_stub: Any, peer: Callable[..., Peer], names: dict[str, list[str]], asynchronous: bool
) -> None:
    def leave(conversation: Conversation) -> None:
        conversation.answer(conversation.request(), framed(STATUS))
        there.stop_listening()
        names["moving.test"] = ["127.0.0.3", "127.0.0.2"]  # Nobody listens at the former.

    there = peer(leave)
    port = there.target.rpartition(":")[2]
    here = grpc_stub(answered, address=f"127.0.0.2:{port}")
    names["moving.test"] = ["127.0.0.1"]
    target = f"moving.test:{port}"

    async def ask() -> None:
        async with AsyncClient(target, retry=FAST, timeout=60) as client:
            for _ in range(4):
                assert await client.status() == AVAILABLE

    if asynchronous:
        asyncio.run(ask())
    else:
        with Client(target, retry=FAST, timeout=60) as client:
            for _ in range(4):
                assert client.status() == AVAILABLE
    assert len(here.asked) == 3


def test_a_name_of_the_systems_is_found(grpc_stub: Any) -> None:
    stub = grpc_stub(answered)
    with Client(f"dns:///localhost:{stub.target.rpartition(':')[2]}") as client:
        assert client.status() == AVAILABLE
    assert len(stub.asked) == 1
