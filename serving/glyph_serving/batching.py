"""Batching without a timer: what waits while the model is busy runs together as soon as it is free.

A request that finds everything idle runs at once. A run that takes little time for each of its requests stays on the
event loop: another thread would cost more than it brings. Heavier ones go to engine threads, several at once, while the
loop goes on gathering and answering.
"""

import asyncio
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from glyph_serving.config import BatchingParameters
from glyph_serving.durations import Durations
from glyph_serving.errors import Code, ServingError, invalid_argument
from glyph_serving.servable import Array, Arrays, Signature

_INLINE_SECONDS = 0.010  # the longest expected run that may hold up the event loop
_INLINE_SECONDS_A_REQUEST = 0.00025  # what handing a run to another thread costs, and its answers back


class BatchObserver(Protocol):
    """Whoever wants to know about runs (the metrics)."""

    def queued(self, examples: Sequence[int], seconds: Sequence[float]) -> None:
        """Requests of so many examples each waited this long for their run to begin."""

    def ran(self, examples: int, padding: int, seconds: float) -> None:
        """A run of so many examples, padding not counted, took so long."""


@dataclass(slots=True, eq=False)
class Admission:
    """How a request has to run.

    Attributes:
        size: How many examples it brings.
        alone: Whether no other may run with it.
    """

    size: int
    alone: bool


@dataclass(slots=True, eq=False)
class Run:
    """What one run has answered, whatever the number of requests in it.

    Attributes:
        outputs: The outputs in the order of ``signature.outputs``, padding not included.
        singles: Whether each of its requests brought one example, and may share the run with others.
        answers: What to answer each of those, once somebody has encoded it: all at once cost a fraction.
    """

    outputs: Arrays
    singles: bool = False
    answers: list[bytes] | None = None


@dataclass(slots=True, eq=False)
class Share:
    """What a run has answered one of its requests.

    Attributes:
        run: The run.
        start: The first of its examples that is this request's.
        size: How many examples are; None: the run was this request's alone.
    """

    run: Run
    start: int = 0
    size: int | None = None

    def outputs(self) -> Arrays:
        """The outputs in the order of ``signature.outputs``."""
        if self.size is None:
            return self.run.outputs
        return [output[self.start : self.start + self.size] for output in self.run.outputs]


@dataclass(slots=True, eq=False)
class _Task:
    arrays: Sequence[Array]
    size: int
    alone: bool
    deadline: float
    future: asyncio.Future[Share]
    queued_at: float


class Batcher:
    """The queue in front of one signature of one servable. Its methods may be called on any event loop.

    Args:
        signature: What to run.
        parameters: How to gather requests; None: every request runs by itself.
        engine: Where heavy runs go.
        observer: Told about every run.
        is_only: Whether the request that is being looked at is the only one in the server, so that there is nothing to
            gather.
    """

    def __init__(
        self,
        signature: Signature,
        parameters: BatchingParameters | None,
        engine: Executor,
        observer: BatchObserver,
        is_only: Callable[[], bool],
    ) -> None:
        self._signature = signature
        self._gather = parameters is not None and signature.batched
        self._parameters = parameters or BatchingParameters()
        self._engine = engine
        self._observer = observer
        self._is_only = is_only
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._waiting: deque[_Task] = deque()
        self._waiting_examples = 0
        self._waiting_alone = 0
        self._running = 0
        self._scheduled = False
        self._timed = False
        self._closed = False
        self._durations = Durations()
        limits = self._parameters
        self._most_batches = limits.max_enqueued_batches or max(10, -(-1000 // limits.max_batch_size))
        self._threads = limits.num_batch_threads or os.cpu_count() or 1
        self._run_limit = limits.max_batch_size
        if limits.enable_large_batch_splitting and limits.max_execution_batch_size:
            self._run_limit = limits.max_execution_batch_size

    @property
    def queue_depth(self) -> int:
        """How many requests wait for a run."""
        return len(self._waiting)

    def run(self, arrays: Sequence[Array], deadline: float = float("inf")) -> Awaitable[Share]:
        """Runs the signature on a request's inputs, together with whatever else is waiting.

        Args:
            arrays: The inputs in the order of ``signature.inputs``.
            deadline: The ``time.monotonic()`` after which nobody wants the answer.

        Returns:
            What will be the answer; ServingError, or whatever else the run ends with, in its place.

        Raises:
            ServingError: What is wrong with the request.
        """
        return self.submit(arrays, self.admit(arrays), deadline)

    def admit(self, arrays: Sequence[Array]) -> Admission:
        """How a request with these inputs has to run, and all others with inputs of their data types and shapes.

        Raises:
            ServingError: What is wrong with the request.
        """
        size = _batch_size(arrays) if self._gather else 1
        fits = self._signature.fits(arrays)
        if not fits:
            self._signature.check(arrays)
        if not self._gather:
            return Admission(1, True)
        if size > self._parameters.max_batch_size:
            raise invalid_argument(
                f"Task size {size} is larger than maximum input batch size {self._parameters.max_batch_size}"
            )
        # What does not fit the signature runs by itself, so that it cannot spoil a run for others.
        return Admission(size, size == 0 or not fits)

    def submit(self, arrays: Sequence[Array], admission: Admission, deadline: float) -> Awaitable[Share]:
        """As ``run``, for a request that was admitted."""
        size, alone = admission.size, admission.alone
        if size > self._run_limit and not alone:
            return self._run_in_pieces(arrays, size, deadline)
        return self._run_at_once(arrays, size, alone) or self._enqueue(arrays, size, alone, deadline)

    def close(self) -> None:
        """Refuses further requests and waits until those accepted are answered."""
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._waiting and not self._running)

    async def _run_in_pieces(self, arrays: Sequence[Array], size: int, deadline: float) -> Share:
        """Runs a request that is too large for one run."""
        pieces = [slice(start, start + self._run_limit) for start in range(0, size, self._run_limit)]
        shares = await asyncio.gather(
            *(self._enqueue([a[piece] for a in arrays], len(arrays[0][piece]), False, deadline) for piece in pieces)
        )
        outputs = zip(*(share.outputs() for share in shares), strict=True)
        return Share(Run([np.concatenate(parts) for parts in outputs]))

    def _run_at_once(self, arrays: Sequence[Array], size: int, alone: bool) -> asyncio.Future[Share] | None:
        """Runs a request here and now, without a queue, if it finds everything idle; None if it does not.

        Raises:
            ServingError: What the run ended with.
        """
        if self._waiting or not self._is_only() or self._durations.expect(size) > _INLINE_SECONDS:
            return None
        with self._lock:
            if self._closed or self._running or self._waiting:
                return None
            self._running = 1
        self._observer.queued((size,), (0.0,))
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        try:
            if alone or not self._parameters.allowed_batch_sizes:
                future.set_result(self._run_alone(arrays, size))
            else:
                future.set_result(self._run_together([arrays], [size])[0])
        finally:
            with self._lock:
                self._finish(loop)
        return future

    def _enqueue(self, arrays: Sequence[Array], size: int, alone: bool, deadline: float) -> asyncio.Future[Share]:
        loop = asyncio.get_running_loop()
        task = _Task(arrays, size, alone, deadline, loop.create_future(), time.monotonic())
        limits = self._parameters
        with self._lock:
            if self._closed:
                raise ServingError(Code.UNAVAILABLE, "The model version is being unloaded. Try again")
            if self._waiting and self._waiting_examples + size > self._most_batches * limits.max_batch_size:
                raise ServingError(
                    Code.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is full; currently "
                    f"{-(-self._waiting_examples // limits.max_batch_size)} batches enqueued and "
                    f"max_enqueued_batches is {self._most_batches}",
                )
            self._waiting.append(task)
            self._waiting_examples += size
            self._waiting_alone += alone
            if not self._scheduled and self._running < self._run_slots():
                self._schedule(loop)
        return task.future

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Has the next run begin: now, or when the time-out that was asked for has passed. The lock is held."""
        timeout = self._parameters.batch_timeout_micros / 1e6
        if not timeout or self._waiting_examples >= self._run_limit or self._waiting_alone:
            if not self._scheduled:
                self._scheduled = True
                loop.call_soon(self._start, loop)
        elif not self._timed:
            self._timed = True
            loop.call_later(timeout, self._start, loop)

    def _run_slots(self) -> int:
        """How many runs may go on at once: one when they block the event loop anyway."""
        if self._stays_here(len(self._waiting), self._waiting_examples):
            return 1
        return self._threads

    def _stays_here(self, requests: int, examples: int) -> bool:
        """Whether a run of so much, or of what fits into one run, belongs on the event loop."""
        if examples > self._run_limit:
            requests, examples = max(1, requests * self._run_limit // examples), self._run_limit
        return self._durations.expect(examples) <= min(_INLINE_SECONDS, _INLINE_SECONDS_A_REQUEST * requests)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins a run, here on the event loop or on the engine."""
        with self._lock:
            self._scheduled = self._timed = False
            batch = self._take()
        if not batch:
            return
        if self._stays_here(len(batch), sum([task.size for task in batch])):
            self._run(batch)
            with self._lock:
                self._finish(loop)
        else:
            self._engine.submit(self._run_on_engine, batch)
            with self._lock:
                if self._waiting and self._running < self._run_slots():
                    self._schedule(loop)

    def _run_on_engine(self, batch: list[_Task]) -> None:
        """Runs batch after batch, until nothing waits any more."""
        while batch:
            self._run(batch)
            with self._lock:
                self._running -= 1
                batch = self._take()
                if not batch:
                    self._idle.notify_all()

    def _finish(self, loop: asyncio.AbstractEventLoop) -> None:
        self._running -= 1
        if self._waiting:
            self._schedule(loop)
        elif not self._running:
            self._idle.notify_all()

    def _take(self) -> list[_Task]:
        """The next batch, counted as running: this run's share where others could begin too. The lock is held."""
        batch: list[_Task] = []
        examples = 0
        share = -(-len(self._waiting) // max(1, self._run_slots() - self._running))
        while self._waiting and len(batch) < share:
            task = self._waiting[0]
            if batch and (task.alone or batch[0].alone or examples + task.size > self._run_limit):
                break
            batch.append(self._waiting.popleft())
            examples += task.size
            self._waiting_examples -= task.size
            self._waiting_alone -= task.alone
        if batch:
            self._running += 1
        return batch

    def _run(self, batch: list[_Task]) -> None:
        now = time.monotonic()
        self._observer.queued([task.size for task in batch], [now - task.queued_at for task in batch])
        if min([task.deadline for task in batch]) < now:
            late = ServingError(Code.DEADLINE_EXCEEDED, "The deadline passed while the request waited for the model")
            _deliver([(task, late) for task in batch if task.deadline < now])
            batch = [task for task in batch if task.deadline >= now]
        if batch:
            _deliver(self._results(batch))

    def _results(self, batch: list[_Task]) -> list[tuple[_Task, Share | Exception]]:
        """Runs a batch; where it fails, each of its requests by itself, so that only the culprit gets the error."""
        try:
            if len(batch) == 1 and (batch[0].alone or not self._parameters.allowed_batch_sizes):
                return [(batch[0], self._run_alone(batch[0].arrays, batch[0].size))]
            shares = self._run_together([task.arrays for task in batch], [task.size for task in batch])
            return list(zip(batch, shares, strict=True))
        except Exception as error:  # noqa: BLE001 (whatever it is, its requests must end with it)
            if len(batch) == 1:
                return [(batch[0], error)]
            return [result for task in batch for result in self._results([task])]

    def _run_alone(self, arrays: Sequence[Array], size: int) -> Share:
        return Share(Run(self._call(arrays, size, 0)))

    def _run_together(self, requests: Sequence[Sequence[Array]], sizes: Sequence[int]) -> list[Share]:
        """Runs several requests' inputs at once, padded to an allowed size; each one's share of the answer."""
        examples = sum(sizes)
        padding = next((s for s in self._parameters.allowed_batch_sizes if s >= examples), examples) - examples
        feeds = []
        for parts in zip(*requests, strict=True):
            pieces = list(parts)
            if padding:
                pieces.append(np.repeat(pieces[0][:1], padding, axis=0))
            try:
                feeds.append(np.concatenate(pieces))
            except ValueError as error:
                raise ServingError(Code.FAILED_PRECONDITION, f"Requests of different shapes: {error}") from None
        outputs = self._call(feeds, examples, padding)
        if any(output.ndim == 0 or output.shape[0] != examples + padding for output in outputs):
            raise ServingError(
                Code.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
                "tensors",
            )
        if padding:
            outputs = [output[:examples] for output in outputs]
        run = Run(outputs, singles=examples == len(sizes))
        starts = itertools.accumulate(sizes, initial=0)
        return [Share(run, start, size) for start, size in zip(starts, sizes, strict=False)]

    def _call(self, feeds: Sequence[Array], examples: int, padding: int) -> Arrays:
        began = time.perf_counter()
        outputs = self._signature.run(feeds)
        seconds = time.perf_counter() - began
        self._durations.add(examples + padding, seconds)
        self._observer.ran(examples, padding, seconds)
        return outputs


def _batch_size(arrays: Sequence[Array]) -> int:
    if len(arrays) == 1 and arrays[0].ndim:
        return len(arrays[0])
    shapes = [array.shape for array in arrays]
    if () in shapes:
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    sizes = {shape[0] for shape in shapes} or {0}
    if len(sizes) > 1:
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    return int(sizes.pop())


def _deliver(results: Sequence[tuple[_Task, Share | Exception]]) -> None:
    """Hands every result to its request, on the request's own event loop."""
    try:
        here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    elsewhere: dict[asyncio.AbstractEventLoop, list[tuple[_Task, Share | Exception]]] = {}
    for task, result in results:
        loop = task.future.get_loop()
        if loop is here:
            _resolve(task, result)
        else:
            elsewhere.setdefault(loop, []).append((task, result))
    for loop, theirs in elsewhere.items():
        loop.call_soon_threadsafe(_resolve_all, theirs)


def _resolve_all(results: Sequence[tuple[_Task, Share | Exception]]) -> None:
    for task, result in results:
        _resolve(task, result)


def _resolve(task: _Task, result: Share | Exception) -> None:
    if task.future.done():
        return  # the caller has gone
    if isinstance(result, Exception):
        task.future.set_exception(result)
    else:
        task.future.set_result(result)
