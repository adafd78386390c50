"""The client for asyncio."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, cast

from glyph_client._base import (
    BATCH_SIZE,
    CONCURRENCY,
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT,
    BaseClient,
    check_headers,
    check_many,
    make_options,
)
from glyph_client._errors import GlyphError, InputError
from glyph_client._flows import Attempt, Flow, Interceptor, Outcome, Pause, T, Work
from glyph_client._pictures import Picture
from glyph_client._retry import Retry
from glyph_client._transports import connect_async
from glyph_client._transports.base import TLS, AsyncTransport
from glyph_client._types import (
    Array,
    Class,
    ClassifyRequest,
    ClassifyResponse,
    Example,
    Model,
    ModelConfig,
    ModelSpec,
    Prediction,
    RegressRequest,
    RegressResponse,
    ReloadRequest,
    Response,
    Signature,
    VersionStatus,
)


class AsyncClient(BaseClient[AsyncTransport]):
    """Asks a model server from one event loop, as `Client` does from threads: the same parameters and methods.

    It belongs to the event loop that it is first used in, and raises InputError in any other.

    Example:
        >>> async with AsyncClient("localhost:8500") as client:
        ...     (await client.predict("seven.png")).label
        '7'
    """

    def __init__(
        self,
        target: str | Sequence[str] = DEFAULT_TARGET,
        *,
        model: str = "digits",
        version: int | None = None,
        label: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        retry: Retry = Retry(),  # noqa: B008 (a frozen value)
        hedge_after: float | None = None,
        headers: Mapping[str, str] = {},
        api_key: str | None = None,
        token: str | None = None,
        tls: TLS | None = None,
        compression: bool = False,
        interceptors: Sequence[Interceptor] = (),
        transport: AsyncTransport | None = None,
    ) -> None:
        options = make_options(headers, api_key, token, tls, compression=compression)
        spec = ModelSpec(model, version, label)
        super().__init__(connect_async, target, transport, options, spec, timeout, retry, hedge_after, interceptors)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; calls under way end with an error."""
        self._check_loop()
        for transport in self._flows.replicas.all:
            await transport.close()

    async def predict(
        self,
        picture: Picture,
        *,
        server_side: bool = False,
        explain: bool = False,
        model: str | None = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Says what is drawn in a picture."""
        spec = self._flows.choose(model, version, label)
        deadline = self._deadline(timeout)
        return await self._run(self._flows.predict(picture, spec, deadline, server_side=server_side, explain=explain))

    def predict_many(
        self,
        pictures: Iterable[Picture] | AsyncIterable[Picture],
        *,
        server_side: bool = False,
        batch_size: int = BATCH_SIZE,
        concurrency: int = CONCURRENCY,
        model: str | None = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Outcome]:
        """Says what is drawn in each of many pictures, in order; they may come from an asynchronous iterable."""
        spec = self._flows.choose(model, version, label)
        check_many(pictures, batch_size=batch_size, concurrency=concurrency)
        seconds = self._seconds(timeout)
        return self._predict_many(_asynchronous(pictures), spec, seconds, server_side, batch_size, concurrency)

    async def _predict_many(
        self,
        pictures: AsyncIterator[Picture],
        spec: ModelSpec,
        timeout: float,
        server_side: bool,
        size: int,
        concurrency: int,
    ) -> AsyncIterator[Outcome]:
        pending: deque[asyncio.Task[list[Outcome]]] = deque()
        gate = asyncio.Semaphore(concurrency)

        async def ask(group: list[Picture]) -> list[Outcome]:
            async with gate:
                return await self._run(self._flows.predict_group(group, spec, timeout, server_side=server_side))

        try:
            while group := [each async for each in _first(pictures, size)]:
                pending.append(asyncio.create_task(ask(group)))
                if len(pending) >= 2 * concurrency:
                    for outcome in await pending.popleft():
                        yield outcome
            while pending:
                for outcome in await pending.popleft():
                    yield outcome
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def call(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str | None = None,
        model: str | None = None,
        version: int | None = None,
        label: str | None = None,
        output_filter: Sequence[str] = (),
        timeout: float | None = None,
    ) -> dict[str, Array]:
        """Asks any model anything."""
        spec = self._flows.choose(model, version, label, signature)
        return (await self._run(self._flows.call(inputs, spec, output_filter, self._deadline(timeout)))).outputs

    async def classify(
        self,
        examples: Sequence[Example],
        *,
        signature: str | None = None,
        context: Example | None = None,
        model: str | None = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> list[list[Class]]:
        """Asks a signature whose method is classify about examples, each a mapping of features."""
        spec = self._flows.choose(model, version, label, signature)
        request = ClassifyRequest(spec, examples, context)
        response = await self._run(self._flows.exchange(request, self._deadline(timeout)))
        return cast("ClassifyResponse", response).results

    async def regress(
        self,
        examples: Sequence[Example],
        *,
        signature: str | None = None,
        context: Example | None = None,
        model: str | None = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> Array:
        """Asks a signature whose method is regress about examples, each a mapping of features."""
        spec = self._flows.choose(model, version, label, signature)
        request = RegressRequest(spec, examples, context)
        response = await self._run(self._flows.exchange(request, self._deadline(timeout)))
        return cast("RegressResponse", response).values

    async def status(self, model: str | None = None, *, timeout: float | None = None) -> list[VersionStatus]:
        """The versions of a model and their states, newest first."""
        spec = replace(self._flows.choose(model, None, None), version=None, label=None)
        return await self._run(self._flows.status(spec, self._deadline(timeout)))

    async def metadata(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> dict[str, Signature]:
        """The signatures of a model by name."""
        spec = self._flows.choose(model, version, label)
        return (await self._run(self._flows.metadata(spec, self._deadline(timeout)))).signatures

    async def models(self, *names: str, timeout: float | None = None) -> list[Model]:
        """Models with their versions and signatures; the client's own if none is named."""
        return await self._run(self._flows.models(names or (self._flows.spec.name,), self._deadline(timeout)))

    async def reload_config(self, models: Sequence[ModelConfig], *, timeout: float | None = None) -> None:
        """Gives the server a new list of models in place of the old one (gRPC only); returns when they are loaded."""
        await self._run(self._flows.exchange(ReloadRequest(models), self._deadline(timeout)))

    async def wait_until_available(self, timeout: float = 60.0) -> list[VersionStatus]:
        """Waits until the client's model can answer."""
        return await self._run(self._flows.wait_until_available(self._flows.spec, self._deadline(timeout)))

    def _check_loop(self) -> None:
        running = asyncio.get_running_loop()
        self._loop = self._loop or running
        if self._loop is not running:
            raise InputError(
                "an AsyncClient belongs to the event loop that it was first used in, as its connections do. "
                "Received: a call in another one. Make a client for each."
            )

    async def _run(self, flow: Flow[T]) -> T:
        self._check_loop()
        try:
            step = next(flow)
            while True:
                try:
                    outcome = await self._perform(step)
                except GlyphError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as stop:
            return cast("T", stop.value)

    async def _perform(self, step: Attempt[AsyncTransport] | Pause | Work) -> Any:
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Work):
            return await asyncio.to_thread(step.function)
        return await (self._send(step) if self._hedge_after is None else self._send_hedged(step))

    async def _send(self, attempt: Attempt[AsyncTransport]) -> Response:
        with self._around(attempt):
            check_headers(attempt.headers)
            attempt.response = await attempt.transport.send(
                attempt.request, timeout=attempt.timeout, headers=attempt.headers
            )
        return attempt.response

    async def _send_hedged(self, attempt: Attempt[AsyncTransport]) -> Response:
        first = asyncio.create_task(self._send(attempt))
        tasks = [first]
        try:
            if (await asyncio.wait(tasks, timeout=self._hedge_after))[0]:
                return await first
            tasks.append(asyncio.create_task(self._send(self._hedge(attempt))))
            done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # The first to succeed counts; if the first to end has failed, the other decides.
            winner = next((each for each in done if each.exception() is None), None) or next(iter(waiting or done))
            return await winner
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _asynchronous(pictures: Iterable[Picture] | AsyncIterable[Picture]) -> AsyncIterator[Picture]:
    if isinstance(pictures, AsyncIterable):
        async for picture in pictures:
            yield picture
    else:
        for picture in pictures:
            yield picture


async def _first(pictures: AsyncIterator[Picture], count: int) -> AsyncIterator[Picture]:
    for _ in range(count):
        try:
            yield await anext(pictures)
        except StopAsyncIteration:
            return
