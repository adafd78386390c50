"""One HTTP/2 connection, for a load generator.

A load generator needs little of HTTP/2: the header block of a request never changes, and a reply is three frames. Flow
control, stream limits, settings, pings and GOAWAY are honoured. Frames, flags and settings are those of RFC 9113.
"""

import math
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

import gevent
import gevent.event
from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple

from glyph_loadtest.channel import TIMED_OUT, Address, CallError, Done, Reply, connect, no_connection

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_ENABLE_PUSH, _MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 2, 3, 4, 5

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME = struct.Struct(">HBBBI")  # length (two parts), type, flags, stream
_SETTING = struct.Struct(">HI")
_WIDE = 2**31 - 1  # the widest flow-control window: answers are small, and nobody reads them slower than we do
_DEFAULT_WINDOW = 65_535
_DEFAULT_FRAME_SIZE = 16_384
_REFUSED_STREAM, _CANCEL = 7, 8
# The dynamic table gets the size 0. A server whose settings make it smaller must be told (RFC 7541, 4.2), and as our
# header block never refers to it, the same words will do in each request, whatever the settings.
_NO_TABLE = b"\x20"
_MAX_STREAM_ID = 2**31 - 1

Headers = dict[str, str]


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return _FRAME.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


class Request(NamedTuple):
    """One request.

    Attributes:
        data: its body.
        done: is told of the reply.
        deadline: when it counts as failed (seconds, ``perf_counter``).
    """

    data: bytes
    done: Done
    deadline: float


@dataclass(slots=True)
class _Stream:
    """One request on its way."""

    request: Request
    window: int
    unsent: bytes = b""
    body: bytearray = field(default_factory=bytearray)
    headers: Headers = field(default_factory=dict)


class _HeaderReader:
    """HPACK, remembering the blocks it has seen.

    A block that consists of table references alone means the same for as long as the table stays the same, and after
    the first reply of a server nearly all blocks are of this kind.
    """

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._seen: dict[bytes, Headers] = {}

    def read(self, block: bytes) -> Headers:
        known = self._seen.get(block)
        if known is not None:
            return known
        # As bytes: what a server sends in another encoding than UTF-8 concerns its own header only.
        decoded = self._decoder.decode(block, raw=True)
        headers = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in decoded}
        if all(0x80 < byte < 0xFF for byte in block):
            self._seen[block] = headers
        else:
            self._seen.clear()
        return headers


class Connection:
    """One HTTP/2 connection: greenlets that read, write and keep time, and the streams between them.

    Args:
        address: the server.
        headers: of every request.
        read: makes an answer of the headers, trailers included, and the body of a reply.
        timeout: seconds until connecting, or a request, counts as failed.
        again: takes back the requests that the server had not looked at when it went away; they may be asked again
            elsewhere (RFC 9113, 6.8).

    Attributes:
        open: whether it takes further requests. One that does not still brings the replies to those it has taken.
        closed: whether it has come to its end.

    Raises:
        CallError: ``NO CONNECTION``.
    """

    def __init__(
        self,
        address: Address,
        headers: Sequence[tuple[str, str]],
        read: Callable[[Headers, bytearray], bytes],
        timeout: float,
        again: Callable[[Request], object],
    ) -> None:
        self._socket = connect(address, timeout, "h2")
        self._timeout = timeout
        self._read = read
        self._again = again
        self._header_block = _NO_TABLE + Encoder().encode([NeverIndexedHeaderTuple(*header) for header in headers])
        self._reader = _HeaderReader()
        self._streams: dict[int, _Stream] = {}
        self._waiting: deque[Request] = deque()
        self._next_id = 1
        self._window = _DEFAULT_WINDOW
        self._stream_window = _DEFAULT_WINDOW
        self._frame_size = _DEFAULT_FRAME_SIZE
        self._stream_limit: float = 1  # until the server's settings arrive: the first that it sends
        self._settled = False
        self._received = 0
        self._headers_flags = 0
        self._headers_block = b""
        self._farewell = ""
        self._out: list[bytes] = []
        self._wake = gevent.event.Event()
        self.open = True
        self.closed = False
        settings = _SETTING.pack(_ENABLE_PUSH, 0) + _SETTING.pack(_INITIAL_WINDOW_SIZE, _WIDE)
        self._write(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, (_WIDE - _DEFAULT_WINDOW).to_bytes(4, "big"))
        )
        self._greenlets = [gevent.spawn(run) for run in (self._read_loop, self._write_loop, self._expire_loop)]

    def start(self, request: Request) -> None:
        """Sends a request when the server takes one more."""
        if self._waiting or len(self._streams) >= self._stream_limit:
            self._waiting.append(request)
        else:
            self._open_stream(request)

    def close(self, reason: str) -> None:
        """Closes the connection; what is on its way ends with ``NO CONNECTION`` and the reason."""
        if self.closed:
            return
        self.open, self.closed = False, True
        ended = [stream.request for stream in self._streams.values()] + list(self._waiting)
        self._streams.clear()
        self._waiting.clear()
        self._wake.set()
        self._socket.close()
        for request in ended:
            request.done(no_connection(reason))
        gevent.killall([greenlet for greenlet in self._greenlets if greenlet is not gevent.getcurrent()], block=False)

    def _write(self, data: bytes) -> None:
        self._out.append(data)
        self._wake.set()

    def _open_stream(self, request: Request) -> None:
        number, data = self._next_id, request.data
        self._next_id += 2
        stream = self._streams[number] = _Stream(request, self._stream_window)
        self._write(_frame(_HEADERS, _END_HEADERS, number, self._header_block))
        if len(data) <= min(self._window, stream.window, self._frame_size):
            self._window -= len(data)
            stream.window -= len(data)
            self._write(_frame(_DATA, _END_STREAM, number, data))
        else:
            stream.unsent = data
            self._send_more(number, stream)
        if self._next_id > _MAX_STREAM_ID:
            self._retire()

    def _send_more(self, number: int, stream: _Stream) -> None:
        while stream.unsent:
            size = min(len(stream.unsent), self._window, stream.window, self._frame_size)
            if size <= 0:
                return
            piece, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            self._window -= size
            stream.window -= size
            self._write(_frame(_DATA, 0 if stream.unsent else _END_STREAM, number, piece))

    def _end(self, number: int, stream: _Stream, trailers: Headers) -> None:
        try:
            reply = Reply(self._read({**stream.headers, **trailers}, stream.body), None, perf_counter())
        except CallError as error:
            reply = Reply(b"", error, perf_counter())
        self._deliver(number, stream, reply)

    def _fail(self, number: int, stream: _Stream, kind: str, message: str) -> None:
        self._deliver(number, stream, Reply(b"", CallError(kind, message), perf_counter()))

    def _deliver(self, number: int, stream: _Stream, reply: Reply) -> None:
        del self._streams[number]
        stream.request.done(reply)
        self._open_waiting()
        if not self.open and not self._streams:
            self.close("it has done its work")

    def _retire(self) -> None:
        """Takes no more requests; those on their way may still be answered."""
        self.open = False
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            self._again(request)

    def _open_waiting(self) -> None:
        while self._waiting and len(self._streams) < self._stream_limit:
            self._open_stream(self._waiting.popleft())

    def _write_loop(self) -> None:
        try:
            while not self.closed:
                self._wake.wait()
                self._wake.clear()
                data = b"".join(self._out)
                self._out.clear()
                self._socket.sendall(data)
        except OSError as error:
            self.close(f"the connection broke: {error.strerror or error}")

    def _expire_loop(self) -> None:
        while not self.closed:
            gevent.sleep(min(self._timeout / 10, 0.1))
            now = perf_counter()
            late = [(number, stream) for number, stream in self._streams.items() if stream.request.deadline < now]
            unsent = [request for request in self._waiting if request.deadline < now]
            self._waiting = deque(request for request in self._waiting if request.deadline >= now)
            for request in unsent:
                request.done(Reply(b"", CallError(TIMED_OUT, f"not sent within {self._timeout:g} s"), now))
            for number, stream in late:
                self._write(_frame(_RST_STREAM, 0, number, _CANCEL.to_bytes(4, "big")))
                self._fail(number, stream, TIMED_OUT, f"no answer within {self._timeout:g} s")
            self._open_waiting()

    def _read_loop(self) -> None:
        reason = "the server closed the connection"
        try:
            buffer = bytearray()
            while data := self._socket.recv(262_144):
                buffer += data
                del buffer[: self._read_frames(buffer)]
        except OSError as error:
            reason = f"the connection broke: {error.strerror or error}"
        except (HPACKError, struct.error, ValueError) as error:
            reason = f"this is no HTTP/2: {error}"
        self.close(reason + self._farewell)

    def _read_frames(self, buffer: bytearray) -> int:
        """Handles the whole frames in the buffer; returns how many bytes they were."""
        position = 0
        while len(buffer) - position >= 9:
            high, low, kind, flags, number = _FRAME.unpack_from(buffer, position)
            length = high << 8 | low
            if length > _DEFAULT_FRAME_SIZE:
                raise ValueError("the answer starts with " + repr(bytes(buffer[position : position + 20])))
            end = position + 9 + length
            if end > len(buffer):
                break
            self._handle(kind, flags, number & 0x7FFFFFFF, bytes(buffer[position + 9 : end]))
            position = end
        return position

    def _handle(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == _DATA:
            self._handle_data(flags, number, payload)
        elif kind in (_HEADERS, _CONTINUATION):
            self._handle_headers(kind, flags, number, payload)
        elif kind == _SETTINGS and not flags & _ACK:
            self._handle_settings(payload)
        elif kind == _WINDOW_UPDATE:
            self._handle_window(number, int.from_bytes(payload, "big"))
        elif kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, payload))
        elif kind == _RST_STREAM and (stream := self._streams.get(number)):
            self._handle_reset(number, stream, int.from_bytes(payload, "big"))
        elif kind == _GOAWAY:
            self._handle_goaway(int.from_bytes(payload[:4], "big"), payload[8:])

    def _handle_data(self, flags: int, number: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received > _WIDE // 2:
            self._write(_frame(_WINDOW_UPDATE, 0, 0, self._received.to_bytes(4, "big")))
            self._received = 0
        if stream := self._streams.get(number):
            stream.body += _unpadded(flags, payload)
            if flags & _END_STREAM:
                self._end(number, stream, {})

    def _handle_headers(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == _HEADERS:
            payload = _unpadded(flags, payload)
            self._headers_flags = flags
            self._headers_block = payload[5:] if flags & _PRIORITY else payload
        else:
            self._headers_block += payload
        if not flags & _END_HEADERS:
            return
        headers = self._reader.read(self._headers_block)
        stream = self._streams.get(number)
        if stream is None:
            return
        if self._headers_flags & _END_STREAM:
            self._end(number, stream, headers)
        else:
            stream.headers = headers

    def _handle_settings(self, payload: bytes) -> None:
        if not self._settled:
            self._settled, self._stream_limit = True, math.inf
        for setting, value in _SETTING.iter_unpack(payload):
            if setting == _MAX_CONCURRENT_STREAMS:
                self._stream_limit = value
            elif setting == _MAX_FRAME_SIZE:
                self._frame_size = value
            elif setting == _INITIAL_WINDOW_SIZE:
                for stream in self._streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
        self._write(_frame(_SETTINGS, _ACK, 0))
        self._handle_window(0, 0)
        self._open_waiting()

    def _handle_window(self, number: int, size: int) -> None:
        if number == 0:
            self._window += size
            for waiting, stream in self._streams.items():
                self._send_more(waiting, stream)
        elif number in self._streams:
            self._streams[number].window += size
            self._send_more(number, self._streams[number])

    def _handle_reset(self, number: int, stream: _Stream, code: int) -> None:
        if code == _REFUSED_STREAM and self.open:
            # Not looked at (RFC 9113, 8.7): a server may count a stream for a moment longer than its client does.
            del self._streams[number]
            self._waiting.appendleft(stream.request)
        else:
            self._fail(number, stream, "UNAVAILABLE", f"the server reset the stream (HTTP/2 error {code})")

    def _handle_goaway(self, last: int, debug: bytes) -> None:
        self._retire()
        self._farewell = f" ({debug.decode(errors='replace')})" if debug else ""
        for number, stream in [item for item in self._streams.items() if item[0] > last]:
            del self._streams[number]
            self._again(stream.request)
        if not self._streams:
            self.close("it has done its work")


def _unpadded(flags: int, payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & _PADDED else payload
