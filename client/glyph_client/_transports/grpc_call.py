"""What gRPC makes of HTTP/2: a call's request, and its answer (github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md)."""

import gzip
import math
import zlib
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from glyph_client import _wire
from glyph_client._errors import CODES, Code, call_error
from glyph_client._retry import seconds_to_wait
from glyph_client._transports.base import Options, Target, lower_case
from glyph_client._transports.exchange import Answer
from glyph_client._transports.http2 import Connection, encode_headers
from glyph_client._types import Request, Response

_OF_GRPC_STATUS: Final[Mapping[str, Code]] = {str(number): code for number, code in enumerate(CODES, 1)}
# What is not said here is UNKNOWN, and INTERNAL (doc/http-grpc-status-mapping.md; PROTOCOL-HTTP2.md, "Errors").
_OF_HTTP_STATUS: Final[Mapping[str, Code]] = {
    "400": "INTERNAL",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "UNIMPLEMENTED",
    "429": "UNAVAILABLE",
    "502": "UNAVAILABLE",
    "503": "UNAVAILABLE",
    "504": "UNAVAILABLE",
}
_MOST_SECONDS: Final = 99_999  # of a timeout that is told in milliseconds: 8 digits


class GrpcCalls:
    """Calls to one server, with the same headers (see `exchange.Calls`).

    Args:
        target: its address.
        options: what all calls have in common.
    """

    alpn = "h2"

    def __init__(self, target: Target, options: Options) -> None:
        scheme = "https" if target.scheme == "grpcs" else "http"
        common = {"te": "trailers", "content-type": "application/grpc", "user-agent": "glyph-client"}
        common |= {"grpc-accept-encoding": "identity,deflate,gzip"}
        common |= {"grpc-encoding": "gzip"} if options.compression else {}
        common |= lower_case(options.headers)
        self._compression = options.compression
        self._headers = {
            kind: encode_headers(
                {":method": "POST", ":scheme": scheme, ":path": path, ":authority": target.authority, **common}
            )
            for kind, path in _wire.METHODS.items()
        }

    def connection(self) -> Connection:
        """The state of a new connection."""
        return Connection()

    def write(self, request: Request, timeout: float, headers: Mapping[str, str]) -> tuple[bytes, bytes]:
        """The block of headers and the body of a call (see `exchange.Calls.write`)."""
        message = _wire.encode(request)
        if self._compression:
            message = gzip.compress(message, compresslevel=1)
        milliseconds = math.ceil(min(timeout, _MOST_SECONDS) * 1000)
        own = encode_headers({"grpc-timeout": f"{milliseconds}m", **lower_case(headers)})
        return self._headers[type(request)] + own, _prefix(message, compressed=self._compression) + message

    def read(self, request: Request, answer: Answer) -> Response:
        """The response to a request (see `exchange.Calls.read`)."""
        status = answer.headers.get("grpc-status")
        if status == "0":
            return _wire.decode(request, _message(answer))
        if status is None:
            http = answer.headers.get(":status", "none")
            said = answer.body[:200].decode("utf-8", "replace").strip()
            message = f"no gRPC, but HTTP status {http} {said}".strip()
            raise call_error(_OF_HTTP_STATUS.get(http, "UNKNOWN"), message, retry_after=_retry_after(answer.headers))
        code = _OF_GRPC_STATUS.get(status, "UNKNOWN")
        details = unquote(answer.headers.get("grpc-message", "")) or "no details"
        raise call_error(code, details, retry_after=_retry_after(answer.headers))


def _prefix(message: bytes, *, compressed: bool) -> bytes:
    return bytes([compressed]) + len(message).to_bytes(4, "big")


def _message(answer: Answer) -> bytes:
    """The one message that the answer to a unary call holds."""
    prefix, message = answer.body[:5], bytes(memoryview(answer.body)[5:])
    if len(prefix) < 5 or len(message) != int.from_bytes(prefix[1:], "big"):
        raise call_error("INTERNAL", f"not one whole message in the {len(answer.body)} bytes of the answer")
    if not prefix[0]:
        return message
    try:
        return zlib.decompress(message, zlib.MAX_WBITS | 32)  # gzip or deflate, as the message says itself
    except zlib.error as error:
        encoding = answer.headers.get("grpc-encoding", "identity")
        raise call_error("INTERNAL", f"an answer compressed with {encoding} cannot be read: {error}") from error


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait; infinite where it asks for no further attempt (gRPC's proposal A6)."""
    seconds = seconds_to_wait(headers.get("retry-after", ""))
    if seconds is None and (pushback := headers.get("grpc-retry-pushback-ms")) is not None:
        milliseconds = seconds_to_wait(pushback)
        return math.inf if milliseconds is None else milliseconds / 1000
    return seconds
