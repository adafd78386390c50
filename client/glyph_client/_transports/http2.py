"""One HTTP/2 connection that carries one request at a time, without its socket.

Threads and event loops drive it alike: an exchange is a generator that yields the bytes to send and is handed the bytes
that were received. Written because a client needs little of HTTP/2 for calls of one message each way, and grpcio takes
many times the processor's time for that (`tests/benchmarks/client_bench.py`). Frames, flags, settings and error codes
are those of RFC 9113. A setting switches the table of header compression off, so that a block of headers means the same
on every connection at any time, and one that comes again need not be read again.
"""

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from hpack import Decoder, HPACKError
from hpack.hpack import encode_integer

from glyph_client._transports.exchange import Answer, Broken, Exchange, Refused, Reset

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 2, 4, 5
_REFUSED_STREAM: Final = 7
_NEVER_INDEXED: Final = b"\x10"  # a literal header: no proxy keeps it in a table, as befits secrets

_FRAME: Final = struct.Struct(">HBBBI")  # length (two parts), type, flags, stream
_SETTING: Final = struct.Struct(">HI")
_DEFAULT_WINDOW: Final = 65_535
_DEFAULT_FRAME_SIZE: Final = 16_384
_WIDEST: Final = 2**31 - 1  # of windows, and the last stream; answers are read as fast as they come
_ACCOUNT_AT: Final = 2**30  # bytes received, until the server is told that it may send as many more
_LONGEST_BLOCK: Final = 262_144  # bytes of headers


def encode_headers(fields: Mapping[str, str]) -> bytes:
    """A block of headers, or a part of one."""
    block = bytearray()
    for pair in fields.items():
        block += _NEVER_INDEXED
        for text in pair:
            encoded = text.encode("latin-1")
            block += encode_integer(len(encoded), 7) + encoded
    return bytes(block)


def _head(kind: int, flags: int, stream: int, size: int) -> bytes:
    return _FRAME.pack(size >> 8, size & 0xFF, kind, flags, stream)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return _head(kind, flags, stream, len(payload)) + payload


_GREETING: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _frame(
        _SETTINGS,
        0,
        0,
        _SETTING.pack(_HEADER_TABLE_SIZE, 0)
        + _SETTING.pack(_ENABLE_PUSH, 0)
        + _SETTING.pack(_INITIAL_WINDOW_SIZE, _WIDEST),
    )
    + _frame(_WINDOW_UPDATE, 0, 0, (_WIDEST - _DEFAULT_WINDOW).to_bytes(4, "big"))
)


class Connection:
    """The state of a connection (see `exchange.Connection`)."""

    def __init__(self) -> None:
        self.usable = True
        self._to_send: list[bytes | memoryview] = [_GREETING]
        self._unread = b""
        self._stream = -1
        self._window = self._stream_window = self._initial_window = _DEFAULT_WINDOW
        self._frame_size = _DEFAULT_FRAME_SIZE
        self._unaccounted = 0
        self._last_accepted = _WIDEST

    def exchange(self, head: bytes, body: bytes) -> Exchange:
        """Sends a request, its headers encoded, and reads its answer (see `exchange.Connection.exchange`)."""
        self._stream += 2
        self._stream_window = self._initial_window
        self._send_headers(head)
        unsent = memoryview(body)
        reading = _Reading()
        while not reading.ended:
            unsent = self._send_body(unsent)
            for kind, flags, stream, payload in self._frames((yield self.owed())):
                if stream != self._stream or not reading.take(kind, flags, payload):
                    self._handle(kind, flags, stream, payload)
                elif kind == _DATA:
                    self._account(len(payload))
            if self._last_accepted < self._stream:
                raise Refused("the server is going away")
        if unsent or self._stream >= _WIDEST:  # Answered before it was heard to the end.
            self.usable = False
        return reading.answer

    def idle(self, received: bytes) -> bytes:
        """Takes what came between two requests; returns what is to be sent in reply."""
        for frame in self._frames(received):
            self._handle(*frame)
        return self.owed()

    def owed(self) -> bytes:
        """What is to be sent, such as the reply to what came together with the end of an answer."""
        data = b"".join(self._to_send)
        self._to_send.clear()
        return data

    def _send_headers(self, block: bytes) -> None:
        kind, size = _HEADERS, self._frame_size
        while len(block) > size:
            self._to_send.append(_frame(kind, 0, self._stream, block[:size]))
            kind, block = _CONTINUATION, block[size:]
        self._to_send.append(_frame(kind, _END_HEADERS, self._stream, block))

    def _send_body(self, unsent: memoryview) -> memoryview:
        """Sends what the windows allow; returns the rest."""
        while unsent and (size := min(len(unsent), self._window, self._stream_window, self._frame_size)) > 0:
            self._window -= size
            self._stream_window -= size
            self._to_send.append(_head(_DATA, _END_STREAM if size == len(unsent) else 0, self._stream, size))
            self._to_send.append(unsent[:size])
            unsent = unsent[size:]
        return unsent

    def _frames(self, received: bytes) -> list[tuple[int, int, int, bytes]]:
        """Type, flags, stream and payload of each frame that is whole."""
        if not received:
            raise Broken("the server closed the connection")
        buffer = self._unread + received
        frames, at, size = [], 0, len(buffer)
        while size - at >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(buffer, at)
            length = high << 8 | low
            if length > _DEFAULT_FRAME_SIZE:
                raise Broken(f"this is no HTTP/2; it says {buffer[at : at + 60]!r}")
            end = at + 9 + length
            if end > size:
                break
            frames.append((kind, flags, stream & _WIDEST, buffer[at + 9 : end]))
            at = end
        self._unread = buffer[at:]
        return frames

    def _account(self, size: int) -> None:
        """Keeps the connection's window for answers open."""
        self._unaccounted += size
        if self._unaccounted >= _ACCOUNT_AT:
            self._to_send.append(_frame(_WINDOW_UPDATE, 0, 0, self._unaccounted.to_bytes(4, "big")))
            self._unaccounted = 0

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """A frame that is not a part of the answer."""
        if kind == _SETTINGS and not flags & _ACK:
            self._set(payload)
            self._to_send.append(_frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self._to_send.append(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE:
            if stream == 0:
                self._window += int.from_bytes(payload, "big")
            elif stream == self._stream:
                self._stream_window += int.from_bytes(payload, "big")
        elif kind == _GOAWAY:
            self.usable = False
            self._last_accepted = int.from_bytes(payload[:4], "big")

    def _set(self, payload: bytes) -> None:
        if len(payload) % _SETTING.size:
            raise Broken("this is no HTTP/2; its settings are cut off")
        for setting, value in _SETTING.iter_unpack(payload):
            if setting == _INITIAL_WINDOW_SIZE:
                self._stream_window += value - self._initial_window
                self._initial_window = value
            elif setting == _MAX_FRAME_SIZE:
                self._frame_size = max(value, _DEFAULT_FRAME_SIZE)  # the least that there is


class _Reading:
    """An answer on its way."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.ended = False
        self._block = b""
        self._is_last_block = False

    def take(self, kind: int, flags: int, payload: bytes) -> bool:
        """Takes a frame of its stream; False where it is not a part of the answer."""
        if self.ended:  # What may follow is a reset, to say that the rest of the request is not wanted.
            return False
        if kind == _DATA:
            self.answer.body += _unpadded(flags, payload)
            self.ended = bool(flags & _END_STREAM)
        elif kind == _HEADERS:
            payload = _unpadded(flags, payload)
            self._block = payload[5:] if flags & _PRIORITY else payload
            self._is_last_block = bool(flags & _END_STREAM)
            self._end_block(flags)
        elif kind == _CONTINUATION:
            self._block += payload
            self._end_block(flags)
        elif kind == _RST_STREAM:
            code = int.from_bytes(payload, "big")
            raise Refused("the server refused the stream") if code == _REFUSED_STREAM else Reset(code)
        else:
            return False
        return True

    def _end_block(self, flags: int) -> None:
        if len(self._block) > _LONGEST_BLOCK:
            raise Broken(f"the headers are longer than {_LONGEST_BLOCK} bytes")
        if flags & _END_HEADERS:
            self.answer.headers = {**self.answer.headers, **_decode_headers(self._block)}
            self.ended = self._is_last_block


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or len(payload) <= payload[0]:
        raise Broken("this is no HTTP/2; there is more padding than frame")
    return payload[1 : len(payload) - payload[0]]


@lru_cache(maxsize=256)
def _decode_headers(block: bytes) -> dict[str, str]:
    decoder = Decoder(_LONGEST_BLOCK)
    decoder.max_allowed_table_size = decoder.header_table_size = 0
    try:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in decoder.decode(block, raw=True)}
    except HPACKError as error:
        raise Broken(f"the headers cannot be read: {error}") from error
