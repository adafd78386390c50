"""gRPC as an ASGI application: framing, deadlines, status in the trailers.

connectrpc does this too, at 150 microseconds a call where these lines cost 3 (measured without a network), more than
running a small model takes. For the same reason a unary call is no coroutine: of what a small model's answer costs, a
task and the futures it waits for would be a third.
"""

import asyncio
import gzip
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import quote

from google.protobuf.message import DecodeError

from glyph_serving.arrivals import Arrivals
from glyph_serving.errors import Code, ServingError, invalid_argument
from glyph_serving.gate import Gate, Live, Message, Receive, Send, request_id
from glyph_serving.health import CHECK, Health
from glyph_serving.log import LOGGER
from glyph_serving.unzip import MAX_UNZIPPED, unzip

Handler = Callable[["Call"], None]
StreamHandler = Callable[[AsyncIterator[bytes], Callable[[], Awaitable[None]]], AsyncIterator[bytes]]

_PREFIX = struct.Struct(">BI")  # whether it is compressed, and how long it is
_PREFIX_BYTES = 5
_WORTH_ZIPPING = 1024  # bytes
_NEVER = float("inf")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_HEADERS = [(b"content-type", b"application/grpc")]
_START: Message = {"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True}
_START_ZIPPED: Message = {**_START, "headers": [*_HEADERS, (b"grpc-encoding", b"gzip")]}
_OK: Message = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")], "more_trailers": False}


class GrpcApp:
    """Answers calls. It is no coroutine function, which ``_asgi_single_callable`` (asgiref's word) says to pyvoy.

    Args:
        handlers: By path, ``/package.Service/Method``: takes a call whose message is here, and answers it or fails it,
            now or later; or raises what it fails with.
        streams: The same for streams: takes the messages as they come and a way to wait until the caller has gone, and
            gives the answers as they come.
        health: Whether calls are taken.
        gate: Counts and bounds them.
        arrivals: The calls whose message is on its way.
        live: Answers ASGI's lifespan.
    """

    _asgi_single_callable = True

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        streams: Mapping[str, StreamHandler],
        health: Health,
        gate: Gate,
        arrivals: Arrivals,
        live: Live,
    ) -> None:
        self.handlers = handlers
        self._streams = streams
        self.health = health
        self.gate = gate
        self.arrivals = arrivals
        self._live = live

    def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> "Awaitable[None] | Call":
        """Answers one call; what comes back is for ``create_task`` of a loop with the task factory below."""
        if scope["type"] == "lifespan":
            return self._live(receive, send)
        path = scope["path"]
        if path in self._streams:
            return self._answer_stream(self._streams[path], scope, receive, send)
        return Call(self, self.handlers.get(path), scope, receive, send)

    async def _answer_stream(
        self, handler: StreamHandler, scope: Mapping[str, Any], receive: Receive, send: Send
    ) -> None:
        streams, stream = self.gate.streams, object()
        streams.add(stream)
        send(_START)
        try:
            self.gate.check_streams()
            async for answer in handler(_messages(receive, self.gate), lambda: _wait_until_gone(receive)):
                framed = _PREFIX.pack(0, len(answer)) + answer
                await send({"type": "http.response.body", "body": framed, "more_body": True})
        except Exception as error:  # noqa: BLE001 (whatever goes wrong with one stream, its caller hears of it)
            _send_status(send, _serving_error(error, scope))
        else:
            _send_status(send, None)
        finally:
            streams.discard(stream)


class Call:
    """A unary call, which begins when it is made and ends with ``answer`` or ``fail``.

    Args:
        app: The application that it is for.
        handler: What takes it once its message is here; None: it is to be told that there is no such method.
        scope: What its headers say.
        receive: How to get its message.
        send: How to answer it.

    Attributes:
        message: What is asked, serialized.
        deadline: The ``time.monotonic()`` after which nobody wants the answer.
        since: The ``time.monotonic()`` at which the message was here.
    """

    __slots__ = (
        "_app",
        "_compressed",
        "_handler",
        "_pieces",
        "_receive",
        "_scope",
        "_send",
        "_size",
        "deadline",
        "message",
        "since",
    )

    def __init__(
        self, app: GrpcApp, handler: Handler | None, scope: Mapping[str, Any], receive: Receive, send: Send
    ) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._pieces: list[bytes] | None = None
        self._compressed = False
        self.deadline = _NEVER
        app.gate.in_flight.add(self)
        try:
            if handler is None:
                raise ServingError(Code.UNIMPLEMENTED, "")
            if app.health.draining and scope["path"] != CHECK:
                raise ServingError(Code.UNAVAILABLE, "The server is shutting down")
            app.gate.check()
            for name, value in scope["headers"]:
                if name == b"grpc-timeout":
                    self.deadline = time.monotonic() + _timeout(value.decode("latin-1"))
        except Exception as error:  # noqa: BLE001 (whatever goes wrong with one call, its caller hears of it)
            self.fail(error)
            return
        self._handler = handler
        app.arrivals.announce(self)
        try:
            receive().add_done_callback(self._received)
        except AttributeError:  # pyvoy has no future for a request without a body
            app.arrivals.arrived(self)
            self.fail(ServingError(Code.INTERNAL, "A unary call needs one message"))

    def add_done_callback(self, _callback: object) -> None:
        """As a task's; what would be called looks for exceptions, and the caller hears of all there are."""

    def answer(self, message: bytes) -> None:
        """Ends the call with an answer."""
        send = self._send
        if self._compressed and len(message) >= _WORTH_ZIPPING:  # who sends compressed messages gets compressed answers
            message = gzip.compress(message, compresslevel=1)
            send(_START_ZIPPED)
            send({"type": "http.response.body", "body": _PREFIX.pack(1, len(message)) + message})
        else:
            send(_START)
            send({"type": "http.response.body", "body": _PREFIX.pack(0, len(message)) + message})
        send(_OK)
        self._app.gate.in_flight.discard(self)

    def fail(self, error: Exception) -> None:
        """Ends the call with an error."""
        self._send(_START)
        _send_status(self._send, _serving_error(error, self._scope))
        self._app.gate.in_flight.discard(self)

    def _received(self, future: asyncio.Future[Message]) -> None:
        """Takes the message, or a piece of it."""
        app = self._app
        try:
            message = future.result()
            body = message.get("body", b"")
            if self._pieces is not None or message.get("more_body"):
                body = self._gathered(body, message.get("more_body", False))
                if body is None:
                    self._receive().add_done_callback(self._received)
                    return
            size = len(body)
            if _PREFIX_BYTES <= size <= app.gate.max_message_bytes and body.startswith(
                _PREFIX.pack(0, size - _PREFIX_BYTES)
            ):
                self.message = body[_PREFIX_BYTES:]
            else:
                self._read_unusual(body)
            self.since = time.monotonic()
            self._handler(self)
        except Exception as error:  # noqa: BLE001 (whatever goes wrong with one call, its caller hears of it)
            self.fail(error)
        finally:
            app.arrivals.arrived(self)  # only now: if it was the last that others wait for, it is to be with them

    def _gathered(self, piece: bytes, more: bool) -> bytes | None:
        """The whole body once its last piece is here, or more of it than may be; None until then."""
        if self._pieces is None:
            self._pieces = []
            self._size = 0
        self._pieces.append(piece)
        self._size += len(piece)
        if more and self._size <= self._app.gate.max_message_bytes:
            return None
        return b"".join(self._pieces)

    def _read_unusual(self, body: bytes) -> None:
        """Takes a message that is compressed, too large or none."""
        gate = self._app.gate
        gate.check_size(len(body))
        encoding = dict(self._scope["headers"]).get(b"grpc-encoding", b"identity")
        self.message = _unframe(body, encoding, gate.max_message_bytes)
        self._compressed = bool(body[0])


def task_factory(
    loop: asyncio.AbstractEventLoop, coroutine: "Coroutine[Any, Any, Any] | Call", **options: Any
) -> "asyncio.Task[Any] | Call":
    """Makes tasks of coroutines, for ``loop.set_task_factory``; a call goes on by itself."""
    return coroutine if isinstance(coroutine, Call) else asyncio.Task(coroutine, loop=loop, **options)


_running: set[asyncio.Task[None]] = set()  # an event loop itself keeps no task alive


def awaited(handler: Callable[[bytes, float], Coroutine[Any, Any, bytes]]) -> Handler:
    """A handler from a coroutine function that takes the message and the deadline, and gives the answer's message."""

    async def answer(call: Call) -> None:
        try:
            message = await handler(call.message, call.deadline)
        except Exception as error:  # noqa: BLE001 (whatever goes wrong with one call, its caller hears of it)
            call.fail(error)
        else:
            call.answer(message)

    def handle(call: Call) -> None:
        task = asyncio.get_running_loop().create_task(answer(call))
        _running.add(task)
        task.add_done_callback(_running.discard)

    return handle


def _serving_error(error: Exception, scope: Mapping[str, Any]) -> ServingError:
    """What a caller is told of an error."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, DecodeError):
        return ServingError(Code.INTERNAL, "")
    LOGGER.error("%s failed", scope["path"], exc_info=error, extra={"request_id": request_id(scope["headers"])})
    return ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")


async def _messages(receive: Receive, gate: Gate) -> AsyncIterator[bytes]:
    """The messages of a stream as they arrive.

    Raises:
        ServingError: One is compressed, or larger than is allowed.
    """
    buffer = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        buffer += message.get("body", b"")
        more = message.get("more_body", False)
        while len(buffer) >= _PREFIX.size:
            compressed, length = _PREFIX.unpack_from(buffer)
            if compressed:
                raise ServingError(Code.UNIMPLEMENTED, "Messages of streams must not be compressed")
            gate.check_size(length)
            end = _PREFIX.size + length
            if len(buffer) < end:
                break
            payload = bytes(buffer[_PREFIX.size : end])
            del buffer[:end]
            yield payload


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _unframe(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The one message in a request's body.

    Raises:
        ServingError: The body does not hold exactly one message, or one compressed in a way that is not known.
    """
    if len(body) < _PREFIX.size:
        raise ServingError(Code.INTERNAL, "A unary call needs one message")
    compressed, length = _PREFIX.unpack_from(body)
    if len(body) != _PREFIX.size + length:
        raise ServingError(Code.INTERNAL, "A unary call needs exactly one message")
    payload = body[_PREFIX.size :]
    if not compressed:
        return payload
    if encoding not in (b"gzip", b"deflate"):
        raise ServingError(Code.UNIMPLEMENTED, f"grpc-encoding {encoding.decode('latin-1')} is not supported; use gzip")
    try:
        return unzip(payload, min(limit, MAX_UNZIPPED), gzip=encoding == b"gzip")
    except ValueError as error:
        raise ServingError(Code.INTERNAL, f"The message cannot be decompressed: {error}") from None
    except OverflowError as error:
        raise ServingError(Code.RESOURCE_EXHAUSTED, f"The message is too large when decompressed: {error}") from None


def _timeout(value: str) -> float:
    """Seconds of a ``grpc-timeout`` header."""
    digits, unit = value[:-1], value[-1:]
    try:
        if not (digits.isascii() and digits.isdigit()):
            raise ValueError
        return float(digits) * _UNITS[unit]
    except (KeyError, ValueError):
        raise invalid_argument(f"grpc-timeout must be digits and one of HMSmun. Received: {value}") from None


def _send_status(send: Send, error: ServingError | None) -> None:
    """Ends the body and says in the trailers how the call went."""
    send({"type": "http.response.body", "body": b""})
    headers = [(b"grpc-status", b"%d" % (error.code if error else 0))]
    if error and error.message:
        headers.append((b"grpc-message", quote(error.message, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()))
    send({"type": "http.response.trailers", "headers": headers, "more_trailers": False})
