"""REST over a pool of HTTP/1.1 connections, for a load generator.

A connection carries one request at a time, so there are as many connections as requests on their way. What is read of
an answer is what a load test needs: status, body (by length, in chunks, or up to the end), and whether the connection
lives on. The rules are those of RFC 9112.
"""

import json
import re
from collections import deque
from time import perf_counter

import gevent
import gevent.socket
from gevent.queue import SimpleQueue

from glyph_loadtest.channel import TIMED_OUT, Address, CallError, Done, Reply, connect, no_connection

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)
_RECONNECT_AFTER = 0.1  # seconds: a dead server is asked ten times a second, not ten thousand times


class _Reader:
    """Takes the bytes of one open connection apart into answers."""

    def __init__(self, sock: gevent.socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()
        self.answered = False  # whether anything has come since the last request

    def send(self, request: bytes) -> None:
        self.answered = False
        self._socket.sendall(request)

    def close(self) -> None:
        self._socket.close()

    def answer(self) -> tuple[int, bytes, bool]:
        """Reads one answer: status, body, whether the connection can carry another request.

        Raises:
            OSError: the connection broke.
            ValueError: this is no HTTP/1.1.
        """
        end = self._find(b"\r\n\r\n")
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        if not head.startswith(b"HTTP/1.") or not head[9:12].isdigit():
            raise ValueError(f"the answer starts with {head[:20]!r}")
        status, alive = int(head[9:12]), head.startswith(b"HTTP/1.1") and not _CLOSE.search(head)
        if 100 <= status < 200:
            return self.answer()
        if _CHUNKED.search(head):
            return status, self._chunks(), alive
        if length := _LENGTH.search(head):
            return status, self._take(int(length[1])), alive
        if status in (204, 304):
            return status, b"", alive
        return status, self._rest(), False

    def _more(self) -> None:
        data = self._socket.recv(262_144)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.answered = True
        self._buffer += data

    def _find(self, mark: bytes) -> int:
        while (end := self._buffer.find(mark)) < 0:
            self._more()
        return end

    def _take(self, length: int) -> bytes:
        while len(self._buffer) < length:
            self._more()
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _line(self) -> bytes:
        return self._take(self._find(b"\r\n") + 2)[:-2]

    def _chunks(self) -> bytes:
        body = bytearray()
        while size := int(self._line().split(b";")[0], 16):
            body += self._take(size)
            self._line()
        while self._line():
            pass
        return bytes(body)

    def _rest(self) -> bytes:
        body = bytes(self._buffer)
        while data := self._socket.recv(262_144):
            body += data
        return body


class _Connection:
    """One greenlet with one connection: takes a request, sends it, reads the answer."""

    def __init__(self, channel: "RestChannel") -> None:
        self._channel = channel
        self._jobs: SimpleQueue[tuple[bytes, Done]] = SimpleQueue()
        self._reader: _Reader | None = None
        self.greenlet = gevent.spawn(self._run)

    def put(self, request: bytes, done: Done) -> None:
        self._jobs.put((request, done))

    def _run(self) -> None:
        try:
            while True:
                request, done = self._jobs.get()
                reply = no_connection("closed by the load test")
                try:
                    reply = self._exchange(request)
                    self._channel.idle.append(self)
                finally:
                    done(reply)
        finally:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _exchange(self, request: bytes) -> Reply:
        try:
            with gevent.Timeout(self._channel.timeout, TimeoutError()):
                status, body = self._ask(request)
        except CallError as error:
            return Reply(b"", error, perf_counter())
        except TimeoutError:
            self._disconnect()
            return Reply(b"", CallError(TIMED_OUT, f"no answer within {self._channel.timeout:g} s"), perf_counter())
        except ValueError as error:
            self._disconnect()
            return no_connection(f"this is no HTTP/1.1: {error}")
        except OSError as error:
            self._disconnect()
            return no_connection(f"the connection broke: {error.strerror or error}")
        if status == 200:
            return Reply(body, None, perf_counter())
        return Reply(b"", CallError(f"HTTP {status}", _reason(body)), perf_counter())

    def _ask(self, request: bytes) -> tuple[int, bytes]:
        if (reader := self._reader) is not None:
            try:
                return self._send(reader, request)
            except ConnectionError:
                # A server may close a connection that was kept alive, just as the next request is on its way: then it
                # is asked again. But an answer that is cut short is the server's failure.
                if reader.answered:
                    raise
            self._disconnect()
        self._reader = _Reader(self._channel.connect())
        return self._send(self._reader, request)

    def _send(self, reader: _Reader, request: bytes) -> tuple[int, bytes]:
        reader.send(request)
        status, body, alive = reader.answer()
        if not alive:
            self._disconnect()
        return status, body


def _reason(body: bytes) -> str:
    """What TensorFlow Serving says in an error's body, or the start of whatever else it is."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return body[:200].decode(errors="replace")


class RestChannel:
    """A REST endpoint, called over as many connections as there are requests on their way.

    Args:
        address: the server.
        timeout: seconds until a request counts as failed (``DEADLINE_EXCEEDED``).
    """

    def __init__(self, address: Address, timeout: float) -> None:
        self.timeout = timeout
        self.idle: deque[_Connection] = deque()
        self._address = address
        self._all: list[_Connection] = []
        self._failure: tuple[float, CallError] | None = None

    def start(self, request: bytes, done: Done) -> None:
        """Sends a whole HTTP request (see `post`); see Channel."""
        if self.idle:
            connection = self.idle.pop()  # the one used last: the others may go cold
        else:
            connection = _Connection(self)
            self._all.append(connection)
        connection.put(request, done)

    def close(self) -> None:
        """Closes the connections; see Channel."""
        gevent.killall([connection.greenlet for connection in self._all])
        self._all.clear()
        self.idle.clear()

    def connect(self) -> gevent.socket.socket:
        """Opens a connection, unless the server has just refused one.

        Raises:
            CallError: ``NO CONNECTION``, or ``TOO MANY OPEN FILES``.
        """
        if self._failure is not None and perf_counter() - self._failure[0] < _RECONNECT_AFTER:
            raise self._failure[1]
        try:
            return connect(self._address, self.timeout, "http/1.1")
        except CallError as error:
            self._failure = (perf_counter(), CallError(error.kind, error.message))
            raise


def post(address: Address, path: str, body: bytes, api_key: str = "") -> bytes:
    """The bytes of a POST of JSON."""
    head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
    if api_key:
        head += f"x-api-key: {api_key}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body
