"""Servers that take a request and never answer it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from glyph_client import AsyncClient, CallError, Client

LATE = "DEADLINE_EXCEEDED"


def outcomes(targets: Any, *, asynchronous: bool) -> list[str]:
    """What becomes of five calls, one after the other: the code of the error, or that they are answered."""
    found: list[str] = []

    def ask() -> None:
        with Client(targets, model="digits", timeout=1) as client:
            for _ in range(5):
                try:
                    client.status()
                except CallError as error:
                    found.append(error.code)
                else:
                    found.append("answered")

    async def ask_in_a_task() -> None:
        async with AsyncClient(targets, model="digits", timeout=1) as client:
            for _ in range(5):
                try:
                    await client.status()
                except CallError as error:
                    found.append(error.code)
                else:
                    found.append("answered")

    if asynchronous:
        asyncio.run(ask_in_a_task())
    else:
        ask()
    return found


@pytest.mark.parametrize("kind", ["grpc", "rest"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_replica_that_hangs_costs_one_call_and_no_more(server: Any, kind: str, asynchronous: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # It accepts, and never answers.
        scheme = "http" if kind == "rest" else "grpc"
        targets = [f"{scheme}://127.0.0.1:{hanging.getsockname()[1]}", getattr(server, kind)]
        assert outcomes(targets, asynchronous=asynchronous) == [LATE] + 4 * ["answered"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_address_of_a_name_that_hangs_is_left_too(server: Any, asynchronous: bool, monkeypatch: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        ports = [hanging.getsockname()[1], int(server.grpc.rpartition(":")[2])]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        of_calls = outcomes("dns:///replicas.test:8500", asynchronous=asynchronous)
    assert sorted(of_calls) == [LATE] + 4 * ["answered"]
