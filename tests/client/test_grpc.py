"""Calls over gRPC: what they say, what comes of them, and the connections that they take."""

from __future__ import annotations

import asyncio
import gzip
import signal
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from glyph_client import (
    AccessDenied,
    AsyncClient,
    CallError,
    Client,
    DeadlineExceeded,
    Overloaded,
    Retry,
    ServerFault,
    Unavailable,
    Unsupported,
)
from glyph_client._transports import tasks, threads
from h2.errors import ErrorCodes

from tests.client.peers import HEADERS, OK, Asked, Conversation, Peer, answers, ask, framed, full_listener
from tests.client.stand_ins import AVAILABLE, STATUS

both = pytest.mark.parametrize("asynchronous", [False, True])
Peers = Callable[..., Peer]


@both
def test_a_call_says_what_the_protocol_asks_for(peer: Peers, asynchronous: bool) -> None:
    seen: list[Asked] = []

    def script(conversation: Conversation) -> None:
        seen.append(conversation.request())
        conversation.answer(seen[0], framed(STATUS))

    server = peer(script)
    ask(server.target, asynchronous=asynchronous, timeout=5, headers={"X-Long": "l" * 40_000})
    headers = seen[0].headers
    assert headers[":method"] == "POST"
    assert headers[":scheme"] == "http"
    assert headers[":path"] == "/tensorflow.serving.ModelService/GetModelStatus"
    assert headers[":authority"] == server.target
    assert headers["te"] == "trailers"
    assert headers["content-type"] == "application/grpc"
    assert headers["user-agent"].startswith("glyph-client")
    assert headers["x-long"] == "l" * 40_000
    assert 3_000 < int(headers["grpc-timeout"].removesuffix("m")) <= 5_000
    assert seen[0].body[0] == 0
    assert len(seen[0].body) == 5 + int.from_bytes(seen[0].body[1:5], "big")


@both
@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_what_is_compressed_is_read(peer: Peers, asynchronous: bool, compress: Callable[[bytes], bytes]) -> None:
    seen: list[Asked] = []

    def script(conversation: Conversation) -> None:
        seen.append(conversation.request())
        conversation.answer(seen[0], framed(compress(STATUS), compressed=True))

    assert ask(peer(script).target, asynchronous=asynchronous, compression=True) == [AVAILABLE]
    assert seen[0].headers["grpc-encoding"] == "gzip"
    assert seen[0].body[0] == 1
    assert b"digits" in gzip.decompress(seen[0].body[5:])


@both
@pytest.mark.parametrize(
    ("code", "kind", "status"),
    [
        (ErrorCodes.REFUSED_STREAM, Unavailable, "UNAVAILABLE"),
        (ErrorCodes.CANCEL, ServerFault, "CANCELLED"),
        (ErrorCodes.ENHANCE_YOUR_CALM, Overloaded, "RESOURCE_EXHAUSTED"),
        (ErrorCodes.INADEQUATE_SECURITY, AccessDenied, "PERMISSION_DENIED"),
        (ErrorCodes.NO_ERROR, Unavailable, "UNAVAILABLE"),
        (ErrorCodes.INTERNAL_ERROR, Unavailable, "UNAVAILABLE"),
        (ErrorCodes.PROTOCOL_ERROR, ServerFault, "INTERNAL"),
    ],
)
def test_a_call_that_the_server_resets_has_the_codes_meaning(
    peer: Peers, asynchronous: bool, code: ErrorCodes, kind: type[CallError], status: str
) -> None:
    def script(conversation: Conversation) -> None:
        conversation.h2.reset_stream(conversation.request().stream, code)
        conversation.flush()
        while conversation.receive():
            pass

    (error,) = ask(peer(script).target, asynchronous=asynchronous)
    assert type(error) is kind
    assert error.code == status
    assert "the stream" in error.server_message


@both
@pytest.mark.parametrize("passed_on", [b"", framed(STATUS)], ids=["headers", "message"])
def test_a_call_whose_answer_a_proxy_cannot_end_is_sent_again(
    peer: Peers, asynchronous: bool, passed_on: bytes
) -> None:
    """What Caddy and Envoy do when a server dies between the beginning of its answer and the end."""

    def script(conversation: Conversation) -> None:
        asked = conversation.request()
        if len(server.conversations) > 1:
            conversation.answer(asked, framed(STATUS))
            return
        conversation.h2.send_headers(asked.stream, HEADERS)
        conversation.h2.send_data(asked.stream, passed_on)
        conversation.h2.reset_stream(asked.stream, ErrorCodes.INTERNAL_ERROR)
        conversation.flush()
        while conversation.receive():
            pass

    server = peer(script)
    assert ask(server.target, asynchronous=asynchronous, retry=Retry(2, initial=0.001)) == [AVAILABLE]
    assert len(server.conversations) == 2


@both
@pytest.mark.parametrize(
    ("headers", "body", "trailers", "kind", "message"),
    [
        (((":status", "503"),), b"busy\n", (), Unavailable, "UNAVAILABLE: no gRPC, but HTTP status 503 busy"),
        (((":status", "401"),), b"", (), AccessDenied, "UNAUTHENTICATED: no gRPC, but HTTP status 401"),
        (((":status", "404"),), b"", (), Unsupported, "UNIMPLEMENTED: no gRPC, but HTTP status 404"),
        (HEADERS, framed(STATUS), (), ServerFault, "UNKNOWN: no gRPC, but HTTP status 200"),
        (HEADERS, b"", (("grpc-status", "13"),), ServerFault, "INTERNAL: no details"),
        (HEADERS, b"", (("grpc-status", "99"), ("grpc-message", "a%C3%A9%")), ServerFault, "UNKNOWN: aé%"),
        (HEADERS, b"", (("grpc-status", "one"),), ServerFault, "UNKNOWN: no details"),
        (HEADERS, b"", (("grpc-status", "9" * 5_000),), ServerFault, "UNKNOWN: no details"),
        (HEADERS, b"", OK, ServerFault, "INTERNAL: not one whole message in the 0 bytes of the answer"),
        (HEADERS, framed(STATUS)[:-1], OK, ServerFault, "INTERNAL: not one whole message"),
        (HEADERS, 2 * framed(STATUS), OK, ServerFault, "INTERNAL: not one whole message"),
        (
            (*HEADERS, ("grpc-encoding", "br")),
            framed(b"odd", compressed=True),
            OK,
            ServerFault,
            "INTERNAL: an answer compressed with br cannot be read",
        ),
    ],
)
def test_an_answer_that_is_none_is_said_to_be(
    peer: Peers, asynchronous: bool, headers: Any, body: bytes, trailers: Any, kind: type[CallError], message: str
) -> None:
    def script(conversation: Conversation) -> None:
        conversation.answer(conversation.request(), body, headers=headers, trailers=trailers)

    (error,) = ask(peer(script).target, asynchronous=asynchronous)
    assert type(error) is kind
    assert message in str(error)


@both
def test_closing_ends_the_call_under_way(peer: Peers, asynchronous: bool) -> None:
    arrived = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        arrived.set()
        while conversation.receive():
            pass

    server = peer(script)
    outcome: list[Any] = []

    async def ask_and_close() -> Any:
        client = AsyncClient(server.target, timeout=60)
        asking = asyncio.create_task(client.status())
        await asyncio.to_thread(arrived.wait, 60)
        await client.close()
        return (await asyncio.gather(asking, return_exceptions=True))[0]

    if asynchronous:
        outcome.append(asyncio.run(ask_and_close()))
    else:
        client = Client(server.target, timeout=60)

        def status() -> None:
            try:
                client.status()
            except CallError as error:
                outcome.append(error)

        thread = threading.Thread(target=status)
        thread.start()
        assert arrived.wait(60)
        client.close()
        thread.join()
    assert "CANCELLED: the client was closed" in str(outcome[0])


def test_an_answer_counts_though_the_server_hears_no_more(peer: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closing(socket.socket):
        """Sends the request alone, as when the server closes the connection once it has answered."""

        asked = False

        def send(self, *arguments: Any) -> int:
            if self.asked:
                raise BrokenPipeError
            self.asked = True
            return super().send(*arguments)

    def script(conversation: Conversation) -> None:
        asked = conversation.request()
        conversation.h2.ping(b"12345678")
        conversation.answer(asked, framed(STATUS))

    monkeypatch.setattr(threads, "new_socket", lambda address: Closing(address[0], socket.SOCK_STREAM))
    server = peer(script)
    assert ask(server.target, 2, asynchronous=False) == [AVAILABLE] * 2
    assert len(server.conversations) == 2


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_call_and_the_next_one_is_answered(peer: Peers) -> None:
    caller = threading.get_ident()

    def script(conversation: Conversation) -> None:
        if len(server.conversations) == 1:
            conversation.request()
            signal.pthread_kill(caller, signal.SIGINT)
            while conversation.receive():
                pass
        answers(conversation)

    server = peer(script)
    with Client(server.target, timeout=60) as client:
        with pytest.raises(KeyboardInterrupt):
            client.status()
        assert client.status() == AVAILABLE
    assert len(server.conversations) == 2


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_many_predictions_at_once(peer: Peers) -> None:
    caller, ended = threading.get_ident(), threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        signal.pthread_kill(caller, signal.SIGINT)
        while conversation.receive():
            pass
        ended.set()

    with Client(peer(script).target, retry=Retry(1)) as client:
        outcomes = client.predict_many([np.eye(40)])
        with pytest.raises(KeyboardInterrupt):
            next(outcomes)
        assert not ended.is_set()


@both
def test_silence_is_not_waited_for_and_its_connection_not_used_again(peer: Peers, asynchronous: bool) -> None:
    def script(conversation: Conversation) -> None:
        if len(server.conversations) == 1:
            while conversation.receive():  # Until the client hangs up.
                pass
        answers(conversation)

    server = peer(script)
    silent, answered = ask(server.target, 2, asynchronous=asynchronous, timeout=0.5)
    assert isinstance(silent, DeadlineExceeded)
    assert answered == AVAILABLE
    assert len(server.conversations) == 2


@both
def test_an_address_from_which_nothing_comes_leaves_time_for_another(
    peer: Peers, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "CONNECT_SECONDS", 0.2)
    server = peer(answers)
    with full_listener() as silent:
        assert ask(f"{silent},{server.target}", 2, asynchronous=asynchronous) == [AVAILABLE] * 2
        (alone,) = ask(silent, asynchronous=asynchronous)
        assert isinstance(alone, Unavailable)
        assert "no connection within 0.2 s" in alone.server_message
        (late,) = ask(silent, asynchronous=asynchronous, timeout=0.1)
        assert isinstance(late, DeadlineExceeded)


@both
@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "a" * 64])
def test_a_name_that_nobody_knows_is_unavailable(host: str, asynchronous: bool) -> None:
    (error,) = ask(f"{host}:8500", asynchronous=asynchronous)
    assert isinstance(error, Unavailable)
    assert "the name cannot be looked up" in error.server_message


def test_a_process_that_is_forked_opens_its_own_connections(peer: Peers) -> None:
    code = """
import os, sys
from glyph_client import Client
with Client(sys.argv[1], timeout=60) as client:
    client.status()
    child = os.fork()
    client.status()
    if child == 0:
        sys.exit()
    _, status = os.waitpid(child, 0)
    client.status()
    sys.exit(os.waitstatus_to_exitcode(status))
"""
    server = peer(answers)
    subprocess.run([sys.executable, "-c", code, server.target], check=True)
    assert len(server.conversations) == 2


def test_a_forked_process_that_closes_the_client_leaves_its_parents_calls_alone(peer: Peers) -> None:
    code = """
import os, sys, threading
from glyph_client import Client, Retry
client, outcome = Client(sys.argv[1], timeout=60, retry=Retry(1)), []
thread = threading.Thread(target=lambda: outcome.append(client.status()))
thread.start()
sys.stdin.readline()
if os.fork() == 0:
    client.close()
    os._exit(0)
os.wait()
print("closed", flush=True)
thread.join()
sys.exit(not outcome)
"""
    arrived, closed = threading.Event(), threading.Event()

    def script(conversation: Conversation) -> None:
        asked = conversation.request()
        arrived.set()
        closed.wait(20)
        conversation.answer(asked, framed(STATUS))

    command = [sys.executable, "-c", code, peer(script).target]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert arrived.wait(20)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "closed\n"
        closed.set()
        assert process.wait(20) == 0


def test_a_silent_peer_is_asked_whether_it_lives() -> None:
    with threads.new_socket((socket.AF_INET, None)) as new:
        assert new.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert new.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert new.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


def test_more_tasks_than_connections_wait(peer: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_MOST_CONNECTIONS", 5)
    server = peer(answers)

    async def ask_all() -> Any:
        async with AsyncClient(server.target, timeout=60) as client:
            return await asyncio.gather(*(client.status() for _ in range(50)))

    assert asyncio.run(ask_all()) == [AVAILABLE] * 50
    assert len(server.conversations) == 5


@both
def test_retry_after_counts_of_an_answer_that_is_no_grpc_too(peer: Peers, asynchronous: bool) -> None:
    def script(conversation: Conversation) -> None:
        conversation.answer(
            conversation.request(), b"", headers=((":status", "503"), ("retry-after", "30")), trailers=()
        )

    server = peer(script)
    (error,) = ask(server.target, asynchronous=asynchronous, timeout=5, retry=Retry(5, initial=0.001))
    assert isinstance(error, Unavailable)
    assert error.retry_after == 30
    assert len(server.conversations) == 1
