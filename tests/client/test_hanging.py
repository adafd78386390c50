"""Servers that take a request and never answer it, and those that take their time over each stage of a call."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from typing import Any

import pytest
from glyph_client import TLS, AsyncClient, CallError, Client, DeadlineExceeded

from tests.client.peers import ask, listening

LATE = "DEADLINE_EXCEEDED"


def outcomes(targets: Any, *, asynchronous: bool) -> list[str]:
    """What becomes of five calls, one after the other: the code of the error, or that they are answered."""
    found: list[str] = []

    def ask() -> None:
        with Client(targets, model="digits", timeout=1) as client:
            for _ in range(5):
                try:
                    client.status()
                except CallError as error:
                    found.append(error.code)
                else:
                    found.append("answered")

    async def ask_in_a_task() -> None:
        async with AsyncClient(targets, model="digits", timeout=1) as client:
            for _ in range(5):
                try:
                    await client.status()
                except CallError as error:
                    found.append(error.code)
                else:
                    found.append("answered")

    if asynchronous:
        asyncio.run(ask_in_a_task())
    else:
        ask()
    return found


@pytest.mark.parametrize("kind", ["grpc", "rest"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_replica_that_hangs_costs_one_call_and_no_more(server: Any, kind: str, asynchronous: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # It accepts, and never answers.
        scheme = "http" if kind == "rest" else "grpc"
        targets = [f"{scheme}://127.0.0.1:{hanging.getsockname()[1]}", getattr(server, kind)]
        assert outcomes(targets, asynchronous=asynchronous) == [LATE] + 4 * ["answered"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_address_of_a_name_that_hangs_is_left_too(server: Any, asynchronous: bool, monkeypatch: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        ports = [hanging.getsockname()[1], int(server.grpc.rpartition(":")[2])]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        of_calls = outcomes("dns:///replicas.test:8500", asynchronous=asynchronous)
    assert sorted(of_calls) == [LATE] + 4 * ["answered"]


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_all_stages_of_a_call_share_its_time(certificates: Any, scheme: str, asynchronous: bool) -> None:
    """Each lasts 1.6 s of the call's 2, so that only one that counts them together ends in time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    over = threading.Event()

    def script(connection: socket.socket) -> None:
        if not over.wait(1.6):
            with context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(65_536)
                if not over.wait(1.6):
                    secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" if scheme == "https" else bytes(9))
                    over.wait(10)

    with listening(script) as address:
        start = time.monotonic()
        target = f"{scheme}://localhost:{address.rpartition(':')[2]}"
        (error,) = ask(target, asynchronous=asynchronous, timeout=2, tls=TLS(certificates.authority))
        took = time.monotonic() - start
        over.set()
    assert isinstance(error, DeadlineExceeded)
    assert took < 4


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_server_that_never_falls_silent_is_not_heard_for_longer(asynchronous: bool) -> None:
    over = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(bytes.fromhex("000000040000000000"))
        while not over.is_set():
            connection.sendall(bytes.fromhex("000008060100000000") + bytes(8))  # replies to a PING that nobody sent

    with listening(script) as address:
        threading.Timer(10, over.set).start()
        (error,) = ask(address, asynchronous=asynchronous, timeout=0.5)
        assert not over.is_set()
        over.set()
    assert isinstance(error, DeadlineExceeded)
