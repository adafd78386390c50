"""The thread that hands events to an event loop: it does not interrupt the loop."""

import asyncio
import os
import threading
from pathlib import Path

import grpc
import pytest
from glyph_serving.handover import let_loop_finish_first
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from tests.conftest import running_server
from tests.serving.conftest import ask, publish

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux has this way to schedule threads")
TIMEOUT = 20


async def hand_over(loop: asyncio.AbstractEventLoop) -> int:
    """Has another thread hand two events to the loop; how that thread is scheduled afterwards."""
    taken = asyncio.Event()
    events = [lambda: None, taken.set]
    policies = []

    def work() -> None:
        for event in events:
            loop.call_soon_threadsafe(event)
        policies.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=work)
    thread.start()
    await asyncio.wait_for(taken.wait(), TIMEOUT)
    thread.join()
    return policies[0]


def test_the_first_thread_that_hands_over_an_event_waits_for_its_turn_and_no_other_does() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        let_loop_finish_first(loop)
        assert await hand_over(loop) == os.SCHED_BATCH
        assert await hand_over(loop) == os.SCHED_OTHER
        assert os.sched_getscheduler(0) == os.SCHED_OTHER

    asyncio.run(scenario())


def test_events_are_handed_over_where_threads_may_not_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        let_loop_finish_first(loop)
        assert await hand_over(loop) == os.SCHED_OTHER

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    asyncio.run(scenario())


def test_of_a_servers_threads_it_is_that_one_for_each_application_that_was_asked(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1)
    with running_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}") as server:
        threads = Path(f"/proc/{server.running.process.pid}/task")

        def that_wait() -> int:
            return [os.sched_getscheduler(int(thread.name)) for thread in threads.iterdir()].count(os.SCHED_BATCH)

        assert that_wait() == 0
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "m"
        with grpc.insecure_channel(server.grpc) as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            stub.GetModelStatus(request, timeout=TIMEOUT)
            stub.GetModelStatus(request, timeout=TIMEOUT)
        assert that_wait() == 1
        assert ask(server, "/v1/models/m")[0] == 200
        assert that_wait() == 2
