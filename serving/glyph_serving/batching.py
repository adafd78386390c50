"""Batching without a timer: what waits while the model is busy runs together as soon as it is free.

A request that finds everything idle runs at once. A run that takes little time for each of its requests stays on the
event loop: another thread would cost more than it brings. It takes no more of them than make it worth its while: the
answers of one run, and the requests that follow them, travel while the next one goes on. Heavier runs, be they of one
request that is alone, go to engine threads, several at once: on the event loop the next request could not even be
seen. Their results are handed on from there: to wake the loop costs more than an answer.
"""

import asyncio
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from glyph_serving.config import BatchingParameters
from glyph_serving.durations import Durations
from glyph_serving.engine import Engine
from glyph_serving.errors import Code, ServingError, UnloadedError, invalid_argument
from glyph_serving.log import LOGGER
from glyph_serving.servable import Array, Arrays, Signature

_INLINE_SECONDS = 0.010  # the longest expected run that may hold up the event loop
_INLINE_SECONDS_A_REQUEST = 0.00025  # what handing a run to another thread costs, and its answers back
_INLINE_EXAMPLES = 16  # the fewest at which a run on the event loop stops, while others wait
_ENOUGH_FOR_ENGINE = 4  # requests; to wake its threads for each by itself costs more than the wait for so many
_WORTH_A_RUN = 2  # times what the quickest run takes: as long does it take at the least


class BatchObserver(Protocol):
    """Whoever wants to know about runs (the metrics)."""

    def queued(self, requests: Sequence[tuple[int, float]]) -> None:
        """A run of requests begins: of how many examples each is, and how many seconds it has waited."""

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


Done = Callable[[Arrays | Exception], None]


@dataclass(slots=True, eq=False)
class _Task:
    arrays: Sequence[Array]
    size: int
    alone: bool
    deadline: float
    done: Done
    since: Sequence[float]  # one for each of its requests


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
        engine: Engine,
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
        self._waiting_requests = 0
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
        sizes = self._parameters.allowed_batch_sizes or [2**power for power in range(self._run_limit.bit_length())]
        self._run_sizes = [size for size in sizes if _INLINE_EXAMPLES <= size < self._run_limit]
        self._inline_limit = self._run_limit

    @property
    def queue_depth(self) -> int:
        """How many requests wait for a run."""
        return self._waiting_requests

    def run(self, arrays: Sequence[Array], deadline: float = float("inf")) -> asyncio.Future[Arrays]:
        """Runs the signature on a request's inputs, together with whatever else is waiting.

        Args:
            arrays: The inputs in the order of ``signature.inputs``.
            deadline: The ``time.monotonic()`` after which nobody wants the answer.

        Returns:
            What will be the outputs in the order of ``signature.outputs``; ServingError, or whatever else the run ends
            with, in their place.

        Raises:
            ServingError: What is wrong with the request.
        """
        future: asyncio.Future[Arrays] = asyncio.get_running_loop().create_future()
        done = _on_this_thread(partial(_resolve, future))
        self.submit(arrays, self.admit(arrays), deadline, (time.monotonic(),), done)
        return future

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
        if not size:  # for which the genuine server would never answer
            raise invalid_argument("The batch is empty, and a model that gathers batches runs none. Send an example")
        # What does not fit the signature runs by itself, so that it cannot spoil a run for others.
        return Admission(size, not fits)

    def most_together(self, admission: Admission) -> int:
        """How many requests so admitted to submit as one: what a run on the event loop takes; 1 if theirs is none."""
        if admission.alone:
            return 1
        most = self._inline_limit // admission.size
        return most if most > 1 and self._stays_here(most, most * admission.size) else 1

    def enough(self, admission: Admission) -> int:
        """How many requests so admitted need not wait for others that are about to come."""
        most = self.most_together(admission)
        return most if most > 1 or self._stays_here(1, admission.size) else _ENOUGH_FOR_ENGINE

    def submit(
        self, arrays: Sequence[Array], admission: Admission, deadline: float, since: Sequence[float], done: Done
    ) -> None:
        """As ``run``, for a request that was admitted, or several whose inputs were joined.

        Args:
            arrays: The inputs in the order of ``signature.inputs``.
            admission: What ``admit`` says of each request's.
            deadline: The ``time.monotonic()`` after which nobody wants the answer.
            since: The ``time.monotonic()`` from which each request has waited.
            done: Is given the outputs or an error, on whatever thread the run ended, perhaps before this returns.

        Raises:
            UnloadedError: The version is being unloaded; ``done`` will not be called.
            ServingError: What else is wrong; ``done`` will not be called.
        """
        size, alone = admission.size * len(since), admission.alone
        if size > self._run_limit and not alone:
            self._run_in_pieces(arrays, size, deadline, done)
            return
        task = _Task(arrays, size, alone, deadline, done, since)
        if self._begins_at_once(task):
            done(self._run_at_once(task))
        else:
            self._enqueue(task)

    def close(self) -> None:
        """Refuses further requests and waits until those accepted are answered."""
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._waiting and not self._running)

    def _run_in_pieces(self, arrays: Sequence[Array], size: int, deadline: float, done: Done) -> None:
        """Runs a request that is too large for one run."""
        pieces = [slice(start, start + self._run_limit) for start in range(0, size, self._run_limit)]
        results: dict[int, Arrays | Exception] = {}

        def piece_done(number: int, result: Arrays | Exception) -> None:
            results[number] = result
            if len(results) == len(pieces):
                done(_joined([results[number] for number in range(len(pieces))]))

        since = (time.monotonic(),)
        for number, piece in enumerate(pieces):
            part = [array[piece] for array in arrays]
            part_done = _on_this_thread(partial(piece_done, number))
            self._enqueue(_Task(part, len(part[0]), False, deadline, part_done, since))

    def _begins_at_once(self, task: _Task) -> bool:
        """Whether a task runs here and now, without a queue, as it finds everything idle; if so, it is counted."""
        gathered = len(task.since) > 1 and not self._parameters.batch_timeout_micros
        if self._waiting or not (gathered or self._is_only()):
            return False
        if not self._stays_here(len(task.since), task.size):
            return False
        with self._lock:
            if self._closed or self._running or self._waiting:
                return False
            self._running = 1
        return True

    def _run_at_once(self, task: _Task) -> Arrays | Exception:
        self._observer.queued(_waits([task], time.monotonic()))
        try:
            return self._run_one(task)
        except Exception as error:  # noqa: BLE001 (whatever it is, its requests must end with it)
            return error
        finally:
            with self._lock:
                self._finish()

    def _enqueue(self, task: _Task) -> None:
        limits = self._parameters
        with self._lock:
            if self._closed:
                raise UnloadedError
            if self._waiting and self._waiting_examples + task.size > self._most_batches * limits.max_batch_size:
                raise ServingError(
                    Code.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is full; currently "
                    f"{-(-self._waiting_examples // limits.max_batch_size)} batches enqueued and "
                    f"max_enqueued_batches is {self._most_batches}",
                )
            self._waiting.append(task)
            self._waiting_requests += len(task.since)
            self._waiting_examples += task.size
            self._waiting_alone += task.alone
            if not self._scheduled and (not self._running or self._running < self._run_slots()):
                self._schedule()

    def _schedule(self) -> None:
        """Has the next run begin: now, or when the time-out that was asked for has passed. The lock is held."""
        loop = asyncio.get_running_loop()
        timeout = self._parameters.batch_timeout_micros / 1e6
        if not timeout or self._waiting_examples >= self._run_limit or self._waiting_alone or self._is_only():
            if not self._scheduled:
                self._scheduled = True
                loop.call_soon(self._start)
        elif not self._timed:
            self._timed = True
            loop.call_later(timeout, self._start)

    def _run_slots(self) -> int:
        """How many runs may go on at once: one when they block the event loop anyway."""
        if self._stays_here(self._waiting_requests, self._waiting_examples):
            return 1
        return self._threads

    def _worth_a_run(self) -> int:
        """The examples at which a run on the event loop stops: where they are no longer cheaper by the dozen."""
        enough = _WORTH_A_RUN * self._durations.least
        return next((size for size in self._run_sizes if self._durations.expect(size) >= enough), self._run_limit)

    def _stays_here(self, requests: int, examples: int) -> bool:
        """Whether a run of so much, or of what fits into one run, belongs on the event loop."""
        if examples > self._run_limit:
            requests, examples = max(1, requests * self._run_limit // examples), self._run_limit
        return self._durations.expect(examples) <= min(_INLINE_SECONDS, _INLINE_SECONDS_A_REQUEST * requests)

    def _start(self) -> None:
        """Begins a run, here on the event loop or on the engine."""
        with self._lock:
            self._scheduled = self._timed = False
            batch = self._take()
        if not batch:
            return
        if self._stays_here(sum([len(task.since) for task in batch]), sum([task.size for task in batch])):
            self._run(batch)
            with self._lock:
                self._finish()
        else:
            self._engine.submit(partial(self._run_on_engine, batch))
            with self._lock:
                if self._waiting and self._running < self._run_slots():
                    self._schedule()

    def _run_on_engine(self, batch: list[_Task]) -> None:
        """Runs batch after batch, until nothing waits any more."""
        while batch:
            self._run(batch)
            with self._lock:
                self._running -= 1
                batch = self._take()
                if not batch:
                    self._idle.notify_all()

    def _finish(self) -> None:
        self._running -= 1
        if self._waiting:
            self._schedule()
        elif not self._running:
            self._idle.notify_all()

    def _take(self) -> list[_Task]:
        """The next batch, counted as running: this run's share where others could begin too. The lock is held."""
        batch: list[_Task] = []
        examples = 0
        share = -(-len(self._waiting) // max(1, self._run_slots() - self._running))
        stays_here = self._stays_here(self._waiting_requests, self._waiting_examples)
        limit = self._inline_limit if stays_here else self._run_limit
        while self._waiting and len(batch) < share:
            task = self._waiting[0]
            if batch and (task.alone or batch[0].alone or examples + task.size > limit):
                break
            batch.append(self._waiting.popleft())
            examples += task.size
            self._waiting_requests -= len(task.since)
            self._waiting_examples -= task.size
            self._waiting_alone -= task.alone
        if batch:
            self._running += 1
        return batch

    def _run(self, batch: list[_Task]) -> None:
        now = time.monotonic()
        self._observer.queued(_waits(batch, now))
        if min([task.deadline for task in batch]) < now:
            late = ServingError(Code.DEADLINE_EXCEEDED, "The deadline passed while the request waited for the model")
            _deliver([(task, late) for task in batch if task.deadline < now])
            batch = [task for task in batch if task.deadline >= now]
        if batch:
            _deliver(self._results(batch))

    def _results(self, batch: list[_Task]) -> list[tuple[_Task, Arrays | Exception]]:
        """Runs a batch; where it fails, each of its tasks by itself, so that only the culprit gets the error."""
        try:
            if len(batch) == 1:
                return [(batch[0], self._run_one(batch[0]))]
            sizes = [task.size for task in batch]
            outputs = self._run_together([task.arrays for task in batch], sum(sizes))
            starts = itertools.accumulate(sizes, initial=0)
            return [
                (task, [output[start : start + task.size] for output in outputs])
                for task, start in zip(batch, starts, strict=False)
            ]
        except Exception as error:  # noqa: BLE001 (whatever it is, its requests must end with it)
            if len(batch) == 1:
                return [(batch[0], error)]
            return [result for task in batch for result in self._results([task])]

    def _run_one(self, task: _Task) -> Arrays:
        if task.alone:
            return self._call(task.arrays, task.size, 0)
        if self._parameters.allowed_batch_sizes:
            return [output[: task.size] for output in self._run_together([task.arrays], task.size)]
        outputs = self._call(task.arrays, task.size, 0)
        if len(task.since) > 1:
            _check_batched(outputs, task.size)
        return outputs

    def _run_together(self, tasks: Sequence[Sequence[Array]], examples: int) -> Arrays:
        """Runs several tasks' inputs at once, padded to an allowed size; the outputs, padding included."""
        padding = next((s for s in self._parameters.allowed_batch_sizes if s >= examples), examples) - examples
        feeds = []
        for parts in zip(*tasks, strict=True):
            pieces = list(parts)
            if padding:
                pieces.append(np.repeat(pieces[0][:1], padding, axis=0))
            try:
                feeds.append(np.concatenate(pieces))
            except ValueError as error:
                raise ServingError(Code.FAILED_PRECONDITION, f"Requests of different shapes: {error}") from None
        outputs = self._call(feeds, examples, padding)
        _check_batched(outputs, examples + padding)
        return outputs

    def _call(self, feeds: Sequence[Array], examples: int, padding: int) -> Arrays:
        began = time.perf_counter()
        outputs = self._signature.run(feeds)
        seconds = time.perf_counter() - began
        self._durations.add(examples + padding, seconds)
        if examples > 1:
            self._inline_limit = self._worth_a_run()
        self._observer.ran(examples, padding, seconds)
        return outputs


def _waits(batch: Sequence[_Task], now: float) -> list[tuple[int, float]]:
    """Of each request in a batch, the examples and the seconds that it has waited."""
    return [(task.size // len(task.since), now - since) for task in batch for since in task.since]


def _check_batched(outputs: Arrays, examples: int) -> None:
    """Raises FAILED_PRECONDITION for outputs that are not of so many examples."""
    if any(output.ndim == 0 or len(output) != examples for output in outputs):
        raise ServingError(
            Code.FAILED_PRECONDITION,
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
            "tensors",
        )


def _joined(results: Sequence[Arrays | Exception]) -> Arrays | Exception:
    """The outputs of a request that ran in pieces; the first error if there is one."""
    pieces = []
    for result in results:
        if isinstance(result, Exception):
            return result
        pieces.append(result)
    return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


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


def _deliver(results: Sequence[tuple[_Task, Arrays | Exception]]) -> None:
    """Hands every result to its request."""
    for task, result in results:
        try:
            task.done(result)
        except Exception:  # noqa: BLE001 (it is the caller's own, and the others get theirs all the same)
            LOGGER.exception("a request was not answered")


def _on_this_thread(done: Done) -> Done:
    """What may be called on any thread and calls on this one, which runs an event loop."""
    loop, here = asyncio.get_running_loop(), threading.get_ident()

    def back(result: Arrays | Exception) -> None:
        if threading.get_ident() == here:
            done(result)
        else:
            loop.call_soon_threadsafe(done, result)

    return back


def _resolve(future: asyncio.Future[Arrays], result: Arrays | Exception) -> None:
    if future.done():
        return  # the caller has gone
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
