"""Requests over gRPC and REST, against servers that share no code with the channels."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import gevent
import gevent.server
import pytest
from glyph_loadtest.channel import Channel, Reply, call
from glyph_loadtest.payload import AnswerError, answered_labels, open_channel, payloads
from glyph_loadtest.target import PayloadKind, Target, parse_address
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from tests.client.peers import OK, Conversation, Peer, framed
from tests.conftest import Certificates
from tests.loadtest.conftest import KnownServer, StartServer

PROTOCOLS = ["grpc", "rest"]
OpenChannel = Callable[[Target], Channel]
Listen = Callable[[Callable[[Conversation], object]], Peer]


@pytest.fixture
def open_to() -> Iterator[OpenChannel]:
    opened: list[Channel] = []

    def open_to(target: Target) -> Channel:
        opened.append(open_channel(target))
        return opened[-1]

    yield open_to
    for channel in opened:
        channel.close()


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Servers that a script makes; to be asked for before `open_to`, for they wait until the channels are closed."""
    peers: list[Peer] = []

    def listen(script: Callable[[Conversation], object]) -> Peer:
        peers.append(Peer(script, {}))
        return peers[-1]

    yield listen
    for peer in peers:
        gevent.get_hub().threadpool.apply(peer.close)  # gevent hangs up in its loop, which must go on


def _target(server: str, payload: PayloadKind = PayloadKind.UINT8, batch: int = 1, timeout: float = 10) -> Target:
    address, rest = parse_address(server)
    return Target(address, rest, payload=payload, batch=batch, timeout=timeout)


def _ask_all(channel: Channel, requests: list[bytes]) -> list[Reply]:
    greenlets = [gevent.spawn(call, channel, request) for request in requests]
    gevent.joinall(greenlets, raise_error=True)
    return [greenlet.value for greenlet in greenlets]


@pytest.mark.parametrize("batch", [1, 30])
@pytest.mark.parametrize("payload", PayloadKind)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_digits_are_recognised_in_every_form(
    plain_server: KnownServer, open_to: OpenChannel, protocol: str, payload: PayloadKind, batch: int
) -> None:
    target = _target(plain_server.target(protocol), payload, batch)
    asked = payloads(target)[:8]
    replies = _ask_all(open_to(target), [one.request for one in asked])
    for one, reply in zip(asked, replies, strict=True):
        assert reply.error is None
        assert answered_labels(target.rest, reply.body, batch) == list(one.labels)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_hundreds_of_requests_are_on_their_way_at_once(
    start_server: StartServer, open_to: OpenChannel, protocol: str
) -> None:
    target = _target(start_server("--gather", "320").target(protocol))
    replies = _ask_all(open_to(target), [payload.request for payload in payloads(target) * 5])
    assert [reply.error for reply in replies] == [None] * 320


@pytest.mark.parametrize(("protocol", "kind"), [("grpc", "RESOURCE_EXHAUSTED"), ("rest", "HTTP 429")])
def test_an_error_keeps_the_servers_status_and_words(
    start_server: StartServer, open_to: OpenChannel, protocol: str, kind: str
) -> None:
    target = _target(start_server("--error-every", "1").target(protocol))
    error = call(open_to(target), payloads(target)[0].request).error
    assert error is not None
    assert (error.kind, error.message) == (kind, "Server Threadpool Exhausted")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_answer_in_time_is_an_error_and_the_channel_lives_on(
    start_server: StartServer, open_to: OpenChannel, protocol: str
) -> None:
    target = _target(start_server("--delay", "3").target(protocol), timeout=0.2)
    channel = open_to(target)
    for _ in range(2):
        error = call(channel, payloads(target)[0].request).error
        assert error is not None
        assert error.kind == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_dies_ends_every_request(start_server: StartServer, open_to: OpenChannel, protocol: str) -> None:
    server = start_server("--delay", "5")
    target = _target(server.target(protocol))
    channel = open_to(target)
    greenlets = [gevent.spawn(call, channel, payloads(target)[0].request) for _ in range(8)]
    gevent.sleep(0.3)  # on their way
    server.process.kill()
    gevent.joinall(greenlets, timeout=4, raise_error=True)
    assert [greenlet.value.error.kind for greenlet in greenlets] == ["NO CONNECTION"] * 8


def test_a_server_that_goes_away_answers_what_it_took_and_is_asked_the_rest_anew(
    start_server: StartServer, open_to: OpenChannel
) -> None:
    target = _target(start_server("--streams", "4", "--leave-after", "5", "--delay", "0.3").grpc, timeout=5)
    channel = open_to(target)
    assert call(channel, payloads(target)[0].request).error is None  # the limit is known
    replies = _ask_all(channel, [payload.request for payload in payloads(target)[:24]])
    assert [reply.error for reply in replies] == [None] * 24


@pytest.mark.parametrize("killed", [False, True], ids=["that stays silent", "that dies"])
def test_a_server_that_goes_away_loses_no_request_unseen(
    start_server: StartServer, open_to: OpenChannel, killed: bool
) -> None:
    server = start_server("--leave-after", "8", "--delay", "30")
    target = _target(server.grpc, timeout=30 if killed else 2)
    channel = open_to(target)
    greenlets = [gevent.spawn(call, channel, payloads(target)[0].request) for _ in range(8)]
    gevent.joinall(greenlets, timeout=0.5)  # on their way, and it has said that it goes
    if killed:
        server.process.kill()
    gevent.joinall(greenlets, timeout=8)
    kind = "NO CONNECTION" if killed else "DEADLINE_EXCEEDED"
    assert [greenlet.value and greenlet.value.error.kind for greenlet in greenlets] == [kind] * 8


def test_what_a_server_refuses_unread_is_asked_again(listen: Listen, open_to: OpenChannel) -> None:
    def refuse_once(server: Conversation) -> None:
        server.h2.reset_stream(server.request().stream, ErrorCodes.REFUSED_STREAM)
        server.flush()
        server.answer(server.request(), framed(b"answer"))

    assert call(open_to(_target(listen(refuse_once).target)), b"request").body == b"answer"


def test_what_a_server_has_not_read_when_it_goes_away_is_asked_elsewhere(listen: Listen, open_to: OpenChannel) -> None:
    def answer_the_second(server: Conversation) -> None:
        asked = server.request()
        if len(peer.conversations) == 1:
            server.h2.close_connection(last_stream_id=0)
            server.flush()
        else:
            server.answer(asked, framed(b"answer"))

    peer = listen(answer_the_second)
    assert call(open_to(_target(peer.target)), b"request").body == b"answer"


def test_the_last_words_of_a_server_are_kept(listen: Listen, open_to: OpenChannel) -> None:
    def end(server: Conversation) -> None:
        server.request()
        server.h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings")
        server.flush()
        server.socket.shutdown(socket.SHUT_RDWR)

    error = call(open_to(_target(listen(end).target)), b"request").error
    assert error is not None
    assert error.message == "the server closed the connection (too_many_pings)"


def test_a_server_may_make_the_table_of_headers_smaller(listen: Listen, open_to: OpenChannel) -> None:
    def shrink(server: Conversation) -> None:
        server.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 0})
        server.flush()
        for _ in range(2):  # the second request comes after the client has acknowledged
            server.answer(server.request(), framed(b"answer"))

    channel = open_to(_target(listen(shrink).target))
    assert [call(channel, b"request").body for _ in range(2)] == [b"answer"] * 2


def test_a_header_in_another_encoding_is_as_good_as_any(listen: Listen, open_to: OpenChannel) -> None:
    def answer(server: Conversation) -> None:
        stream = server.request().stream
        server.h2.send_headers(stream, [(b":status", b"200"), (b"x-served-by", b"caf\xe9")])
        server.h2.send_data(stream, framed(b"answer"))
        server.h2.send_headers(stream, OK, end_stream=True)
        server.flush()

    assert call(open_to(_target(listen(answer).target)), b"request").body == b"answer"


def _web_server(*answers: bytes) -> gevent.server.StreamServer:
    """A server that gives these answers on each connection, one for each request, and hangs up."""

    def serve(sock: gevent.socket.socket, _: object) -> None:
        for answer in answers:
            if sock.recv(65_536):
                sock.sendall(answer)

    server = gevent.server.StreamServer(("127.0.0.1", 0), serve)
    server.start()
    return server


def _whole(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("second", "kind"),
    [(b"", None), (_whole(b"answer")[:10], "NO CONNECTION"), (_whole(b"answer")[:-1], "NO CONNECTION")],
    ids=["none", "a part of its head", "a part of its body"],
)
def test_only_a_request_of_whose_answer_nothing_came_is_asked_again(
    open_to: OpenChannel, second: bytes, kind: str | None
) -> None:
    server = _web_server(_whole(b"answer"), *([second] if second else []))
    channel = open_to(_target(f"http://127.0.0.1:{server.server_port}"))
    assert call(channel, b"request").error is None
    error = call(channel, b"request").error
    assert (error and error.kind) == kind
    server.stop()


@pytest.mark.parametrize(
    "said",
    [
        b'{"error": "lone \\ud800"}',
        b'{"error": "\\u001b[31mred\\nand so on"}',
        b'{"error": "%s"}' % (b"x" * 1_000_000),
        b"[" * 100_000,
    ],
    ids=["a lone surrogate", "control characters", "a megabyte", "deep JSON"],
)
def test_what_a_server_says_can_be_printed(open_to: OpenChannel, said: bytes) -> None:
    server = _web_server(_whole(said, "400 Bad Request"))
    error = call(open_to(_target(f"http://127.0.0.1:{server.server_port}")), b"request").error
    assert error is not None
    assert error.kind == "HTTP 400"
    assert error.message.isprintable()
    assert 0 < len(error.message) < 400
    server.stop()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_port_where_nobody_listens(open_to: OpenChannel, scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = _target(f"{scheme}://127.0.0.1:{unused.getsockname()[1]}")
        error = call(open_to(target), payloads(target)[0].request).error
    assert error is not None
    assert (error.kind, "refused" in error.message) == ("NO CONNECTION", True)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls_is_spoken_with_whom_the_certificates_trust(
    tls_server: KnownServer, certificates: Certificates, open_to: OpenChannel, protocol: str
) -> None:
    stranger = _target(tls_server.target(protocol))
    trusted = replace(stranger, address=replace(stranger.address, ca=str(certificates.authority)))
    assert call(open_to(trusted), payloads(trusted)[0].request).error is None
    error = call(open_to(stranger), payloads(stranger)[0].request).error
    assert error is not None
    assert (error.kind, "--ca" in error.message) == ("NO CONNECTION", True)


def test_certificates_to_trust_are_no_remedy_for_another_name(
    tls_server: KnownServer, certificates: Certificates, open_to: OpenChannel
) -> None:
    target = _target(tls_server.grpc.replace("127.0.0.1", "127.1"))  # the same address, by another name
    error = call(open_to(replace(target, address=replace(target.address, ca=str(certificates.authority)))), b"").error
    assert error is not None
    assert ("mismatch" in error.message, "--ca" in error.message) == (True, False)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_wrong_protocol_is_named(plain_server: KnownServer, open_to: OpenChannel, protocol: str) -> None:
    port = plain_server.target(protocol).rsplit(":")[-1]
    target = _target(f"{'grpc' if protocol == 'rest' else 'http'}://127.0.0.1:{port}", timeout=1)
    assert call(open_to(target), payloads(target)[0].request).error is not None


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize(
    "body", [b"", b"\xff\xff", b'{"predictions": []}', b'{"predictions": ["7", "7"]}', b"[" * 100_000]
)
def test_an_answer_without_the_labels_is_no_answer(rest: bool, body: bytes) -> None:
    with pytest.raises(AnswerError):
        answered_labels(rest, body, 1)


@pytest.mark.parametrize(
    "body",
    [
        b'{"predictions": [{"label": "7", "probabilities": [1, 0]}]}',
        b'{"predictions": [{"probabilities": [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]}]}',
        b'{"predictions": [[0.1, 0.1, 0, 0, 0, 0, 0, 0.8, 0, 0]]}',
        b'{"predictions": ["7"]}',
    ],
)
def test_a_label_or_else_the_best_score_is_the_answer(body: bytes) -> None:
    assert answered_labels(True, body, 1) == ["7"]
