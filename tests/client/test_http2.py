"""gRPC over HTTP/2, against a server that accepts nothing that the protocol forbids."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from glyph_client import (
    AsyncClient,
    Client,
    Overloaded,
    Unavailable,
)
from glyph_client._transports import http2
from glyph_client._transports.exchange import Broken, Refused, Reset
from h2.errors import ErrorCodes
from h2.events import PingAckReceived, RequestReceived
from h2.settings import SettingCodes
from hpack import Encoder
from hyperframe.frame import ContinuationFrame, DataFrame, GoAwayFrame, HeadersFrame, WindowUpdateFrame
from hypothesis import given
from hypothesis import strategies as st

from tests.client.peers import HEADERS, OK, Asked, Conversation, Peer, answers, ask, framed
from tests.client.stand_ins import AVAILABLE, FAST, STATUS

both = pytest.mark.parametrize("asynchronous", [False, True])
Peers = Callable[..., Peer]


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
def test_a_request_that_is_refused_before_it_was_heard_to_the_end(peer: Peers, asynchronous: bool) -> None:
    def script(conversation: Conversation) -> None:
        conversation.wait_for(RequestReceived)
        trailers = (*HEADERS, ("grpc-status", "8"), ("grpc-message", "too%20large"))
        conversation.h2.send_headers(1, trailers, end_stream=True)
        conversation.h2.reset_stream(1, ErrorCodes.NO_ERROR)
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
    with pytest.raises(Broken):
        steps.send(b"")


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
    steps = connection.exchange(http2.encode_headers({":method": "POST"}), bytes(40_000))
    next(steps)
    stream = b"".join(said)
    with suppress(Broken, Refused, Reset, StopIteration):
        for start in range(0, len(stream), size):
            steps.send(stream[start : start + size])
        steps.close()
        connection.idle(stream)
