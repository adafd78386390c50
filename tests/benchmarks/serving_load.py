"""The load generator of serving_bench.py: a process of its own that keeps so many requests on their way.

It does next to nothing for each request (frames that never change, answers of which only the frame headers are looked
at), so that one core sends many times what the servers can answer. gRPC callers share one HTTP/2 connection, as the
callers of a channel do; REST callers have one connection each, as HTTP/1.1 asks.

Reads one job a line from stdin, as JSON, and answers each with a line: requests a second, and latencies in seconds.
"""

import json
import selectors
import socket
import statistics
import struct
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from hpack import Encoder

_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY = 0, 1, 4, 6, 7
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_FRAME = struct.Struct(">HBBBI")  # length (two parts), type, flags, stream
_WIDE = 2**31 - 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_MAX_FRAME = 16_384


@dataclass(frozen=True)
class Job:
    """What to do: `callers` requests at any time, each the content of a file, for so many seconds."""

    port: int
    protocol: str  # "grpc" or "rest"
    path: str
    request: str  # a file
    callers: int
    seconds: float


@dataclass(frozen=True)
class Load:
    """What came of it."""

    rate: float
    median: float
    slowest: float  # 99 of 100 answers were faster


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return _FRAME.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def _grpc(job: Job, message: bytes) -> list[float]:
    """The latencies of all answers; every stream must end after an answer, so an error ends the run."""
    encoder = Encoder()
    fields = [(":method", "POST"), (":scheme", "http"), (":path", job.path), (":authority", f"127.0.0.1:{job.port}")]
    fields += [("te", "trailers"), ("content-type", "application/grpc")]
    first, block = encoder.encode(fields), encoder.encode(fields)  # the second refers to the table that the first made
    body = b"\0" + struct.pack(">I", len(message)) + message
    pieces = [body[start : start + _MAX_FRAME] for start in range(0, len(body), _MAX_FRAME)]
    began: dict[int, float] = {}
    answered: set[int] = set()
    latencies: list[float] = []
    connection = socket.create_connection(("127.0.0.1", job.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def request(stream: int, header: bytes) -> bytes:
        data = [_frame(_DATA, _END_STREAM if piece is pieces[-1] else 0, stream, piece) for piece in pieces]
        began[stream] = perf_counter()
        return b"".join([_frame(_HEADERS, _END_HEADERS, stream, header), *data])

    settings = struct.pack(">HIHI", 4, _WIDE, 2, 0)  # INITIAL_WINDOW_SIZE, ENABLE_PUSH
    greeting = _PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(8, 0, 0, struct.pack(">I", _WIDE - 65_535))
    streams = range(1, 2 * job.callers, 2)
    connection.sendall(greeting + b"".join(request(stream, block if stream > 1 else first) for stream in streams))
    next_stream, end, buffer = 2 * job.callers + 1, perf_counter() + job.seconds, b""
    while began:
        received = connection.recv(1 << 20)
        if not received:
            raise ConnectionError("the server closed the connection")
        buffer, at, now, out = buffer + received, 0, perf_counter(), []
        while len(buffer) - at >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(buffer, at)
            size = high << 8 | low
            if len(buffer) - at < 9 + size:
                break
            if kind == _DATA and size > 5:
                answered.add(stream)
            elif kind in (_SETTINGS, _PING) and not flags & _ACK:
                out.append(_frame(kind, _ACK, 0, buffer[at + 9 : at + 9 + size] if kind == _PING else b""))
            elif kind == _GOAWAY:
                raise ConnectionError("the server sent GOAWAY")
            if flags & _END_STREAM and kind in (_DATA, _HEADERS):
                latencies.append(now - began.pop(stream))
                answered.remove(stream)  # KeyError: it ended without an answer
                if now < end:
                    out.append(request(next_stream, block))
                    next_stream += 2
            at += 9 + size
        buffer = buffer[at:]
        if out:
            connection.sendall(b"".join(out))
    connection.close()
    return latencies


def _rest(job: Job, message: bytes) -> list[float]:
    head = (
        f"POST {job.path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(message)}\r\n"
    )
    request = f"{head}\r\n".encode() + message
    began: dict[socket.socket, float] = {}
    buffers: dict[socket.socket, bytes] = {}
    latencies: list[float] = []
    with selectors.EpollSelector() as selector:
        for _ in range(job.callers):
            connection = socket.create_connection(("127.0.0.1", job.port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ)
            buffers[connection], began[connection] = b"", perf_counter()
            connection.sendall(request)
        end = perf_counter() + job.seconds
        while began:
            for key, _events in selector.select():
                connection = key.fileobj  # type: ignore[assignment]
                received = buffers[connection] + connection.recv(1 << 20)
                head_end = received.find(b"\r\n\r\n")
                length = received.lower().find(b"content-length:")
                if head_end < 0 or len(received) < head_end + 4 + int(received[length + 15 : head_end].split()[0]):
                    buffers[connection] = received
                    continue
                if not received.startswith(b"HTTP/1.1 200"):
                    raise ConnectionError(received[:300].decode(errors="replace"))
                buffers[connection], now = b"", perf_counter()
                latencies.append(now - began.pop(connection))
                if now < end:
                    began[connection] = now
                    connection.sendall(request)
        for connection in buffers:
            connection.close()
    return latencies


def run(job: Job) -> Load:
    """Does a job; the first tenth of the answers, while everything still fills up, does not count."""
    protocols: dict[str, Callable[[Job, bytes], list[float]]] = {"grpc": _grpc, "rest": _rest}
    began = perf_counter()
    latencies = protocols[job.protocol](job, Path(job.request).read_bytes())
    seconds = perf_counter() - began
    ordered = sorted(latencies[len(latencies) // 10 :])
    return Load(len(latencies) / seconds, statistics.median(ordered), ordered[int(len(ordered) * 0.99)])


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(asdict(run(Job(**json.loads(line))))), flush=True)
