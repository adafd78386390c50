"""Servers that go away between two calls, while nobody listens to them."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from glyph_client import TLS, AsyncClient, Client, Retry

from tests.client.peers import Conversation, Peer, answers, framed, listening
from tests.client.stand_ins import AVAILABLE, REST_STATUS, STATUS

REST_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(REST_STATUS), REST_STATUS)


def statuses(target: str, gone: threading.Semaphore, *, asynchronous: bool, **options: Any) -> list[Any]:
    """What three calls return, between which the thread, its event loop with it, waits until the server is gone."""

    async def ask() -> list[Any]:
        async with AsyncClient(target, **options) as client:
            return [(await client.status(), gone.acquire(timeout=20))[0] for _ in range(3)]

    if asynchronous:
        return asyncio.run(ask())
    with Client(target, **options) as client:
        return [(client.status(), gone.acquire(timeout=20))[0] for _ in range(3)]


@pytest.mark.parametrize("scheme", ["grpc", "grpcs", "http", "https"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_connection_that_ended_between_two_calls_costs_none(
    certificates: Any, scheme: str, asynchronous: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    gone = threading.Semaphore(0)

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
            if isinstance(connection, ssl.SSLSocket):
                connection.setblocking(False)
                with suppress(ssl.SSLError):  # The client says no goodbye yet.
                    connection.unwrap()
                connection.setblocking(True)
            connection.shutdown(socket.SHUT_WR)
            gone.release()
            while connection.recv(65_536):
                pass

    with listening(script) as address:
        target = f"{scheme}://localhost:{address.rpartition(':')[2]}"
        options = {"retry": Retry(1), "tls": TLS(certificates.authority)}
        assert statuses(target, gone, asynchronous=asynchronous, **options) == [AVAILABLE] * 3


def test_a_task_that_is_cancelled_while_it_listens_takes_no_connection_along(peer: Callable[..., Peer]) -> None:
    said = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.answer(conversation.request(), framed(STATUS))
        conversation.h2.ping(bytes(8))
        conversation.flush()
        said.set()
        answers(conversation)

    async def ask() -> None:
        async with AsyncClient(server.target, retry=Retry(1)) as client:
            await client.status()
            assert said.wait(20)
            task = asyncio.create_task(client.status())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.status() == AVAILABLE

    server = peer(script)
    asyncio.run(ask())
    assert len(server.conversations) == 2
