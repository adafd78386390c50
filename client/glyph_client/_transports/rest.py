"""TensorFlow Serving over REST."""

import asyncio
import contextlib
import gzip
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakSet

import httpx

from glyph_client import _json
from glyph_client._errors import CallError, call_error
from glyph_client._transports.base import TLS, Options
from glyph_client._transports.tls import ssl_context
from glyph_client._types import Request, Response

_CLOSED: Final = "the client was closed"
_LIMITS: Final = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=60.0)


class RestTransport:
    """A pool of HTTP connections to one server.

    An answer whose headers trickle in may outlast its time, which httpx then counts from each piece of them.
    """

    def __init__(self, target: str, *, options: Options) -> None:
        self.target = target
        self._compression = options.compression
        self._headers = dict(options.headers)
        self._verify = _verification(target, options.tls)
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._client = httpx.Client(base_url=self.target, headers=self._headers, verify=self._verify, limits=_LIMITS)
        self._process = os.getpid()

    def send(self, request: Request, *, timeout: float, headers: Mapping[str, str]) -> Response:
        """Sends a request and returns its response (see `Transport.send`)."""
        method, path, body = _json.encode(request)
        content = _content(body, compression=self._compression, headers=headers)
        end = time.monotonic() + timeout
        if self._closed:
            raise call_error("CANCELLED", _CLOSED)
        if self._process != os.getpid():  # Its connections are those of the process that it was forked from.
            self._start()
        try:
            with self._client.stream(
                method, path, **content, timeout=timeout, extensions={"trace": self._watch}
            ) as answer:
                received = bytearray()
                for chunk in answer.iter_bytes():
                    received += chunk
                    if time.monotonic() > end:
                        raise httpx.ReadTimeout("the answer trickled in too slowly")
        except (httpx.HTTPError, RuntimeError) as error:
            raise _error(error, closed=self._closed) from error
        return _json.decode(request, answer.status_code, bytes(received), retry_after=answer.headers.get("retry-after"))

    def close(self) -> None:
        """Closes the connections; calls under way end with an error."""
        self._closed = True
        if self._process == os.getpid():
            with self._lock:
                for each in self._sockets:
                    _shut_down(each)
            self._client.close()

    def _watch(self, event: str, details: Mapping[str, Any]) -> None:
        """Told by httpx of all that it does; takes note of new connections, which httpx does not hand out."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            connected = details["return_value"].get_extra_info("socket")
            with self._lock:
                self._sockets.add(connected)
            if self._closed:
                _shut_down(connected)


class AsyncRestTransport:
    """The same for asyncio, where the time is kept whatever trickles in."""

    def __init__(self, target: str, *, options: Options) -> None:
        self.target = target
        self._compression = options.compression
        self._client = httpx.AsyncClient(
            base_url=target, headers=dict(options.headers), verify=_verification(target, options.tls), limits=_LIMITS
        )

    async def send(self, request: Request, *, timeout: float, headers: Mapping[str, str]) -> Response:
        """Sends a request and returns its response (see `Transport.send`)."""
        method, path, body = _json.encode(request)
        content = _content(body, compression=self._compression, headers=headers)
        try:
            async with asyncio.timeout(timeout):
                answer = await self._client.request(method, path, **content, timeout=None)
        except TimeoutError as error:
            raise call_error("DEADLINE_EXCEEDED", "no answer in time") from error
        except (httpx.HTTPError, RuntimeError) as error:
            raise _error(error, closed=self._client.is_closed) from error
        return _json.decode(request, answer.status_code, answer.content, retry_after=answer.headers.get("retry-after"))

    async def close(self) -> None:
        """Closes the connections; calls under way end with an error."""
        await self._client.aclose()


def _content(body: bytes | None, *, compression: bool, headers: Mapping[str, str]) -> dict[str, Any]:
    if body is None:
        return {"headers": dict(headers)}
    encoding = {"Content-Encoding": "gzip"} if compression else {}
    content = gzip.compress(body, compresslevel=1) if compression else body
    return {"content": content, "headers": {**headers, **encoding, "Content-Type": "application/json"}}


def _error(error: Exception, *, closed: bool) -> CallError:
    if closed:
        return call_error("CANCELLED", _CLOSED)
    if isinstance(error, httpx.TimeoutException):
        return call_error("DEADLINE_EXCEEDED", str(error) or type(error).__name__)
    return call_error("UNAVAILABLE", str(error) or type(error).__name__)


def _verification(target: str, tls: TLS) -> ssl.SSLContext | bool:
    return ssl_context(tls) if target.startswith("https") else False


def _shut_down(connected: socket.socket) -> None:
    """Ends what another thread does with it, who then closes it."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connected, socket.SHUT_RDWR)
