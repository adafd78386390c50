"""What carries a request to a server: one interface, so that users can inject their own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from glyph_client._types import Request, Response


@dataclass(frozen=True, slots=True)
class TLS:
    """How grpcs:// and https:// connections are secured; nothing given means the system's authorities.

    Attributes:
        ca: PEM file of the authorities to trust.
        certificate: PEM file of the client's certificate, for mutual TLS; needs `key`.
        key: PEM file of its private key.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """An address.

    Attributes:
        text: as the user wrote it, but for the login.
        scheme: `grpc`, `grpcs`, `http`, `https`, or `dns` for gRPC with all addresses of a name in turn.
        host: its name or number, where an IPv6 one may end with `%` and the zone that this machine gives it.
        port: its port; 0 where the protocol's own is meant.
        path: what comes before REST's own paths.
        login: `user:password` for REST; empty for none.
    """

    text: str
    scheme: str
    host: str
    port: int
    path: str = ""
    login: str = ""

    @property
    def server_name(self) -> str:
        """The host as others know it, without its zone."""
        return self.host.partition("%")[0]

    @property
    def authority(self) -> str:
        """The host and the port, as the server is told."""
        host = f"[{self.server_name}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host


@dataclass(frozen=True, slots=True)
class Options:
    """What all transports are built with.

    Attributes:
        headers: sent with every request; gRPC calls them metadata.
        tls: certificates.
        compression: whether requests are compressed with gzip.
        has_others: whether there are other targets to turn to when one fails.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    tls: TLS = field(default_factory=TLS)
    compression: bool = False
    has_others: bool = False


class Transport(Protocol):
    """Sends requests and waits. Must be safe to use from several threads."""

    target: str

    def send(self, request: Request, *, timeout: float, headers: Mapping[str, str]) -> Response:
        """Sends a request and returns the response of the same kind.

        Args:
            request: what to ask.
            timeout: seconds until the answer must be there.
            headers: additional headers for this request.

        Raises:
            CallError: no answer, or an error as answer. Make it with `call_error`.
        """

    def close(self) -> None:
        """Closes the connections."""


class AsyncTransport(Protocol):
    """The same for asyncio."""

    target: str

    async def send(self, request: Request, *, timeout: float, headers: Mapping[str, str]) -> Response:
        """As `Transport.send`."""

    async def close(self) -> None:
        """Closes the connections."""


def lower_case(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers with their names as HTTP/2 writes them, so that one given twice is found."""
    return {name.lower(): value for name, value in headers.items()}
