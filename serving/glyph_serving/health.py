"""grpc.health.v1.Health, and whether the server is starting, serving or draining."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import IntEnum
from typing import Any

from google.protobuf.message import DecodeError

from glyph_serving.errors import Code, ServingError, invalid_argument
from glyph_serving.schema import message_classes

_MESSAGES = message_classes(
    "grpc.health.v1",
    {"HealthCheckRequest": [("service", 1, "string")], "HealthCheckResponse": [("status", 1, "int32")]},
)
CHECK = "/grpc.health.v1.Health/Check"
# The genuine server registers its services without their package; the full names are what clients ask for.
SERVICES = frozenset(
    {
        "",
        "ModelService",
        "PredictionService",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    }
)

_WATCH_SECONDS = 0.1  # how soon a watcher hears of a change


class ServingStatus(IntEnum):
    """HealthCheckResponse.ServingStatus."""

    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


class Health:
    """What health checks are told.

    Args:
        ready: Whether every configured model has an available version.
    """

    def __init__(self, ready: Callable[[], Awaitable[bool]]) -> None:
        self._ready = ready
        self.draining = False

    async def serving(self) -> bool:
        """Whether requests are taken and every model can answer them."""
        return not self.draining and await self._ready()

    async def check(self, payload: bytes, _deadline: float) -> bytes:
        """Answers grpc.health.v1.Health/Check.

        Raises:
            ServingError: NOT_FOUND for a service that is not known, INVALID_ARGUMENT for what is no request.
        """
        service = _service(payload)
        if service not in SERVICES:
            raise ServingError(Code.NOT_FOUND, "service name unknown")
        return _response(await self._status())

    async def watch(
        self, requests: AsyncIterator[bytes], wait_until_gone: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[bytes]:
        """Answers grpc.health.v1.Health/Watch: the status now and whenever it changes, until the caller goes.

        Raises:
            ServingError: INVALID_ARGUMENT for what is no request, INTERNAL where there is none.
        """
        payload = await anext(requests, None)
        if payload is None:
            raise ServingError(Code.INTERNAL, "A watch needs one message")
        known = _service(payload) in SERVICES
        gone = asyncio.ensure_future(wait_until_gone())  # never cancelled: pyvoy completes what is waited for
        told = None
        while not gone.done():
            status = await self._status() if known else ServingStatus.SERVICE_UNKNOWN
            if status is not told:
                yield _response(status)
                told = status
            if self.draining:
                return
            await asyncio.wait({gone}, timeout=_WATCH_SECONDS)

    async def _status(self) -> "ServingStatus":
        return ServingStatus.SERVING if await self.serving() else ServingStatus.NOT_SERVING


def _service(payload: bytes) -> str:
    try:
        request: Any = _MESSAGES["HealthCheckRequest"].FromString(payload)
    except DecodeError:
        raise invalid_argument("could not parse request") from None
    return str(request.service)


def _response(status: ServingStatus) -> bytes:
    return _MESSAGES["HealthCheckResponse"](status=status).SerializeToString()
