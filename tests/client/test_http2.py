"""gRPC over HTTP/2, against a server that accepts nothing that the protocol forbids."""

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
from contextlib import suppress
from typing import Any

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
from glyph_client._transports import grpc as threaded
from glyph_client._transports import grpc_async, http2
from h2.errors import ErrorCodes
from h2.events import PingAckReceived, RequestReceived
from h2.settings import SettingCodes
from hpack import Encoder
from hyperframe.frame import ContinuationFrame, DataFrame, GoAwayFrame, HeadersFrame, WindowUpdateFrame
from hypothesis import given
from hypothesis import strategies as st

from tests.client.peers import HEADERS, OK, Asked, Conversation, Peer, framed
from tests.client.stand_ins import AVAILABLE, FAST, STATUS

both = pytest.mark.parametrize("asynchronous", [False, True])
Peers = Callable[..., Peer]


def ask(target: str, times: int = 1, *, asynchronous: bool, **options: Any) -> list[Any]:
    """What came of so many calls with one client: the model's versions, or the error."""
    options = {"retry": Retry(1), "timeout": 60, **options}

    async def ask_all() -> list[Any]:
        async with AsyncClient(target, **options) as client:
            return [(await asyncio.gather(client.status(), return_exceptions=True))[0] for _ in range(times)]

    if asynchronous:
        return asyncio.run(ask_all())
    outcomes: list[Any] = []
    with Client(target, **options) as client:
        for _ in range(times):
            try:
                outcomes.append(client.status())
            except CallError as error:
                outcomes.append(error)
    return outcomes


def answers(conversation: Conversation) -> None:
    """A script: answers everything."""
    while True:
        conversation.answer(conversation.request(), framed(STATUS))


@both
def test_calls_in_turn_share_a_connection(peer: Peers, asynchronous: bool) -> None:
    server = peer(answers)
    assert ask(server.target, 3, asynchronous=asynchronous) == [AVAILABLE] * 3
    assert len(server.conversations) == 1


@both
def test_calls_at_once_have_a_connection_each(peer: Peers, asynchronous: bool) -> None:
    together = threading.Barrier(8)

    def script(conversation: Conversation) -> None:
        asked = conversation.request()
        together.wait(60)
        conversation.answer(asked, framed(STATUS))
        answers(conversation)

    server = peer(script)
    if asynchronous:

        async def ask_all() -> Any:
            async with AsyncClient(server.target, timeout=60) as client:
                return await asyncio.gather(*(client.status() for _ in range(8)))

        assert asyncio.run(ask_all()) == [AVAILABLE] * 8
    else:
        with Client(server.target, timeout=60) as client:
            threads = [threading.Thread(target=client.status) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert client.status() == AVAILABLE
    assert len(server.conversations) == 8


def test_more_tasks_than_connections_wait(peer: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_async, "_MOST_CONNECTIONS", 5)
    server = peer(answers)

    async def ask_all() -> Any:
        async with AsyncClient(server.target, timeout=60) as client:
            return await asyncio.gather(*(client.status() for _ in range(50)))

    assert asyncio.run(ask_all()) == [AVAILABLE] * 50
    assert len(server.conversations) == 5


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
def test_a_request_larger_than_the_servers_windows_arrives_piece_by_piece(peer: Peers, asynchronous: bool) -> None:
    seen: list[Asked] = []

    def script(conversation: Conversation) -> None:
        while True:
            seen.append(conversation.request())
            conversation.answer(seen[-1], framed(STATUS))

    server = peer(script, {SettingCodes.INITIAL_WINDOW_SIZE: 1_000, SettingCodes.MAX_FRAME_SIZE: 20_000})
    name = "m" * 300_000

    async def ask_both() -> None:
        async with AsyncClient(server.target, timeout=60) as client:
            await client.status()
            await client.status(name)

    if asynchronous:
        asyncio.run(ask_both())
    else:
        with Client(server.target, timeout=60) as client:
            client.status()
            client.status(name)
    assert name.encode() in seen[1].body


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
def test_frames_may_be_padded_prioritised_and_continued(peer: Peers, asynchronous: bool) -> None:
    def script(conversation: Conversation) -> None:
        asked = conversation.request()
        encoder = Encoder()
        encoder.header_table_size = 0
        block = encoder.encode([(":status", "103")])
        early = HeadersFrame(asked.stream, block, flags=["END_HEADERS"])
        block = encoder.encode([*HEADERS, ("x-long", "x" * 100)])
        first = HeadersFrame(asked.stream, block[:10], flags=["PADDED", "PRIORITY"], pad_length=7, depends_on=0)
        rest = ContinuationFrame(asked.stream, block[10:], flags=["END_HEADERS"])
        data = DataFrame(asked.stream, framed(STATUS), flags=["PADDED"], pad_length=20)
        last = HeadersFrame(asked.stream, encoder.encode(OK), flags=["END_HEADERS", "END_STREAM"])
        frames = b"".join(frame.serialize() for frame in (early, first, rest, data, last))
        for byte in frames[:-1]:
            conversation.socket.sendall(bytes([byte]))
        conversation.socket.sendall(frames[-1:])

    assert ask(peer(script).target, asynchronous=asynchronous) == [AVAILABLE]


@both
def test_pings_are_answered_whenever_they_come(peer: Peers, asynchronous: bool) -> None:
    sent = threading.Event()

    def ping(conversation: Conversation, data: bytes) -> None:
        conversation.h2.ping(data)
        conversation.flush()

    def script(conversation: Conversation) -> None:
        asked = conversation.request()
        ping(conversation, b"during  ")
        conversation.wait_for(PingAckReceived)
        conversation.h2.ping(b"with it ")
        conversation.answer(asked, framed(STATUS))
        conversation.wait_for(PingAckReceived)
        ping(conversation, b"between ")
        if asynchronous:  # It answers at once, and the other one with the next call.
            conversation.wait_for(PingAckReceived)
        sent.set()
        conversation.answer(conversation.request(), framed(STATUS))

    server = peer(script)

    async def ask_twice() -> None:
        async with AsyncClient(server.target, timeout=60) as client:
            await client.status()
            await asyncio.to_thread(sent.wait, 60)
            assert await client.status() == AVAILABLE

    if asynchronous:
        asyncio.run(ask_twice())
    else:
        with Client(server.target, timeout=60) as client:
            client.status()
            assert sent.wait(60)
            assert client.status() == AVAILABLE
    (conversation,) = server.conversations
    assert sum(isinstance(event, PingAckReceived) for event in conversation.events) == 3


@both
def test_a_server_that_goes_away_is_left_without_a_failed_call(peer: Peers, asynchronous: bool) -> None:
    def script(conversation: Conversation) -> None:
        conversation.answer(conversation.request(), framed(STATUS))
        if len(server.conversations) == 1:  # It says so between two calls.
            conversation.socket.sendall(GoAwayFrame(0, last_stream_id=1).serialize())
        elif len(server.conversations) == 2:  # It has not looked at the second call.
            asked = conversation.request()
            conversation.socket.sendall(GoAwayFrame(0, last_stream_id=asked.stream - 2).serialize())
        elif len(server.conversations) == 3:  # It refuses the second call.
            conversation.h2.reset_stream(conversation.request().stream, ErrorCodes.REFUSED_STREAM)
            conversation.flush()
        else:
            answers(conversation)
        while conversation.receive():
            pass

    server = peer(script)
    assert ask(server.target, 6, asynchronous=asynchronous) == [AVAILABLE] * 6
    assert len(server.conversations) == 4


@both
def test_a_server_that_hung_up_between_calls_is_connected_to_again(peer: Peers, asynchronous: bool) -> None:
    server = peer(lambda conversation: conversation.answer(conversation.request(), framed(STATUS)))
    # Whether that is seen before the next call or after is of no account.
    assert ask(server.target, 3, asynchronous=asynchronous, retry=FAST) == [AVAILABLE] * 3


@both
def test_a_call_that_was_accepted_is_answered_by_a_server_that_goes_away(peer: Peers, asynchronous: bool) -> None:
    def script(conversation: Conversation) -> None:
        asked = conversation.request()
        conversation.socket.sendall(GoAwayFrame(0, last_stream_id=asked.stream).serialize())
        conversation.answer(asked, framed(STATUS))
        while conversation.receive():
            pass

    server = peer(script)
    assert ask(server.target, 2, asynchronous=asynchronous) == [AVAILABLE] * 2
    assert len(server.conversations) == 2


@both
@pytest.mark.parametrize(
    ("code", "kind", "status"),
    [
        (ErrorCodes.REFUSED_STREAM, Unavailable, "UNAVAILABLE"),
        (ErrorCodes.CANCEL, ServerFault, "CANCELLED"),
        (ErrorCodes.ENHANCE_YOUR_CALM, Overloaded, "RESOURCE_EXHAUSTED"),
        (ErrorCodes.INADEQUATE_SECURITY, AccessDenied, "PERMISSION_DENIED"),
        (ErrorCodes.INTERNAL_ERROR, ServerFault, "INTERNAL"),
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
def test_a_request_that_is_refused_before_it_was_heard_to_the_end(peer: Peers, asynchronous: bool) -> None:
    def script(conversation: Conversation) -> None:
        conversation.wait_for(RequestReceived)
        trailers = (*HEADERS, ("grpc-status", "8"), ("grpc-message", "too%20large"))
        conversation.h2.send_headers(1, trailers, end_stream=True)
        conversation.flush()
        while conversation.receive():
            pass

    server = peer(script)
    outcomes = ask(server.target, 2, asynchronous=asynchronous, model="m" * 100_000)
    assert [(type(each), each.server_message) for each in outcomes] == [(Overloaded, "too large")] * 2
    assert len(server.conversations) == 2


def test_a_window_is_that_of_its_own_stream() -> None:
    connection = http2.Connection()
    steps = connection.exchange(b"", bytes(100_000))
    sent = len(next(steps))
    assert steps.send(WindowUpdateFrame(3, window_increment=50_000).serialize()) == b""
    assert steps.send(WindowUpdateFrame(0, window_increment=50_000).serialize()) == b""
    rest = steps.send(WindowUpdateFrame(1, window_increment=50_000).serialize())
    assert 100_000 < sent + len(rest) < 100_500
    with pytest.raises(http2.Broken):
        steps.send(b"")


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
@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "this is no HTTP/2; it says b'HTTP/1.1 400 Bad Request"),
        (b"\0\0\5\4\0\0\0\0\0\0\0\0\0\0", "this is no HTTP/2; its settings are cut off"),
        (HeadersFrame(1, b"\xbf", flags=["END_HEADERS"]).serialize(), "the headers cannot be read"),
        (HeadersFrame(1, b"").serialize() + 17 * ContinuationFrame(1, bytes(16_000)).serialize(), "longer than 262144"),
        (b"\0\0\1\0\x08\0\0\0\1\1", "this is no HTTP/2; there is more padding than frame"),
        (b"", "the server closed the connection"),
    ],
)
def test_what_is_no_http2_is_said_to_be(asynchronous: bool, said: bytes, message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(said)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass

        thread = threading.Thread(target=run)
        thread.start()
        (error,) = ask(f"127.0.0.1:{listener.getsockname()[1]}", asynchronous=asynchronous)
        thread.join()
    assert isinstance(error, Unavailable)
    assert message in error.server_message


@both
def test_a_server_that_breaks_off_is_unavailable(asynchronous: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            connection.recv(1)  # What is unread makes the system reset the connection.
            connection.close()

        thread = threading.Thread(target=run)
        thread.start()
        (error,) = ask(f"127.0.0.1:{listener.getsockname()[1]}", asynchronous=asynchronous)
        thread.join()
    assert isinstance(error, Unavailable)
    assert "the connection failed: Connection reset by peer" in error.server_message


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
    for module in (threaded, grpc_async):
        monkeypatch.setattr(module, "CONNECT_SECONDS", 0.2)
    server = peer(answers)
    with full_listener() as silent:
        assert ask(f"{silent},{server.target}", 2, asynchronous=asynchronous) == [AVAILABLE] * 2
        (alone,) = ask(silent, asynchronous=asynchronous)
        assert isinstance(alone, Unavailable)
        assert "no connection within 0.2 s" in alone.server_message
        (late,) = ask(silent, asynchronous=asynchronous, timeout=0.1)
        assert isinstance(late, DeadlineExceeded)


class full_listener:  # noqa: N801 (used as a function)
    """The address of a server that takes no more connections, so that the system leaves further ones waiting."""

    def __enter__(self) -> str:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self._waiting = [socket.socket() for _ in range(4)]
        for each in self._waiting:
            each.setblocking(False)
            each.connect_ex(self._listener.getsockname())
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        for each in (*self._waiting, self._listener):
            each.close()


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


def test_a_silent_peer_is_asked_whether_it_lives() -> None:
    with threaded.new_socket((socket.AF_INET, None)) as new:
        assert new.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert new.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert new.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


def test_the_window_of_a_long_lived_connection_is_kept_open(peer: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "_ACCOUNT_AT", 1)
    windows: list[int] = []

    def script(conversation: Conversation) -> None:
        for _ in range(2):
            asked = conversation.request()
            windows.append(conversation.h2.outbound_flow_control_window)
            conversation.answer(asked, framed(STATUS))

    ask(peer(script).target, 2, asynchronous=False)
    assert windows == [2**31 - 1] * 2


FRAMES = st.builds(
    lambda kind, flags, stream, payload: (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    ),
    st.integers(0, 10),
    st.integers(0, 255),
    st.sampled_from([0, 1, 3]),
    st.binary(max_size=40),
)


@given(st.lists(FRAMES | st.binary(max_size=20), max_size=12), st.integers(1, 50))
def test_whatever_a_server_says_the_connection_goes_on_or_is_broken(said: list[bytes], size: int) -> None:
    connection = http2.Connection()
    steps = connection.exchange(http2.encode_headers([(":method", "POST")]), bytes(40_000))
    next(steps)
    stream = b"".join(said)
    with suppress(http2.Broken, http2.Refused, http2.Reset, StopIteration):
        for start in range(0, len(stream), size):
            steps.send(stream[start : start + size])
        steps.close()
        connection.idle(stream)
