"""A request and its answer over one connection: what is common to HTTP/1.1 and HTTP/2, for threads or an event loop."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from glyph_client._errors import CallError, Code, call_error
from glyph_client._transports.tls import reason
from glyph_client._types import Request, Response

# What gRPC makes of a reset (doc/PROTOCOL-HTTP2.md, "Errors"); what is not said here is INTERNAL.
# NO_ERROR (0) and INTERNAL_ERROR (2) would be INTERNAL too, but are how a proxy says that it lost the server while it
# answered (Caddy and Envoy by the latter, Envoy before 1.37 by the former): a lost connection, seen from further away.
_OF_RESET: Final[Mapping[int, Code]] = {
    0: "UNAVAILABLE",
    2: "UNAVAILABLE",
    8: "CANCELLED",
    11: "RESOURCE_EXHAUSTED",
    12: "PERMISSION_DENIED",
}


class Broken(Exception):  # noqa: N818
    """The connection ended, or what came over it is not of its protocol."""


class Refused(Exception):  # noqa: N818
    """The server has not looked at the request, so another connection may carry it."""


class Reset(Exception):  # noqa: N818
    """The server gave the request up.

    Attributes:
        code: the HTTP/2 error code it gave.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"the server reset the stream (HTTP/2 error {code})")
        self.code = code


@dataclass(slots=True)
class Answer:
    """What came back.

    Attributes:
        headers: by name, the trailers and `:status` among them.
        body: what stood between the two.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)


Exchange = Generator[bytes, bytes, Answer]


class Connection(Protocol):
    """The state of a connection that carries one request at a time, without its socket; to be closed after an error.

    Attributes:
        usable: whether it takes a further request.
    """

    usable: bool

    def exchange(self, head: Any, body: bytes) -> Exchange:
        """Sends a request and reads its answer.

        Args:
            head: what comes before the body, as `Calls.write` gives it.
            body: what follows it.

        Yields:
            Bytes to send, perhaps none. It is then sent what was received, where no bytes mean the connection's end.

        Raises:
            Refused: the server has not looked at the request.
            Reset: it gave the request up.
            Broken: the connection ended, or what came is not of the protocol.
        """

    def idle(self, received: bytes) -> bytes:
        """Takes what came between two requests; returns what is to be sent in reply.

        Raises:
            Broken: the connection ended, or what came is not of the protocol.
        """

    def owed(self) -> bytes:
        """What is to be sent, such as the reply to what came together with the end of an answer."""


class Calls(Protocol):
    """Calls to one server: how a request becomes what a connection carries, and its answer a response.

    Attributes:
        alpn: the protocol's name, as TLS asks for it.
    """

    alpn: str

    def connection(self) -> Connection:
        """The state of a new connection."""

    def write(self, request: Request, timeout: float, headers: Mapping[str, str]) -> tuple[Any, bytes]:
        """The head and the body of a call.

        Args:
            request: what is asked.
            timeout: seconds until the answer must be there.
            headers: sent with this call alone.

        Raises:
            InputError: a value cannot be sent.
            CallError: UNIMPLEMENTED, the protocol has no such call.
        """

    def read(self, request: Request, answer: Answer) -> Response:
        """The response to a request.

        Raises:
            CallError: the server's error; INTERNAL, the answer is not understood.
        """


def failure(error: Broken | Refused | Reset | OSError) -> CallError:
    """The error of a call whose connection failed."""
    if isinstance(error, Reset):
        return call_error(_OF_RESET.get(error.code, "INTERNAL"), str(error))
    if isinstance(error, OSError):
        return call_error("UNAVAILABLE", f"the connection failed: {reason(error)}")
    return call_error("UNAVAILABLE", str(error))
