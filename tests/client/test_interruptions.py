"""Ctrl-C at any moment of a call: the next one is answered."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from glyph_client import Client

from tests.client.peers import answers, answers_in_json, listening
from tests.client.stand_ins import AVAILABLE


@contextmanager
def interrupted_at(moment: int) -> Iterator[None]:
    """KeyboardInterrupt at the so manieth moment in which one can come, in the client and the packages that it uses.

    Such moments are when a function begins, and when one that is not written in Python has returned.
    """
    moments = 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal moments
        is_ours = any(part in frame.f_code.co_filename for part in ("glyph_client", "site-packages"))
        if is_ours and event in {"call", "c_return"}:
            moments += 1
            if moments == moment:
                raise KeyboardInterrupt

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # A socket that nobody has yet is left to be collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["grpc", "rest"])
@pytest.mark.parametrize("calls_before", [0, 1])
def test_an_interruption_at_any_moment_costs_no_later_call(peer: Any, kind: str, calls_before: int) -> None:
    moment, interrupted = 0, True
    grpc = peer(answers).target
    with listening(answers_in_json) as rest:
        while interrupted:
            moment += 1
            with Client(grpc if kind == "grpc" else f"http://{rest}", timeout=20) as client:
                for _ in range(calls_before):
                    client.status()
                try:
                    with interrupted_at(moment):
                        client.status()
                    interrupted = False
                except KeyboardInterrupt:
                    pass
                assert client.status() == AVAILABLE
    assert moment > 50
