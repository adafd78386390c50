"""A REST server whose latency is known to a fraction of a millisecond: it looks at nothing, and answers in time.

Run with GEVENT_BACKEND=select, whose timers know microseconds. It prints its port.
"""

import argparse
import re
import time

import gevent
import gevent.server
import gevent.socket

_BODY = b'{"predictions": [{"label": "7"}]}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


class Punctual:
    """When requests are answered."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.free_at: float = 0.0

    def due(self, now: float) -> float:
        options = self.options
        wait: float
        if options.rate:
            self.free_at = max(now, self.free_at) + 1 / options.rate
            return self.free_at
        into = now % options.stall_every if options.stall_every else options.stall
        wait = max(0.0, options.stall - into) + options.delay
        return now + wait

    def serve(self, sock: gevent.socket.socket, _: object) -> None:
        sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        buffer = b""
        while True:
            while (end := buffer.find(b"\r\n\r\n")) < 0 or len(buffer) < end + 4 + _length(buffer[:end]):
                data = sock.recv(65536)
                if not data:
                    return
                buffer += data
            due = self.due(time.time())
            buffer = buffer[end + 4 + _length(buffer[:end]) :]
            while (early := due - time.time()) > 0:
                gevent.sleep(early)
            sock.sendall(_ANSWER)


def _length(head: bytes) -> int:
    length = re.search(rb"Content-Length: (\d+)", head)
    return int(length[1]) if length else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0, help="seconds that every answer takes")
    parser.add_argument("--stall", type=float, default=0, help="seconds in which nothing is answered ...")
    parser.add_argument("--stall-every", type=float, default=0, help="... at every multiple of so many seconds")
    parser.add_argument("--rate", type=float, default=0, help="answer at most so many requests a second, in order")
    server = gevent.server.StreamServer(("127.0.0.1", 0), Punctual(parser.parse_args()).serve)
    server.start()
    print(server.server_port, flush=True)
    server.serve_forever()
