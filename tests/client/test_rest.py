"""Calls over REST: the connections that they take, and how they end."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from tests.client.stand_ins import REST_STATUS


def test_a_process_that_is_forked_opens_its_own_connections(rest_stub: Any) -> None:
    code = """
import os, sys
from glyph_client import CallError, Client
with Client(sys.argv[1], timeout=60) as client, Client(sys.argv[1]) as closed:
    client.status()
    closed.close()
    child = os.fork()
    if child == 0:
        client.status()
        try:
            closed.status()
        except CallError as error:
            sys.exit(error.code != "CANCELLED")
    _, status = os.waitpid(child, 0)
    client.status()
    sys.exit(os.waitstatus_to_exitcode(status))
"""
    stub = rest_stub(lambda *_: (200, REST_STATUS, {}))
    subprocess.run([sys.executable, "-c", code, stub.target], check=True)
    assert len(stub.asked) == 3
    assert len(stub.connections) == 2
