"""What is too large, too slow or no request at all ends at the gateway, and nobody else is worse off."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from glyph_client import Client, Overloaded, Retry

from tests.stack.engine import SAMPLES, Gateway, inspect

LARGE = bytes(17_000_000)
SLOW = 20  # connections of each kind that never finish what they have begun
ENDED_WITHIN = 60.0  # seconds; the gateway's own limits are 5 for the headers and 20 for the body


def rest_of(connection: socket.socket) -> bytes:
    """What the gateway still sends before it closes the connection; the test fails if it does not close it."""
    connection.settimeout(ENDED_WITHIN)
    received = b""
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        while piece := connection.recv(65536):
            received += piece
    return received


def head(key: str, *more: str) -> bytes:
    lines = ["POST /v1/models/digits:predict HTTP/1.1", "Host: localhost", f"X-Api-Key: {key}", *more]
    return "".join(f"{line}\r\n" for line in lines).encode()


@pytest.fixture(scope="module")
def slow(gateway: Gateway) -> Iterator[dict[str, list[ssl.SSLSocket]]]:
    """Slow-loris: requests whose headers, and requests whose bodies, never end; open while the other tests run."""
    beginnings = {
        "headers": head(gateway.client_key),
        "a stranger's body": head("unknown", "Content-Length: 1000") + b'\r\n{"instances": [',
        "a client's body": head(gateway.client_key, "Content-Length: 1000") + b'\r\n{"instances": [',
    }
    with contextlib.ExitStack() as stack:
        connections = {kind: [stack.enter_context(gateway.connect()) for _ in range(SLOW)] for kind in beginnings}
        for kind, beginning in beginnings.items():
            for connection in connections[kind]:
                connection.sendall(beginning)
        yield connections


@pytest.fixture(scope="module")
def silent(gateway: Gateway) -> Iterator[Any]:
    """The same over gRPC: a call whose message never comes."""
    never = threading.Event()

    def messages() -> Iterator[bytes]:
        never.wait(ENDED_WITHIN)
        yield b""

    with grpc.secure_channel(gateway.tls, grpc.ssl_channel_credentials(gateway.ca.read_bytes())) as channel:
        call: Any = channel.stream_unary("/tensorflow.serving.PredictionService/Predict")
        yield call.future(messages(), metadata=(("x-api-key", gateway.client_key),), timeout=ENDED_WITHIN)
        never.set()


@pytest.fixture(autouse=True)
def others_are_answered(gateway: Gateway, slow: object, silent: object) -> Iterator[None]:
    """During and after each of these tests."""
    with gateway.client(gateway.client_key) as client:
        assert client.predict(SAMPLES[0]).label == "0"
        yield
        assert client.predict(SAMPLES[0]).label == "0"


@pytest.mark.parametrize("coding", ["counted", "chunked"])
def test_too_large_a_request_is_refused_over_rest(gateway: Gateway, coding: str) -> None:
    headers = {"x-api-key": gateway.client_key} | ({"Transfer-Encoding": "chunked"} if coding == "chunked" else {})
    body = f"{len(LARGE):x}\r\n".encode() + LARGE + b"\r\n0\r\n\r\n" if coding == "chunked" else LARGE
    answer = gateway.ask("POST", "/v1/models/digits:predict", body, headers)
    assert answer == (413, {"error": "the request is larger than 16MB"})


def test_too_large_a_request_is_refused_over_grpc(gateway: Gateway) -> None:
    images = np.zeros((len(LARGE) // 784, 28, 28, 1), np.uint8)
    too_large = pytest.raises(Overloaded, match="RESOURCE_EXHAUSTED: the request is larger than 16MB")
    with gateway.client(gateway.client_key, Retry(attempts=1)) as client, too_large:
        client.call({"image": images})


def test_too_large_headers_are_refused(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.sendall(head(gateway.client_key, f"X-Long: {'x' * 100_000}") + b"\r\n")
        assert rest_of(connection).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "garbage",
    [b"\x00\xff" * 500, b"POST\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"],
    ids=["bytes", "no path", "no such protocol", "negative length"],
)
def test_what_is_no_request_is_refused(gateway: Gateway, garbage: bytes) -> None:
    with gateway.connect() as connection:
        connection.sendall(garbage)
        assert rest_of(connection).split(b" ")[1] in (b"400", b"505")


def test_a_request_that_can_be_read_in_two_ways_is_refused(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.sendall(head(gateway.client_key, "Content-Length: 3", "Content-Length: 30") + b"\r\n{}\n")
        assert rest_of(connection).startswith(b"HTTP/1.1 400 ")


def test_what_is_no_tls_is_refused(gateway: Gateway) -> None:
    host, port = gateway.tls.split(":")
    with socket.create_connection((host, int(port)), ENDED_WITHIN) as connection:
        connection.sendall(b"\x16\x03\x01\xff\xff" + bytes(1000))
        rest_of(connection)


def test_broken_http2_frames_are_refused(gateway: Gateway) -> None:
    host, port = gateway.plain.split(":")
    with socket.create_connection((host, int(port)), ENDED_WITHIN) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000)
        rest_of(connection)


# A client's own body is missing: Caddy 2.11 gives its reading up but lets the connection stand until the client goes.
@pytest.mark.parametrize("kind", ["headers", "a stranger's body"])
def test_who_never_finishes_a_request_is_cut_off(slow: dict[str, list[ssl.SSLSocket]], kind: str) -> None:
    for connection in slow[kind]:
        assert not rest_of(connection).startswith(b"HTTP/1.1 200")


def test_a_grpc_request_that_never_comes_is_given_up(silent: Any) -> None:
    assert silent.code() not in (grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_nothing_of_all_this_restarted_or_harmed_anything(gateway: Gateway) -> None:
    for service in ("serving", "gateway"):
        (container,) = inspect(service)
        assert container["RestartCount"] == 0
        assert container["State"]["Health"]["Status"] == "healthy"
    with Client(f"http://{gateway.plain}", api_key=gateway.client_key) as client:
        assert client.predict(SAMPLES[0]).label == "0"
