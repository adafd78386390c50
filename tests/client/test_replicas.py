"""Several servers behind one client: killed, and found by name."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from glyph_client import Client, VersionStatus
from glyph_client.protos import serving_pb2 as pb

MODELS = Path(__file__).resolve().parents[1] / "conformance" / "models"
THREADS, CALLS = 32, 20
STATUS = pb.GetModelStatusResponse(
    model_version_status=[pb.ModelVersionStatus(version=3, state=pb.ModelVersionStatus.AVAILABLE)]
).SerializeToString()


def test_a_replica_that_is_killed_under_load_costs_no_call(serve: Any, server: Any) -> None:
    flags = ("--model_name=half_plus_two", f"--model_base_path={MODELS / 'half_plus_two'}")
    with ExitStack() as stack:
        killed = stack.enter_context(serve(*flags))
        clients = [
            stack.enter_context(Client(targets, model="half_plus_two", timeout=60))
            for targets in ([killed.grpc, server.grpc], [killed.rest, server.rest])
        ]
        answered, under_load = itertools.count(1), threading.Event()

        def ask(thread: int) -> int:
            for number in range(CALLS):
                outputs = clients[thread % 2].call({"x": [[float(number)]]})
                assert outputs["y"].tolist() == [[number / 2 + 2]]
                if next(answered) >= THREADS * CALLS // 3:
                    under_load.set()
            return CALLS

        with ThreadPoolExecutor(THREADS) as callers:
            right = [callers.submit(ask, thread) for thread in range(THREADS)]
            assert under_load.wait(60)
            killed.running.process.kill()
            assert sum(each.result() for each in right) == THREADS * CALLS


class Names:
    """A name server that gives every name the addresses it is told."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = [socket.inet_aton(address) for address in addresses]
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._socket.getsockname())
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            query, asker = self._socket.recvfrom(512)
            if not query:
                return
            end = query.index(b"\0", 12) + 5  # The name, then its type and class.
            (kind,) = struct.unpack("!H", query[end - 4 : end - 2])
            found = self._addresses if kind == 1 else []
            head = query[:2] + struct.pack("!HHHHH", 0x8580, 1, len(found), 0, 0)
            answers = [b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + address for address in found]
            self._socket.sendto(head + query[12:end] + b"".join(answers), asker)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


@pytest.fixture
def names() -> Iterator[Callable[..., Names]]:
    """`names("127.0.0.1", "127.0.0.2")`: a name server."""
    with ExitStack() as stack:

        def start(*addresses: str) -> Names:
            server = Names(*addresses)
            stack.callback(server.close)
            return server

        yield start


def test_a_name_is_balanced_over_all_its_addresses(grpc_stub: Any, names: Callable[..., Names]) -> None:
    first = grpc_stub(lambda *_: STATUS)
    port = first.target.rpartition(":")[2]
    stubs = [first, *(grpc_stub(lambda *_: STATUS, address=f"127.0.0.{end}:{port}") for end in (2, 3))]
    server = names("127.0.0.1", "127.0.0.2", "127.0.0.3")
    with Client(f"dns://{server.address}/replicas.test:{port}") as client:
        while not all(stub.asked for stub in stubs):  # Connections come up one after the other.
            client.status()
        before = [len(stub.asked) for stub in stubs]
        for _ in range(30):
            assert client.status() == [VersionStatus(3, "AVAILABLE")]
    assert [len(stub.asked) - count for stub, count in zip(stubs, before, strict=True)] == [10, 10, 10]


def test_a_name_of_the_systems_is_found(grpc_stub: Any) -> None:
    stub = grpc_stub(lambda *_: STATUS)
    with Client(f"dns:///localhost:{stub.target.rpartition(':')[2]}") as client:
        assert client.status() == [VersionStatus(3, "AVAILABLE")]
    assert len(stub.asked) == 1
