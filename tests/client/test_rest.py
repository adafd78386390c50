"""Calls over REST: the connections that they take, and how they end."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from glyph_client import AsyncClient, Client, ClientClosed, Retry
from glyph_client._transports import threads

from tests.client.peers import answers_in_json, listening
from tests.client.stand_ins import REST_STATUS


def test_a_process_that_is_forked_opens_its_own_connections(rest_stub: Any) -> None:
    code = """
import os, sys
from glyph_client import CallError, Client
with Client(sys.argv[1], timeout=60) as client, Client(sys.argv[1]) as closed:
    client.status()
    closed.close()
    child = os.fork()
    if child == 0:
        client.status()
        try:
            closed.status()
        except CallError as error:
            sys.exit(error.code != "CANCELLED")
    _, status = os.waitpid(child, 0)
    client.status()
    sys.exit(os.waitstatus_to_exitcode(status))
"""
    stub = rest_stub(lambda *_: (200, REST_STATUS, {}))
    subprocess.run([sys.executable, "-c", code, stub.target], check=True)
    assert len(stub.asked) == 3
    assert len(stub.connections) == 2


@contextmanager
def silent_server() -> Iterator[tuple[str, threading.Event]]:
    """The address of a server that answers nothing, and what says that it was asked."""
    asked = threading.Event()

    def listen() -> None:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(65_536):
                asked.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        thread.join()


def test_closing_ends_the_call_under_way() -> None:
    with silent_server() as (target, asked), ThreadPoolExecutor() as pool:
        client = Client(target, retry=Retry(1))
        asking = pool.submit(client.status)
        assert asked.wait(20)
        client.close()
        with pytest.raises(ClientClosed, match=r"CANCELLED: the client was closed.*Close it once all calls"):
            asking.result(20)


def test_closing_ends_a_call_that_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closing(socket.socket):
        """Connects while the client is closed."""

        def connect(self, address: Any) -> None:
            super().connect(address)
            client.close()

    monkeypatch.setattr(threads, "new_socket", lambda address: Closing(address[0], socket.SOCK_STREAM))
    with silent_server() as (target, asked):
        client = Client(target, retry=Retry(1))
        with pytest.raises(ClientClosed, match=r"CANCELLED: the client was closed.*Close it once all calls"):
            client.status()
    assert not asked.is_set()


def test_closing_ends_the_task_under_way() -> None:
    async def ask_and_close(target: str, asked: threading.Event) -> None:
        client = AsyncClient(target, retry=Retry(1))
        asking = asyncio.create_task(client.status())
        await asyncio.to_thread(asked.wait, 20)
        await client.close()
        with pytest.raises(ClientClosed, match=r"CANCELLED: the client was closed.*Close it once all calls"):
            await asyncio.wait_for(asking, 20)

    with silent_server() as (target, asked):
        asyncio.run(ask_and_close(target, asked))


def test_closing_leaves_no_connection_open() -> None:
    def opened(address: str) -> list[socket.socket]:
        found = []
        for each in gc.get_objects():
            if type(each) is socket.socket and each.family is socket.AF_INET:
                with suppress(OSError):  # It is closed, or a listener.
                    found += [each] if "{}:{}".format(*each.getpeername()) == address else []
        return found

    async def ask_on_and_close(address: str) -> None:
        client, answered = AsyncClient(f"http://{address}", retry=Retry(1)), asyncio.Semaphore(0)

        async def ask_on() -> None:
            while True:
                await client.status()
                answered.release()

        asking = [asyncio.create_task(ask_on()) for _ in range(12)]
        for _ in range(120):
            await answered.acquire()
        assert opened(address)
        await client.close()
        assert opened(address) == []
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(each) for each in ended] == [ClientClosed] * 12

    with listening(answers_in_json) as address:
        asyncio.run(ask_on_and_close(address))
