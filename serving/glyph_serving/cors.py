"""Cross-origin requests: which web pages may read the answers."""

from dataclasses import dataclass

from glyph_serving.flags import Flags
from glyph_serving.gate import Headers

_METHODS = [(b"access-control-allow-methods", b"POST, GET"), (b"access-control-allow-headers", b"Content-Type")]


@dataclass(frozen=True)
class Cors:
    """What is told to browsers.

    Attributes:
        origins: The origins that may read answers; empty: all.
    """

    origins: frozenset[bytes]

    @classmethod
    def from_flags(cls, flags: Flags) -> "Cors | None":
        """The policy that the flags ask for; None if they ask for none."""
        if not flags.rest_api_enable_cors_support:
            return None
        origins = flags.rest_api_cors_origins.split(",")
        return cls(frozenset(origin.strip().removesuffix("/").encode() for origin in origins if origin))

    def headers(self, request: Headers) -> list[tuple[bytes, bytes]]:
        """The headers to add to the answer to a request."""
        if not self.origins:
            return [(b"access-control-allow-origin", b"*"), *_METHODS]
        origin = _origin(request)
        vary = (b"vary", b"origin")
        if origin not in self.origins:
            return [vary]
        return [(b"access-control-allow-origin", origin), vary, *_METHODS]


def is_preflight(request: Headers) -> bool:
    """Whether a browser may be asking: the request names the origin of a web page."""
    return _origin(request).startswith((b"http://", b"https://"))


def _origin(request: Headers) -> bytes:
    return next((value for name, value in request if name == b"origin"), b"")
