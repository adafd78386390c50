"""The threads that hand events to an event loop: they interrupt it only where heavy runs keep the processors."""

import asyncio
import os
import queue
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from glyph_serving.engine import Engine
from glyph_serving.handover import Handover
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from tests.conftest import running_server
from tests.serving.conftest import ask, publish

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux has this way to schedule threads")
TIMEOUT = 20


class Thread:
    """Another thread, which hands events to a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while event := self._asked.get():
            self._loop.call_soon_threadsafe(event)

    @property
    def policy(self) -> int:
        """How it is scheduled."""
        assert self._thread.native_id is not None
        return os.sched_getscheduler(self._thread.native_id)

    async def hand_over(self) -> None:
        """Returns when an event has come through it."""
        taken = asyncio.Event()
        self._asked.put(taken.set)
        await asyncio.wait_for(taken.wait(), TIMEOUT)

    def end(self) -> None:
        self._asked.put(None)
        self._thread.join()


def with_two_threads(scenario: Callable[[Handover, Thread, Thread], Awaitable[None]]) -> None:
    """Runs a scenario in which a handover watches a loop to which two threads can hand events."""

    async def run() -> None:
        loop, handover = asyncio.get_running_loop(), Handover()
        threads = Thread(loop), Thread(loop)
        handover.watch(loop)
        try:
            await scenario(handover, *threads)
        finally:
            for thread in threads:
                thread.end()

    asyncio.run(run())


def test_the_first_thread_that_hands_over_an_event_waits_for_its_turn_and_no_other_does() -> None:
    async def scenario(_handover: Handover, first: Thread, second: Thread) -> None:
        assert first.policy == os.SCHED_OTHER
        for thread in (first, second, first):
            await thread.hand_over()
        assert first.policy == os.SCHED_BATCH
        assert second.policy == os.SCHED_OTHER
        assert os.sched_getscheduler(0) == os.SCHED_OTHER  # the loop's own

    with_two_threads(scenario)


def test_it_interrupts_others_during_heavy_runs() -> None:
    async def scenario(handover: Handover, first: Thread, _second: Thread) -> None:
        handover.run_begins()
        await first.hand_over()
        assert first.policy == os.SCHED_OTHER
        handover.run_begins()
        handover.run_ends()
        assert first.policy == os.SCHED_OTHER
        handover.run_ends()
        assert first.policy == os.SCHED_BATCH
        handover.run_begins()
        assert first.policy == os.SCHED_OTHER

    with_two_threads(scenario)


def test_engine_threads_tell_of_their_work_and_survive_it(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(handover: Handover, first: Thread, _second: Thread) -> None:
        policies: queue.SimpleQueue[int] = queue.SimpleQueue()

        def work() -> None:
            policies.put(first.policy)
            raise MemoryError("no room")

        engine = Engine(1, handover)
        await first.hand_over()
        for _ in range(2):
            engine.submit(work)
            assert await asyncio.to_thread(policies.get, timeout=TIMEOUT) == os.SCHED_OTHER

    with_two_threads(scenario)
    assert "no room" in caplog.text


def test_events_are_handed_over_where_threads_may_not_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    async def scenario(_handover: Handover, first: Thread, _second: Thread) -> None:
        await first.hand_over()
        assert first.policy == os.SCHED_OTHER

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with_two_threads(scenario)


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
