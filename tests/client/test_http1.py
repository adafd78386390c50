"""REST over HTTP/1.1: what is asked, what may be answered, and how the connection goes on."""

from __future__ import annotations

import base64
import gzip
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from glyph_client import Client, Retry, ServerFault, Unavailable

from tests.client.peers import ask, listening
from tests.client.stand_ins import AVAILABLE, REST_STATUS

both = pytest.mark.parametrize("asynchronous", [False, True])
LENGTH = b"Content-Length: %d\r\n\r\n" % len(REST_STATUS)
OK = b"HTTP/1.1 200 OK\r\n"


class Answering:
    """A script: one answer for each request, and then the connection's end; remembers what came, by connection."""

    def __init__(self, *answers: bytes) -> None:
        self.asked: list[list[bytes]] = []
        self._answers = answers

    def __call__(self, connection: socket.socket) -> None:
        came: list[bytes] = []
        self.asked.append(came)
        for answer in self._answers:
            came.append(connection.recv(65_536))
            if came[-1]:
                connection.sendall(answer)


@both
def test_a_request_says_what_the_protocol_asks_for(asynchronous: bool) -> None:
    script = Answering(OK + LENGTH + REST_STATUS)
    with listening(script) as address:
        headers = {"X-Team": "a", "User-Agent": "mine"}
        target = f"http://me:s%40cret@{address}/behind/a wall/"
        assert ask(target, asynchronous=asynchronous, headers=headers) == [AVAILABLE]
    head, *lines = script.asked[0][0].decode().split("\r\n")
    assert head == "GET /behind/a%20wall/v1/models/digits HTTP/1.1"
    assert dict(line.split(": ") for line in lines if line) == {
        "host": address,
        "user-agent": "mine",
        "accept-encoding": "gzip",
        "authorization": f"Basic {base64.b64encode(b'me:s@cret').decode()}",
        "x-team": "a",
    }


@pytest.mark.parametrize(
    ("target", "port"), [("http://a.test", 80), ("https://a.test", 443), ("http://a.test:8501", 8501)]
)
def test_the_port_is_the_protocols_where_none_is_given(target: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    def getaddrinfo(*wanted: Any, **_: Any) -> Any:
        found.append(wanted)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert isinstance(ask(target, asynchronous=False)[0], Unavailable)
    assert found == [("a.test", port)]


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(REST_STATUS), REST_STATUS)


@both
@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        (OK + LENGTH + REST_STATUS, 1),
        (OK + CHUNKED, 1),
        (b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" + OK + LENGTH + REST_STATUS, 1),
        (OK + b"Connection: close\r\n" + LENGTH + REST_STATUS, 2),
        (OK + LENGTH + REST_STATUS + b"and more", 2),
        (b"HTTP/1.0 200 OK\r\n" + LENGTH + REST_STATUS, 2),
    ],
    ids=["length", "chunked", "hints", "close", "more", "1.0"],
)
def test_a_connection_goes_on_where_the_answer_lets_it(asynchronous: bool, answer: bytes, connections: int) -> None:
    script = Answering(answer, answer)
    with listening(script) as address:
        assert ask(f"http://{address}", 2, asynchronous=asynchronous) == [AVAILABLE] * 2
    assert len(script.asked) == connections


@both
def test_an_answer_may_end_with_its_connection(asynchronous: bool) -> None:
    with listening(Answering(OK + b"\r\n" + REST_STATUS)) as address:
        assert ask(f"http://{address}", 2, asynchronous=asynchronous) == [AVAILABLE] * 2


@both
@pytest.mark.parametrize(
    ("encoding", "compress"),
    [(b"gzip", gzip.compress), (b"GZIP", gzip.compress), (b"deflate", zlib.compress), (b"identity", bytes)],
)
def test_what_is_compressed_is_read(asynchronous: bool, encoding: bytes, compress: Any) -> None:
    body = compress(REST_STATUS)
    answer = OK + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (encoding, len(body)) + body
    with listening(Answering(answer)) as address:
        assert ask(f"http://{address}", asynchronous=asynchronous) == [AVAILABLE]


@both
@pytest.mark.parametrize("body", [b"", b"busy", gzip.compress(b"busy")[:-1]], ids=["none", "plain", "cut"])
def test_an_error_counts_whatever_became_of_its_body(asynchronous: bool, body: bytes) -> None:
    answer = b"HTTP/1.1 503 No\r\nContent-Encoding: gzip\r\nRetry-After: 2\r\nContent-Length: %d\r\n\r\n" % len(body)
    with listening(Answering(answer + body)) as address:
        (error,) = ask(f"http://{address}", asynchronous=asynchronous)
    assert type(error) is Unavailable
    assert (error.server_message, error.retry_after) == ("HTTP status 503", 2.0)


@both
@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (b"", Unavailable, "the server closed the connection"),
        (OK[:9], Unavailable, "the server closed the connection"),
        (b"\0\0\x06\x04\0\0\0\0\0", Unavailable, "the answer is no HTTP/1.1, or not a whole one"),
        (OK + LENGTH + REST_STATUS[:9], Unavailable, "the answer is no HTTP/1.1, or not a whole one"),
        (OK + b"X: " + b"x" * 300_000, Unavailable, "the answer is no HTTP/1.1, or not a whole one"),
        (
            OK + b"Content-Encoding: gzip\r\n" + LENGTH + REST_STATUS,
            ServerFault,
            "an answer compressed with gzip cannot be read",
        ),
        (
            OK + b"Content-Length: 4\r\n\r\n\x1f\x8b\0\0",
            ServerFault,
            "the server's answer is not understood: UnicodeDecodeError: 'utf-8' codec can't decode byte 0x8b",
        ),
        (
            b"HTTP/1.1 308 Moved\r\nLocation: https://a.test/\r\nContent-Length: 0\r\n\r\n",
            ServerFault,
            "HTTP status 308 to https://a.test/",
        ),
    ],
)
def test_an_answer_that_is_none_is_said_to_be(asynchronous: bool, answer: bytes, kind: Any, message: str) -> None:
    with listening(Answering(answer)) as address:
        (error,) = ask(f"http://{address}", asynchronous=asynchronous)
    assert type(error) is kind
    assert message in error.server_message


def test_calls_at_once_have_a_connection_each() -> None:
    together = threading.Barrier(120)

    def script(connection: socket.socket) -> None:
        connection.recv(65_536)
        together.wait(60)
        connection.sendall(OK + LENGTH + REST_STATUS)

    with (
        listening(script) as address,
        Client(f"http://{address}", timeout=60, retry=Retry(1)) as client,
        ThreadPoolExecutor(together.parties) as pool,
    ):
        asking = [pool.submit(client.status) for _ in range(together.parties)]
        assert [each.result() for each in asking] == [AVAILABLE] * together.parties


@both
def test_proxies_of_the_environment_are_not_asked(asynchronous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:1")
    with listening(Answering(OK + LENGTH + REST_STATUS)) as address:
        assert ask(f"http://{address}", asynchronous=asynchronous) == [AVAILABLE]
