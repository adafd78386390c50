"""From an address to a transport."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from glyph_client._errors import TargetError
from glyph_client._transports.base import AsyncTransport, Options, Target, Transport
from glyph_client._transports.exchange import Calls

_SCHEMES: Final = ("grpc", "grpcs", "http", "https", "dns")
_EXAMPLES: Final = (
    "Give host:port, grpc://host:port, grpcs://host:port, http://host:port, https://host:port or dns:///name:port."
)


def split_targets(target: str | Sequence[str]) -> list[Target]:
    """One or several addresses as a list; a string separates them by commas.

    Raises:
        TargetError: an address cannot be used.
    """
    targets = target.split(",") if isinstance(target, str) else list(target)
    return [_parse(each.strip()) for each in targets or [""]]


def connect(target: Target, options: Options) -> Transport:
    """A transport to one address; gRPC unless it begins with http. Nothing is sent yet."""
    from glyph_client._transports.threads import ThreadTransport

    return ThreadTransport(target, _calls(target, options), options)


def connect_async(target: Target, options: Options) -> AsyncTransport:
    """As `connect`, for asyncio."""
    from glyph_client._transports.tasks import TaskTransport

    return TaskTransport(target, _calls(target, options), options)


def _calls(target: Target, options: Options) -> Calls:
    if target.scheme in {"http", "https"}:
        from glyph_client._transports.rest_call import RestCalls

        return RestCalls(target, options)
    from glyph_client._transports.grpc_call import GrpcCalls

    return GrpcCalls(target, options)


def _parse(text: str) -> Target:
    scheme, separator, rest = text.rpartition("://")
    if scheme == "dns":  # Before the third slash, others take a name server.
        rest = rest[1:] if rest.startswith("/") else ""
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname or "", parts.port
        host = host if host.isascii() else host.encode("idna").decode()
    except ValueError as error:
        raise TargetError(f"no address of a server ({error}). Received: {text!r}. {_EXAMPLES}") from error
    is_web = scheme in {"http", "https"}
    has_path = parts.path.rstrip("/") and not is_web
    if (separator and scheme not in _SCHEMES) or not host or (port is None and not is_web) or has_path:
        raise TargetError(f"no address of a server. Received: {text!r}. {_EXAMPLES}")
    return Target(text, scheme or "grpc", host, port or 0)
