"""From an address to a transport."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from glyph_client._errors import TargetError
from glyph_client._transports.base import AsyncTransport, Options, Transport

_SCHEMES: Final = ("grpc", "grpcs", "http", "https", "dns")
_EXAMPLES: Final = (
    "Give host:port, grpc://host:port, grpcs://host:port, http://host:port, https://host:port or dns:///name:port."
)


def split_targets(target: str | Sequence[str]) -> list[str]:
    """One or several addresses as a list; a string separates them by commas.

    Raises:
        TargetError: an address cannot be used.
    """
    targets = target.split(",") if isinstance(target, str) else list(target)
    return [_checked(each.strip()) for each in targets] or [_checked("")]


def connect(target: str, options: Options) -> Transport:
    """A transport to one address; gRPC unless it begins with http. Nothing is sent yet."""
    scheme, _, rest = target.rpartition("://")
    if scheme in {"http", "https"}:
        from glyph_client._transports.rest import RestTransport

        return RestTransport(target, options=options)
    from glyph_client._transports.grpc import GrpcTransport

    return GrpcTransport(target, _address(scheme, rest, target), secure=scheme == "grpcs", options=options)


def connect_async(target: str, options: Options) -> AsyncTransport:
    """As `connect`, for asyncio."""
    scheme, _, rest = target.rpartition("://")
    if scheme in {"http", "https"}:
        from glyph_client._transports.rest import AsyncRestTransport

        return AsyncRestTransport(target, options=options)
    from glyph_client._transports.grpc import AsyncGrpcTransport

    return AsyncGrpcTransport(target, _address(scheme, rest, target), secure=scheme == "grpcs", options=options)


def _address(scheme: str, rest: str, target: str) -> str:
    return target if scheme == "dns" else rest.rstrip("/")


def _checked(target: str) -> str:
    scheme, separator, rest = target.rpartition("://")
    try:
        parts = urlsplit(f"//{rest.removeprefix('/') if scheme == 'dns' else rest}")
        port = parts.port
    except ValueError as error:
        raise TargetError(f"no address of a server ({error}). Received: {target!r}. {_EXAMPLES}") from error
    needs_port = scheme not in {"http", "https"}
    if (separator and scheme not in _SCHEMES) or not parts.hostname or (needs_port and port is None):
        raise TargetError(f"no address of a server. Received: {target!r}. {_EXAMPLES}")
    return target
