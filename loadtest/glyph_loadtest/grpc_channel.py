"""gRPC for a load generator, over one HTTP/2 connection.

The stock gRPC library, patched for gevent, runs every call through a thread pool and manages some 1,900 calls a second
of processor time; this manages more than ten times as many. The mapping of gRPC onto HTTP/2 is that of gRPC's
PROTOCOL-HTTP2.md.
"""

from time import perf_counter
from urllib.parse import unquote

import gevent

from glyph_loadtest.channel import TIMED_OUT, Address, CallError, Done, Reply
from glyph_loadtest.http2 import Connection, Headers, Request

_RECONNECT_AFTER = 0.1  # seconds: a dead server is asked ten times a second, not ten thousand times

# https://grpc.github.io/grpc/core/md_doc_statuscodes.html
_STATUS = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]


class GrpcChannel:
    """A gRPC method of a server, called over one connection that is opened when needed.

    Args:
        address: the server.
        path: the method, e.g. ``/tensorflow.serving.PredictionService/Predict``.
        timeout: seconds until a request counts as failed (``DEADLINE_EXCEEDED``).
        api_key: sent as `x-api-key`; empty for none.
    """

    def __init__(self, address: Address, path: str, timeout: float, api_key: str = "") -> None:
        self._address = address
        self._headers = [
            (":method", "POST"),
            (":scheme", "https" if address.tls else "http"),
            (":path", path),
            (":authority", str(address)),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *([("x-api-key", api_key)] if api_key else []),
        ]
        self._timeout = timeout
        self._connections: list[Connection] = []  # the last one takes requests, the others only bring replies
        self._connecting: list[Request] | None = None
        self._failure: tuple[float, Reply] | None = None

    def start(self, request: bytes, done: Done) -> None:
        """Sends a serialised request message; see Channel."""
        self._start(Request(_framed(request), done, perf_counter() + self._timeout))

    def close(self) -> None:
        """Closes the connections; see Channel."""
        for connection in self._connections:
            connection.close("closed by the load test")

    def _start_again(self, request: Request) -> None:
        if request.deadline > perf_counter():
            self._start(request)
        else:
            request.done(Reply(b"", CallError(TIMED_OUT, f"not sent within {self._timeout:g} s"), perf_counter()))

    def _start(self, request: Request) -> None:
        if self._connections and self._connections[-1].open:
            self._connections[-1].start(request)
        elif self._connecting is not None:
            self._connecting.append(request)
        elif self._failure is not None and perf_counter() - self._failure[0] < _RECONNECT_AFTER:
            request.done(self._failure[1]._replace(at=perf_counter()))
        else:
            self._connecting = [request]
            gevent.spawn(self._connect)

    def _connect(self) -> None:
        try:
            connection = Connection(self._address, self._headers, _message, self._timeout, self._start_again)
            self._connections = [*(one for one in self._connections if not one.closed), connection]
        except CallError as error:
            reply = Reply(b"", CallError(error.kind, error.message), perf_counter())
            self._failure = (perf_counter(), reply)
        waiting, self._connecting = self._connecting or [], None
        for request in waiting:
            self._start(request)


def _framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def _message(headers: Headers, body: bytearray) -> bytes:
    """The message in a reply.

    Raises:
        CallError: the reply tells of an error, or is none.
    """
    status = headers.get("grpc-status")
    message = unquote(headers.get("grpc-message", ""))
    if status is None:
        raise CallError("HTTP " + headers.get(":status", "?"), "the answer has no gRPC status: no gRPC server there?")
    if status != "0":
        known = status.isdecimal() and int(status) < len(_STATUS)
        raise CallError(_STATUS[int(status)] if known else f"gRPC status {status}", message)
    if len(body) < 5 or body[0] or len(body) != 5 + int.from_bytes(body[1:5], "big"):
        raise CallError("INTERNAL", f"not one uncompressed message, but {len(body)} bytes")
    return bytes(body[5:])
