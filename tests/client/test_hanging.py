"""Servers that take a request and never answer it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from glyph_client import AsyncClient, CallError, Client


@pytest.mark.parametrize("kind", ["grpc", "rest"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_replica_that_hangs_costs_one_call_and_no_more(server: Any, kind: str, asynchronous: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # It accepts, and never answers.
        scheme = "http" if kind == "rest" else "grpc"
        targets = [f"{scheme}://127.0.0.1:{hanging.getsockname()[1]}", getattr(server, kind)]

        def ask() -> list[str]:
            with Client(targets, model="digits", timeout=1) as client:
                return [outcome_of(client.status) for _ in range(3)]

        async def ask_in_tasks() -> list[str]:
            async with AsyncClient(targets, model="digits", timeout=1) as client:
                return [await awaited_outcome_of(client.status) for _ in range(3)]

        outcomes = asyncio.run(ask_in_tasks()) if asynchronous else ask()
    assert outcomes == ["DEADLINE_EXCEEDED", "answered", "answered"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_address_of_a_name_that_hangs_is_left_too(server: Any, asynchronous: bool, monkeypatch: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        port = int(server.grpc.rpartition(":")[2])
        ports = [hanging.getsockname()[1], port]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", each)) for each in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        target = f"dns:///replicas.test:{port}"

        def ask() -> list[str]:
            with Client(target, model="digits", timeout=1) as client:
                return [outcome_of(client.status) for _ in range(5)]

        async def ask_in_tasks() -> list[str]:
            async with AsyncClient(target, model="digits", timeout=1) as client:
                return [await awaited_outcome_of(client.status) for _ in range(5)]

        outcomes = asyncio.run(ask_in_tasks()) if asynchronous else ask()
    assert outcomes.count("DEADLINE_EXCEEDED") == 1


def outcome_of(ask: Callable[[], object]) -> str:
    try:
        ask()
    except CallError as error:
        return error.code
    return "answered"


async def awaited_outcome_of(ask: Callable[[], Awaitable[object]]) -> str:
    try:
        await ask()
    except CallError as error:
        return error.code
    return "answered"
