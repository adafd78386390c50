"""Servers that answer or fail as told, and clients that ask them for a model's status."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from glyph_client import (
    AsyncClient,
    CallError,
    Client,
    Request,
    Response,
    Retry,
    StatusRequest,
    StatusResponse,
    VersionStatus,
)
from glyph_client.protos import serving_pb2 as pb

FAST = Retry(initial=0.001, longest=0.002)
AVAILABLE = [VersionStatus(3, "AVAILABLE")]
STATUS = pb.GetModelStatusResponse(
    model_version_status=[pb.ModelVersionStatus(version=3, state=pb.ModelVersionStatus.AVAILABLE)]
).SerializeToString()
REST_STATUS = b'{"model_version_status": [{"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK"}}]}'


class Failing:
    """Fails as often as told, then answers."""

    def __init__(self, *errors: CallError) -> None:
        self.errors = list(errors)

    def __call__(self, request: Request) -> Response:
        if self.errors:
            raise self.errors.pop(0)
        assert isinstance(request, StatusRequest)
        return StatusResponse(AVAILABLE)


def status_at(target: str, *, asynchronous: bool, closed: bool = False, **options: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(target, **options) as client:
            if closed:
                await client.close()
            return await client.status()

    if asynchronous:
        return asyncio.run(ask())
    with Client(target, **options) as client:
        if closed:
            client.close()
        return client.status()


def refused(method: str, message: bytes, context: grpc.ServicerContext) -> bytes:
    context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")


def answered(method: str, message: bytes, context: grpc.ServicerContext) -> bytes:
    return STATUS
