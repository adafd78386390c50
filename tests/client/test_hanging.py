"""Servers that take a request and never answer it, and those that take their time over each stage of a call."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from glyph_client import TLS, AsyncClient, CallError, Client, DeadlineExceeded
from glyph_client._transports import pool as pools
from glyph_client._transports import threads

from tests.client.peers import Peer, answers, answers_in_json, ask, full_listener, listening
from tests.client.stand_ins import AVAILABLE

both = pytest.mark.parametrize("asynchronous", [False, True])
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
@both
def test_a_replica_that_hangs_costs_one_call_and_no_more(server: Any, kind: str, asynchronous: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # It accepts, and never answers.
        scheme = "http" if kind == "rest" else "grpc"
        targets = [f"{scheme}://127.0.0.1:{hanging.getsockname()[1]}", getattr(server, kind)]
        assert outcomes(targets, asynchronous=asynchronous) == [LATE] + 4 * ["answered"]


@both
def test_an_address_of_a_name_that_hangs_is_left_too(server: Any, asynchronous: bool, monkeypatch: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        ports = [hanging.getsockname()[1], int(server.grpc.rpartition(":")[2])]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        of_calls = outcomes("dns:///replicas.test:8500", asynchronous=asynchronous)
    assert sorted(of_calls) == [LATE] + 4 * ["answered"]


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
@both
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


def test_a_server_that_never_falls_silent_is_not_heard_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Chatting(socket.socket):
        """From which something can always be read: replies to a PING that nobody sent."""

        def recv(self, *_: Any) -> bytes:
            assert time.monotonic() < patience
            return bytes.fromhex("000008060100000000") + bytes(8)

    monkeypatch.setattr(threads, "new_socket", lambda address: Chatting(address[0], socket.SOCK_STREAM))
    patience = time.monotonic() + 20
    with silent_listener() as address:
        (error,) = ask(address, asynchronous=False, timeout=0.2)
    assert isinstance(error, DeadlineExceeded)


@contextmanager
def silent_listener() -> Iterator[str]:
    """The address of a server that accepts connections and says nothing, whatever is said to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@both
@pytest.mark.parametrize("listener", [full_listener, silent_listener])
@pytest.mark.parametrize(("scheme", "secure"), [("grpc", "grpcs"), ("http", "https")])
def test_a_target_that_cannot_be_connected_to_leaves_time_for_another(
    peer: Callable[..., Peer], asynchronous: bool, listener: Any, scheme: str, secure: str
) -> None:
    over_grpc = peer(answers).target
    with listening(answers_in_json) as over_rest, listener() as silent:
        other = over_grpc if scheme == "grpc" else over_rest
        targets = f"{scheme if listener is full_listener else secure}://{silent},{scheme}://{other}"
        assert ask(targets, 2, asynchronous=asynchronous, timeout=2) == [AVAILABLE] * 2


@both
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_an_address_that_cannot_be_connected_to_leaves_time_for_another(
    peer: Callable[..., Peer], asynchronous: bool, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    over_grpc = peer(answers).target
    with listening(answers_in_json) as over_rest, full_listener() as silent:
        ports = [int(each.rpartition(":")[2]) for each in (silent, over_grpc if scheme == "grpc" else over_rest)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert ask(f"{scheme}://replicas.test:1", asynchronous=asynchronous, timeout=2) == [AVAILABLE]


@pytest.fixture
def hanging_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Names whose look-up hangs for the test's time; what is put there does."""
    look_up, names, over = socket.getaddrinfo, set[str](), threading.Event()

    def getaddrinfo(host: str, port: int, *args: Any, **options: Any) -> Any:
        if host in names:
            over.wait(30)
        return look_up("127.0.0.1", port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield names
    assert not over.is_set()
    over.set()
    for thread in threading.enumerate():
        if thread.name == "glyph":
            thread.join()


@both
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_look_up_that_hangs_ends_at_the_deadline(hanging_names: set[str], asynchronous: bool, scheme: str) -> None:
    hanging_names.add("slow.test")
    start = time.monotonic()
    (error,) = ask(f"{scheme}://slow.test:1", asynchronous=asynchronous, timeout=0.5)
    assert time.monotonic() - start < 10
    assert isinstance(error, DeadlineExceeded)
    assert "in time" in error.server_message


@both
def test_a_look_up_that_hangs_leaves_time_for_another_target(
    hanging_names: set[str], peer: Callable[..., Peer], asynchronous: bool
) -> None:
    hanging_names.add("slow.test")
    targets = f"slow.test:1,{peer(answers).target}"
    assert ask(targets, asynchronous=asynchronous, timeout=2) == [AVAILABLE]


@both
def test_while_a_look_up_hangs_what_was_found_before_counts(
    hanging_names: set[str], peer: Callable[..., Peer], asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers_and_hangs(conversation: Any) -> None:
        hanging_names.add("slow.test")
        answers(conversation)

    monkeypatch.setattr(pools, "_LOOKUP_SECONDS", 0.0)
    port = peer(answers_and_hangs).target.rpartition(":")[2]
    assert ask(f"dns:///slow.test:{port}", 2, asynchronous=asynchronous, timeout=2) == [AVAILABLE] * 2
