"""Servers that go away between two calls, while nobody listens to them."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from glyph_client import TLS, AsyncClient, Client, Retry

from tests.client.peers import Conversation, Peer, answers, framed, listening
from tests.client.stand_ins import AVAILABLE, REST_STATUS, STATUS

REST_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(REST_STATUS), REST_STATUS)


class Turns:
    """One end waits, and its event loop with it, while the other one acts."""

    def __init__(self) -> None:
        self._asked, self._acted = threading.Semaphore(0), threading.Semaphore(0)

    def wait_for_the_other(self) -> None:
        self._asked.release()
        assert self._acted.acquire(timeout=20)

    @contextmanager
    def acting(self) -> Iterator[None]:
        assert self._asked.acquire(timeout=20)
        yield
        self._acted.release()


def statuses(target: str, turns: Turns, *, asynchronous: bool, **options: Any) -> list[Any]:
    """What three calls return, after each of which the server acts."""

    found: list[Any] = []

    async def ask() -> None:
        async with AsyncClient(target, **options) as client:
            for _ in range(3):
                found.append(await client.status())
                turns.wait_for_the_other()

    if asynchronous:
        asyncio.run(ask())
    else:
        with Client(target, **options) as client:
            for _ in range(3):
                found.append(client.status())
                turns.wait_for_the_other()
    return found


@pytest.mark.parametrize("scheme", ["grpc", "grpcs", "http", "https"])
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("abruptly", [False, True])
def test_a_connection_that_ended_between_two_calls_costs_none(
    certificates: Any, scheme: str, asynchronous: bool, abruptly: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    turns = Turns()

    def script(connection: socket.socket) -> None:
        if scheme.endswith("s"):
            connection = context.wrap_socket(connection, server_side=True)
        with connection:
            if scheme.startswith("grpc"):
                conversation = Conversation(connection, {})
                conversation.answer(conversation.request(), framed(STATUS))
            else:
                connection.recv(65_536)
                connection.sendall(REST_ANSWER)
            with turns.acting():
                if isinstance(connection, ssl.SSLSocket):
                    connection.setblocking(False)
                    with suppress(ssl.SSLError):  # The client says no goodbye yet.
                        connection.unwrap()
                    connection.setblocking(True)
                if abruptly:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.close()
                else:
                    connection.shutdown(socket.SHUT_WR)
            while not abruptly and connection.recv(65_536):
                pass

    with listening(script) as address:
        target = f"{scheme}://localhost:{address.rpartition(':')[2]}"
        options = {"retry": Retry(1), "tls": TLS(certificates.authority)}
        assert statuses(target, turns, asynchronous=asynchronous, **options) == [AVAILABLE] * 3


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_server_that_has_said_that_it_goes_is_left(peer: Callable[..., Peer], asynchronous: bool) -> None:
    turns = Turns()

    def script(conversation: Conversation) -> None:
        conversation.answer(conversation.request(), framed(STATUS))
        with turns.acting():
            conversation.h2.close_connection()
            conversation.flush()

    server = peer(script)
    assert statuses(server.target, turns, asynchronous=asynchronous, retry=Retry(1)) == [AVAILABLE] * 3
    assert len(server.conversations) == 3


def test_a_task_that_is_cancelled_while_it_listens_takes_no_connection_along(peer: Callable[..., Peer]) -> None:
    turns = Turns()

    def script(conversation: Conversation) -> None:
        conversation.answer(conversation.request(), framed(STATUS))
        with turns.acting():
            conversation.h2.ping(bytes(8))
            conversation.flush()
        answers(conversation)

    async def ask() -> None:
        async with AsyncClient(server.target, retry=Retry(1)) as client:
            await client.status()
            turns.wait_for_the_other()
            task = asyncio.create_task(client.status())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.status() == AVAILABLE

    server: Peer = peer(lambda conversation: (script if len(server.conversations) == 1 else answers)(conversation))
    asyncio.run(ask())
    assert len(server.conversations) == 2
