"""What the two protocols have in common: start a request, be told of the reply."""

import errno
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import NamedTuple, Protocol

import gevent
import gevent.socket
from gevent import ssl
from gevent.hub import Waiter


class CallError(Exception):
    """A request that got no answer.

    Attributes:
        kind: what failures are counted by: a gRPC status such as ``NOT_FOUND``, ``HTTP 404``, or ``NO CONNECTION``.
        message: what the server, or the network, said.

    Both are fit to be printed, whatever a server says; see `printable`.
    """

    def __init__(self, kind: str, message: str) -> None:
        kind, message = printable(kind), printable(message)
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind = kind
        self.message = message


NO_CONNECTION = "NO CONNECTION"
TIMED_OUT = "DEADLINE_EXCEEDED"
TOO_MANY_FILES = "TOO MANY OPEN FILES"  # of this process, which can open no further connection
_LONGEST = 300  # characters
# OpenSSL's codes of certificates that nobody vouches for; in others it is the name, or the time, that is wrong.
_UNKNOWN_AUTHORITY = (18, 19, 20, 21)


def printable(text: str) -> str:
    """A text for a line of a terminal or a file: what cannot be printed is escaped, and what is long is cut short."""
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + " ..."
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class Reply(NamedTuple):
    """The end of a request: the bytes of the answer, or the error, and when it came (seconds, ``perf_counter``)."""

    body: bytes
    error: CallError | None
    at: float


Done = Callable[[Reply], object]


class Channel(Protocol):
    """A way to a server that carries any number of requests at once."""

    def start(self, request: bytes, done: Done) -> None:
        """Sends a request without waiting; `done` is called once, with the reply, and must not wait either."""

    def close(self) -> None:
        """Closes the connections; what is still on its way ends with ``NO CONNECTION``."""


def call(channel: Channel, request: bytes) -> Reply:
    """Sends a request and waits for its reply; other greenlets run meanwhile."""
    waiter: Waiter[Reply] = Waiter()
    run_callback = gevent.get_hub().loop.run_callback
    channel.start(request, lambda reply: run_callback(waiter.switch, reply))
    reply: Reply = waiter.get()
    return reply


@dataclass(frozen=True)
class Address:
    """Where to connect.

    Attributes:
        host: the server's name or number.
        port: its port.
        tls: whether to speak TLS.
        ca: the PEM file of the certificates to trust then; empty for the system's.
    """

    host: str
    port: int
    tls: bool = False
    ca: str = ""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def connect(address: Address, timeout: float, alpn: str) -> gevent.socket.socket:
    """Opens a TCP (or TLS) connection.

    Args:
        address: where to.
        timeout: seconds until giving up.
        alpn: the protocol to agree on over TLS: ``h2`` or ``http/1.1``.

    Raises:
        CallError: ``NO CONNECTION``, with the system's reason, or ``TOO MANY OPEN FILES``.
    """
    try:
        with ExitStack() as stack:
            sock = stack.enter_context(gevent.socket.create_connection((address.host, address.port), timeout))
            sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
            if address.tls:
                sock = stack.enter_context(_tls(address.ca, alpn).wrap_socket(sock, server_hostname=address.host))
            sock.settimeout(None)
            stack.pop_all()
    except ssl.SSLCertVerificationError as error:
        hint = "; --ca names one to trust" if error.verify_code in _UNKNOWN_AUTHORITY else ""
        reason = f"{address}: the certificate is not trusted ({error.verify_message}){hint}"
        raise CallError(NO_CONNECTION, reason) from error
    except OSError as error:
        kind = TOO_MANY_FILES if error.errno in (errno.EMFILE, errno.ENFILE) else NO_CONNECTION
        raise CallError(kind, f"{address}: {error.strerror or error}") from error
    return sock


@cache
def _tls(ca: str, alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the certificate and the name
    if ca:
        context.load_verify_locations(ca)
    else:
        context.load_default_certs()
    context.set_alpn_protocols([alpn])
    return context


def no_connection(reason: str) -> Reply:
    """The reply of a request whose connection was lost."""
    return Reply(b"", CallError(NO_CONNECTION, reason), perf_counter())
