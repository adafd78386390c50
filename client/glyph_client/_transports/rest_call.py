"""What REST makes of HTTP/1.1: a call's request, and its answer."""

import base64
import gzip
import zlib
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import h11

from glyph_client import _json
from glyph_client._errors import call_error
from glyph_client._transports.base import Options, Target, lower_case
from glyph_client._transports.exchange import Answer
from glyph_client._transports.http1 import Connection
from glyph_client._types import Request, Response

_COMPRESSED: Final = ("gzip", "x-gzip", "deflate")


class RestCalls:
    """Calls to one server, with the same headers (see `exchange.Calls`).

    Args:
        target: its address.
        options: what all calls have in common.
    """

    alpn = "http/1.1"

    def __init__(self, target: Target, options: Options) -> None:
        self._path = quote(target.path, safe="/%:@")
        self._compression = options.compression
        self._headers = {"host": target.authority, "user-agent": "glyph-client", "accept-encoding": "gzip"}
        if target.login:
            self._headers["authorization"] = f"Basic {base64.b64encode(target.login.encode()).decode()}"
        self._headers |= lower_case(options.headers)

    def connection(self) -> Connection:
        """The state of a new connection."""
        return Connection()

    def write(self, request: Request, timeout: float, headers: Mapping[str, str]) -> tuple[h11.Request, bytes]:  # noqa: ARG002
        """The head and the body of a call (see `exchange.Calls.write`)."""
        method, path, body = _json.encode(request)
        named = {**self._headers, **lower_case(headers)}
        if body is not None:
            named["content-type"] = "application/json"
            if self._compression:
                named["content-encoding"] = "gzip"
                body = gzip.compress(body, compresslevel=1)
            named["content-length"] = str(len(body))
        return h11.Request(method=method, target=self._path + path, headers=list(named.items())), body or b""

    def read(self, request: Request, answer: Answer) -> Response:
        """The response to a request (see `exchange.Calls.read`)."""
        status, body = int(answer.headers[":status"]), bytes(answer.body)
        encoding = answer.headers.get("content-encoding", "").lower()
        if encoding in _COMPRESSED:
            try:
                body = zlib.decompress(body, zlib.MAX_WBITS | 32)  # gzip or deflate, as the body says itself
            except zlib.error as error:
                if status == 200:
                    message = f"an answer compressed with {encoding} cannot be read: {error}"
                    raise call_error("INTERNAL", message) from error
                body = b""  # The status says enough.
        return _json.decode(request, status, body, answer.headers)
