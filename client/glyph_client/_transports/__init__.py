"""From an address to a transport."""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

from glyph_client._errors import TargetError
from glyph_client._transports.base import AsyncTransport, Options, Target, Transport
from glyph_client._transports.exchange import Calls

_SCHEMES: Final = ("grpc", "grpcs", "http", "https", "dns")
_EXAMPLES: Final = (
    "Give host:port, grpc://host:port, grpcs://host:port, http://host:port, https://host:port or dns:///name:port."
)
_LOGIN: Final = re.compile(r"(?:^|(?<=//))[^/?#]*@")  # a secret, which no message repeats


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
    shown = _LOGIN.sub("", text)
    if scheme == "dns":  # Before the third slash, others take a name server.
        rest = rest[1:] if rest.startswith("/") else ""
    is_web = scheme in {"http", "https"}
    try:
        parts = urlsplit(f"//{rest}")
        host, port, path = parts.hostname or "", parts.port, parts.path.rstrip("/")
        host = host.replace("%25", "%") if host.isascii() else host.encode("idna").decode()
        if parts.username is not None and not is_web:
            raise ValueError("a user and a password are for REST; gRPC has api_key, token and headers")
    except ValueError as error:
        raise TargetError(f"no address of a server ({error}). Received: {shown!r}. {_EXAMPLES}") from error
    is_whole = text.isprintable() and host and port != 0 and (is_web or (port and not path))
    if (separator and scheme not in _SCHEMES) or not is_whole or "?" in rest or "#" in rest:
        raise TargetError(f"no address of a server. Received: {shown!r}. {_EXAMPLES}")
    login = "" if parts.username is None else f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Target(shown, scheme or "grpc", host, port or 0, path, login)
