"""A second attempt that is sent while the first one is still awaited."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from glyph_client import AsyncClient, Client, Retry

from tests.client.peers import Conversation, answers, framed
from tests.client.stand_ins import AVAILABLE, STATUS, answered, status_at


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_slow_answer_is_overtaken_by_a_second_attempt(grpc_stub: Any, asynchronous: bool) -> None:
    release = threading.Event()

    def slow(method: str, message: bytes, context: grpc.ServicerContext) -> bytes:
        release.wait(20)
        return b""

    slow_one, quick = grpc_stub(slow), grpc_stub(answered)
    targets = [slow_one.target, quick.target]
    try:
        if asynchronous:

            async def ask() -> Any:
                async with AsyncClient(targets, hedge_after=0.05) as client:
                    return await client.status(), await client.status()

            assert asyncio.run(ask()) == (AVAILABLE, AVAILABLE)
        else:
            client = Client(targets, hedge_after=0.05)
            assert client.status() == client.status() == AVAILABLE
    finally:
        release.set()
    if not asynchronous:
        client.close()
    assert len(slow_one.asked) == len(quick.asked) == 2


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_quick_answer_is_not_hedged(grpc_stub: Any, asynchronous: bool) -> None:
    stub = grpc_stub(answered)
    assert status_at(stub.target, asynchronous=asynchronous, hedge_after=30.0) == AVAILABLE
    assert len(stub.asked) == 1


def test_hedged_calls_do_not_wait_for_one_another(peer: Any) -> None:
    together = threading.Barrier(40)

    def script(conversation: Conversation) -> None:
        asked = conversation.request()
        together.wait(20)
        conversation.answer(asked, framed(STATUS))

    with (
        Client(peer(script).target, hedge_after=20.0, retry=Retry(1)) as client,
        ThreadPoolExecutor(together.parties) as pool,
    ):
        assert list(pool.map(lambda _: client.status(), range(together.parties))) == [AVAILABLE] * together.parties


def test_a_hedged_call_is_answered_in_a_forked_process(peer: Any) -> None:
    code = """
import os, sys
from glyph_client import Client
with Client(sys.argv[1], hedge_after=60, timeout=60) as client:
    client.status()
    child = os.fork()
    client.status()
    if child == 0:
        sys.exit()
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))
"""
    subprocess.run([sys.executable, "-c", code, peer(answers).target], check=True, timeout=15)
