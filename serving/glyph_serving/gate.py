"""What both applications do with a request before they look into it: count it, bound it, read it."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, NoReturn

from glyph_serving.errors import Code, ServingError

Message = MutableMapping[str, Any]
Receive = Callable[[], "asyncio.Future[Message]"]
Send = Callable[[Message], Awaitable[None]]  # sends at once; what it gives only tells when there is room for more
Live = Callable[[Receive, Send], Awaitable[None]]  # answers ASGI's lifespan
Headers = Sequence[tuple[bytes, bytes]]


class TooLargeError(ServingError):
    """A request's body is larger than is allowed: RESOURCE_EXHAUSTED, as gRPC has it."""

    def __init__(self, received: int, limit: int) -> None:
        message = f"Received message larger than max ({received} vs. {limit}); --max_message_bytes sets the limit"
        super().__init__(Code.RESOURCE_EXHAUSTED, message)


class Gate:
    """The way into one application, which runs on one event loop.

    Args:
        max_message_bytes: The largest body, as sent and unzipped.
        max_concurrent: Most requests at once, and most streams; 0: any number.

    Attributes:
        in_flight: The requests that are being answered; they may end on any thread.
        streams: The streams that are open. They may last, so they take no request's place, and nothing waits for them.
        max_message_bytes: As given.
    """

    def __init__(self, max_message_bytes: int, max_concurrent: int) -> None:
        self.in_flight: set[object] = set()
        self.streams: set[object] = set()
        self.max_message_bytes = max_message_bytes
        self._max_concurrent = max_concurrent or float("inf")

    def check(self) -> None:
        """Raises RESOURCE_EXHAUSTED if more requests are in flight than may be."""
        if len(self.in_flight) > self._max_concurrent:
            self._refuse("requests are being answered")

    def check_streams(self) -> None:
        """Raises RESOURCE_EXHAUSTED if more streams are open than may be."""
        if len(self.streams) > self._max_concurrent:
            self._refuse("streams are open")

    def _refuse(self, what: str) -> NoReturn:
        limit = f"{self._max_concurrent} {what}, as many as --max_concurrent_requests allows"
        raise ServingError(Code.RESOURCE_EXHAUSTED, f"{limit}. Try again")

    async def read(self, receive: Receive) -> bytes:
        """The whole body of a request, which also has to be read so that an answer arrives.

        Raises:
            TooLargeError: There is more of it than may be; what is too much was not kept.
        """
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            pieces = [body]
            size = len(body)
            while message.get("more_body"):
                message = await receive()
                piece = message.get("body", b"")
                size += len(piece)
                if size <= self.max_message_bytes:
                    pieces.append(piece)
            self.check_size(size)
            body = b"".join(pieces)
        self.check_size(len(body))
        return body

    def check_size(self, size: int) -> None:
        """Raises TooLargeError if a body of this size is larger than is allowed."""
        if size > self.max_message_bytes:
            raise TooLargeError(size, self.max_message_bytes)


def request_id(headers: Headers) -> str:
    """The id under which Envoy's access log tells of a request; empty if it has none."""
    return next((value.decode("latin-1") for name, value in headers if name == b"x-request-id"), "")
