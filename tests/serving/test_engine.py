"""Runs that are too long for the event loop: they go on side by side, and a failing one harms no other."""

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pytest
from glyph_serving.batching import Batcher
from glyph_serving.config import BatchingParameters
from glyph_serving.engine import Engine
from glyph_serving.handover import Handover
from glyph_serving.servable import Array, Arrays, Signature, TensorSpec
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework import dtypes

LIMIT = 64
ONE = [np.zeros(1, np.float32)]
FULL = [np.arange(LIMIT, dtype=np.float32)]


class Observer:
    """Looks away."""

    def queued(self, requests: Sequence[tuple[int, float]]) -> None:
        pass

    def ran(self, examples: int, padding: int, seconds: float) -> None:
        pass


def batcher(
    run: Callable[[Sequence[Array]], Arrays], engine: Engine, batch_timeout_micros: int = 0, is_only: bool = False
) -> Batcher:
    spec = {"x": TensorSpec("x", "x:0", dtypes.float32, (-1,))}
    signature = Signature("serving_default", meta_graph_pb2.SignatureDef(), spec, spec, run, True, False, False)
    return Batcher(
        signature,
        BatchingParameters(max_batch_size=LIMIT, batch_timeout_micros=batch_timeout_micros),
        engine,
        Observer(),
        lambda: is_only,
    )


def test_requests_that_fill_a_run_each_do_not_wait_for_one_another() -> None:
    two_at_once = threading.Barrier(2)
    runs: list[int] = []

    def run(arrays: Sequence[Array]) -> Arrays:
        runs.append(len(arrays[0]))
        if len(runs) in (2, 3):
            two_at_once.wait(timeout=20)  # BrokenBarrierError where one is not begun before the other has ended
        else:
            time.sleep(0.001)  # what one run is expected to take
        return [arrays[0]]

    async def ask(engine: Engine) -> list[Arrays]:
        batches = batcher(run, engine)
        await batches.run(FULL)  # from which it learns how long a run takes
        return await asyncio.gather(*(batches.run(FULL) for _ in range(9)))

    answers = asyncio.run(ask(Engine(2, Handover())))
    assert runs == [LIMIT] * 10
    for answer in answers:
        np.testing.assert_array_equal(answer[0], FULL[0])


@pytest.fixture(autouse=True)
def _two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many runs go on at once where nothing is said of it."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


@pytest.mark.parametrize(("seconds", "stays"), [(0.0, True), (0.002, False)])
def test_a_request_that_is_alone_keeps_the_event_loop_only_if_it_is_quick(seconds: float, stays: bool) -> None:
    threads: list[int] = []
    model = seconds_for(lambda _: seconds)

    def run(arrays: Sequence[Array]) -> Arrays:
        threads.append(threading.get_ident())
        return model(arrays)

    async def ask(engine: Engine) -> None:
        an_hour = 3_600_000_000  # for which a request that is alone has not to wait either
        batches = batcher(run, engine, an_hour, is_only=True)
        for _ in range(5):  # from which it learns how long a run takes; any may be disturbed
            await asyncio.wait_for(batches.run(ONE), 20)

    asyncio.run(ask(Engine(2, Handover())))
    assert (threads[-1] == threading.get_ident()) is stays


def test_requests_that_come_at_once_are_shared_among_the_threads() -> None:
    two_at_once = threading.Barrier(2)
    runs: list[int] = []

    def run(arrays: Sequence[Array]) -> Arrays:
        runs.append(len(arrays[0]))
        if len(runs) > 1:
            two_at_once.wait(timeout=20)
        else:
            time.sleep(0.02)
        return [arrays[0]]

    async def ask(engine: Engine) -> None:
        batches = batcher(run, engine)
        await batches.run(ONE)
        await asyncio.gather(*(batches.run(ONE) for _ in range(4)))

    asyncio.run(ask(Engine(2, Handover())))
    assert runs == [1, 2, 2]


def test_a_run_that_ends_with_an_unforeseen_error_ends_its_requests_and_no_others() -> None:
    def run(arrays: Sequence[Array]) -> Arrays:
        time.sleep(0.001)
        if arrays[0][0] < 0:
            raise MemoryError("no room")
        return [arrays[0]]

    async def ask(engine: Engine) -> list[Arrays | BaseException]:
        batches = batcher(run, engine)
        await batches.run(FULL)
        requests = [FULL, [FULL[0] - LIMIT], FULL]
        return await asyncio.gather(*(batches.run(request) for request in requests), return_exceptions=True)

    first, failed, last = asyncio.run(ask(Engine(2, Handover())))
    assert isinstance(failed, MemoryError)
    for answer in (first, last):
        np.testing.assert_array_equal(cast("Arrays", answer)[0], FULL[0])


@pytest.mark.parametrize("seconds", [0, 0.001], ids=["on the event loop", "on the engine"])
def test_a_request_that_does_not_take_its_result_harms_no_other(seconds: float) -> None:
    results: list[Arrays | Exception] = []

    def refuse(_result: Arrays | Exception) -> None:
        raise RuntimeError("not mine")

    async def ask() -> None:
        batches = batcher(seconds_for(lambda _examples: seconds), Engine(2, Handover()))
        await batches.run(FULL)
        for done in (refuse, results.append, refuse, results.append):
            batches.submit(FULL, batches.admit(FULL), float("inf"), [time.monotonic()], done)
        await asyncio.wait_for(batches.run(FULL), 20)
        closing = threading.Thread(target=batches.close, daemon=True)  # waits for all runs
        closing.start()
        await asyncio.to_thread(closing.join, 20)
        assert not closing.is_alive()

    asyncio.run(ask())
    assert len(results) == 2


def test_an_idle_thread_keeps_nothing_of_its_last_work() -> None:
    class Model:
        def run(self) -> None:
            pass

    engine, ended = Engine(1, Handover()), threading.Event()
    model = Model()
    gone = weakref.ref(model, lambda _: ended.set())
    engine.submit(model.run)
    del model
    assert ended.wait(20)
    assert gone() is None


def seconds_for(seconds: Callable[[int], float]) -> Callable[[Sequence[Array]], Arrays]:
    """A model that takes so long for a number of examples."""

    def run(arrays: Sequence[Array]) -> Arrays:
        time.sleep(seconds(len(arrays[0])))
        return [arrays[0]]

    return run


@pytest.mark.parametrize(
    ("seconds", "together", "enough"),
    [
        (lambda examples: 0.00015 * examples, 16, 16),  # as cheap in small runs: the next one begins the sooner
        (lambda examples: 0.002 + 0.000001 * examples, LIMIT, LIMIT),  # where the run itself costs, as many as may be
        (lambda examples: 0.001 * examples, 1, 4),  # too heavy for the event loop: some, so that threads wake at once
    ],
)
def test_as_many_requests_run_together_as_are_worth_it(
    seconds: Callable[[int], float], together: int, enough: int
) -> None:
    async def ask(engine: Engine) -> tuple[int, int]:
        batches = batcher(seconds_for(seconds), engine)
        for size in (1, 16, 32, LIMIT) * 5:  # more than once, as any run may be disturbed
            await batches.run([np.zeros(size, np.float32)])
        one = batches.admit(ONE)
        return batches.most_together(one), batches.enough(one)

    assert asyncio.run(ask(Engine(2, Handover()))) == (together, enough)


def submit(batches: Batcher, values: list[float], results: list[Arrays | Exception]) -> None:
    """Submits several requests of one example as one."""
    since = [time.monotonic()] * len(values)
    batches.submit([np.array(values, np.float32)], batches.admit(ONE), float("inf"), since, results.append)


def test_requests_that_were_joined_run_at_once() -> None:
    async def ask(engine: Engine) -> None:
        results: list[Arrays | Exception] = []
        submit(batcher(lambda arrays: [arrays[0] + 1], engine), [1, 2], results)
        assert [cast("Arrays", result)[0].tolist() for result in results] == [[2, 3]]

    asyncio.run(ask(Engine(2, Handover())))


def test_requests_that_were_joined_wait_where_a_time_out_asks_for_it() -> None:
    runs: list[int] = []

    def run(arrays: Sequence[Array]) -> Arrays:
        runs.append(len(arrays[0]))
        return [arrays[0]]

    async def ask(engine: Engine) -> None:
        results: list[Arrays | Exception] = []
        batches = batcher(run, engine, batch_timeout_micros=20_000)
        submit(batches, [1, 2], results)
        assert not results
        await batches.run(ONE)
        assert len(results) == 1

    asyncio.run(ask(Engine(2, Handover())))
    assert runs == [3]


def test_outputs_of_another_size_than_the_joined_inputs_are_refused() -> None:
    async def ask(engine: Engine) -> None:
        results: list[Arrays | Exception] = []
        submit(batcher(lambda arrays: [arrays[0][:1]], engine), [1, 2], results)
        assert "does not equal the sum" in str(results[0])

    asyncio.run(ask(Engine(2, Handover())))
