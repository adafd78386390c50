"""Transports for users' own tests: a function in place of a server."""

from collections.abc import Callable, Mapping

from glyph_client._types import Request, Response


class MockTransport:
    """Answers what a function answers.

    Example:
        >>> def answer(request):
        ...     return StatusResponse([VersionStatus(3, "AVAILABLE")])
        >>> Client(transport=MockTransport(answer)).status()[0].version
        3

    Args:
        handler: from a request to its response; it may raise an error made by `call_error`.

    Attributes:
        requests: what was asked so far.
    """

    def __init__(self, handler: Callable[[Request], Response], target: str = "mock") -> None:
        self.target = target
        self.requests: list[Request] = []
        self._handler = handler

    def send(self, request: Request, *, timeout: float, headers: Mapping[str, str]) -> Response:  # noqa: ARG002
        """Asks the handler."""
        self.requests.append(request)
        return self._handler(request)

    def close(self) -> None:
        """Does nothing."""


class AsyncMockTransport:
    """The same for asyncio; the handler is a plain function."""

    def __init__(self, handler: Callable[[Request], Response], target: str = "mock") -> None:
        self._mock = MockTransport(handler, target)
        self.target = target
        self.requests = self._mock.requests

    async def send(self, request: Request, *, timeout: float, headers: Mapping[str, str]) -> Response:
        """Asks the handler."""
        return self._mock.send(request, timeout=timeout, headers=headers)

    async def close(self) -> None:
        """Does nothing."""
