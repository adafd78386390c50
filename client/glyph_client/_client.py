"""The client for threads."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
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
from glyph_client._errors import GlyphError
from glyph_client._flows import Attempt, Flow, Interceptor, Outcome, Pause, T, Work
from glyph_client._pictures import Group, Picture, in_groups
from glyph_client._retry import Retry
from glyph_client._threads import in_thread, settle, start
from glyph_client._transports import connect
from glyph_client._transports.base import TLS, Transport
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


class Client(BaseClient[Transport]):
    """Asks a model server; safe to use from several threads.

    Example:
        >>> with Client("localhost:8500") as client:
        ...     client.predict("seven.png").label
        '7'

    Args:
        target: `host:port` or `grpc://host:port`, `grpcs://`, `http://`, `https://`, or `dns:///name:port` for all
            addresses of a name in turn. Several, separated by commas or as a list, are tried in order when one fails.
        model: the model that calls ask unless they say otherwise.
        version: the version they ask; the newest if neither this nor `label` is given.
        label: the version label they ask, such as "stable".
        timeout: seconds for a whole call, retries included.
        retry: how failed calls are repeated.
        hedge_after: seconds after which a second attempt is sent beside one that has not answered; None means never.
        headers: sent with every request.
        api_key: sent as `x-api-key`.
        token: sent as `authorization: Bearer`.
        tls: certificates for grpcs:// and https://.
        compression: compress requests with gzip.
        interceptors: each attempt runs inside the context manager that each of these makes of it.
        transport: takes the place of `target`, for tests and unusual ways.

    Raises:
        TargetError: an address cannot be used.
        InputError: another parameter cannot.
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
        transport: Transport | None = None,
    ) -> None:
        options = make_options(headers, api_key, token, tls, compression=compression)
        spec = ModelSpec(model, version, label)
        super().__init__(connect, target, transport, options, spec, timeout, retry, hedge_after, interceptors)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; calls under way end with an error."""
        for transport in self._flows.replicas.all:
            transport.close()

    def predict(
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
        """Says what is drawn in a picture.

        Args:
            picture: a path, an image file's bytes, an open binary file, a PIL image or an array (see `preprocess`).
            server_side: send the file's bytes and let the server preprocess them.
            explain: keep the stages of preprocessing in the prediction's `explanation`.
            model: another model than the client's.
            version: another version.
            label: another version label.
            timeout: other seconds for the whole call.

        Raises:
            PictureError: the picture cannot be read, or has no ink.
            CallError: the call failed.
        """
        spec = self._flows.choose(model, version, label)
        deadline = self._deadline(timeout)
        return self._run(self._flows.predict(picture, spec, deadline, server_side=server_side, explain=explain))

    def predict_many(
        self,
        pictures: Iterable[Picture],
        *,
        server_side: bool = False,
        batch_size: int = BATCH_SIZE,
        concurrency: int = CONCURRENCY,
        model: str | None = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> Iterator[Outcome]:
        """Says what is drawn in each of many pictures, in order.

        Pictures are read ahead by `batch_size` times `concurrency` times 2 at most.

        Args:
            pictures: any iterable of pictures; an array [N, height, width] is one.
            server_side: send the files' bytes and let the server preprocess them.
            batch_size: pictures in one request.
            concurrency: requests under way at once.
            model: another model than the client's.
            version: another version.
            label: another version label.
            timeout: other seconds for each request.

        Yields:
            A prediction, or the error of that one picture.

        Raises:
            InputError: one picture in place of several, or a number below 1.
            CallError: a request failed for another reason than its pictures.
        """
        spec = self._flows.choose(model, version, label)
        check_many(pictures, batch_size=batch_size, concurrency=concurrency)
        seconds = self._seconds(timeout)
        groups = in_groups(pictures, batch_size)
        return self._predict_many(groups, spec, seconds, concurrency, server_side=server_side)

    def _predict_many(
        self, groups: Iterator[Group], spec: ModelSpec, timeout: float, concurrency: int, *, server_side: bool
    ) -> Iterator[Outcome]:
        pending: deque[Future[list[Outcome]]] = deque()
        calls: SimpleQueue[tuple[Future[list[Outcome]], Callable[[], list[Outcome]]] | None] = SimpleQueue()

        def work() -> None:
            while call := calls.get():
                settle(*call)

        try:
            for number, group in enumerate(groups):
                if number < concurrency:
                    start(work)
                flow = self._flows.predict_group(group, spec, timeout, server_side=server_side)
                pending.append(Future())
                calls.put((pending[-1], partial(self._run, flow)))
                if len(pending) >= 2 * concurrency:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            for _ in range(concurrency):
                calls.put(None)

    def call(
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
        """Asks any model anything.

        Args:
            inputs: arrays, or nested lists, by input name. An array must have the signature's type; in lists, bools
                may stand for integers and integers for floats, but floats for no integers.
            signature: which endpoint; `serving_default` if not given.
            model: another model than the client's.
            version: another version.
            label: another version label.
            output_filter: the outputs wanted; all if empty.
            timeout: other seconds for the whole call.

        Returns:
            Arrays by output name, read-only over gRPC; strings are objects of type bytes.

        Raises:
            InputError: the inputs do not fit the signature.
            CallError: the call failed.
        """
        spec = self._flows.choose(model, version, label, signature)
        return self._run(self._flows.call(inputs, spec, output_filter, self._deadline(timeout))).outputs

    def classify(
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
        """Asks a signature whose method is classify about examples, each a mapping of features.

        Returns:
            For each example its classes with their scores.

        Raises:
            InputError: a feature is neither bytes, text nor numbers.
            CallError: the call failed.
        """
        spec = self._flows.choose(model, version, label, signature)
        request = ClassifyRequest(spec, examples, context)
        return cast("ClassifyResponse", self._run(self._flows.exchange(request, self._deadline(timeout)))).results

    def regress(
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
        """Asks a signature whose method is regress about examples, each a mapping of features.

        Returns:
            float32 [N], one value for each example.

        Raises:
            InputError: a feature is neither bytes, text nor numbers.
            CallError: the call failed.
        """
        spec = self._flows.choose(model, version, label, signature)
        request = RegressRequest(spec, examples, context)
        return cast("RegressResponse", self._run(self._flows.exchange(request, self._deadline(timeout)))).values

    def status(self, model: str | None = None, *, timeout: float | None = None) -> list[VersionStatus]:
        """The versions of a model and their states, newest first.

        Raises:
            NotFound: the server has no such model.
            CallError: the call failed.
        """
        spec = replace(self._flows.choose(model, None, None), version=None, label=None)
        return self._run(self._flows.status(spec, self._deadline(timeout)))

    def metadata(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> dict[str, Signature]:
        """The signatures of a model by name.

        Raises:
            CallError: the call failed.
        """
        spec = self._flows.choose(model, version, label)
        return self._run(self._flows.metadata(spec, self._deadline(timeout))).signatures

    def models(self, *names: str, timeout: float | None = None) -> list[Model]:
        """Models with their versions and signatures; the client's own if none is named.

        TensorFlow Serving has no call that lists its models, so they must be named.

        Raises:
            NotFound: the server has no such model.
            CallError: the call failed.
        """
        return self._run(self._flows.models(names or (self._flows.spec.name,), self._deadline(timeout)))

    def reload_config(self, models: Sequence[ModelConfig], *, timeout: float | None = None) -> None:
        """Gives the server a new list of models in place of the old one (gRPC only); returns when they are loaded.

        Raises:
            CallError: the server refused it.
        """
        self._run(self._flows.exchange(ReloadRequest(models), self._deadline(timeout)))

    def wait_until_available(self, timeout: float = 60.0) -> list[VersionStatus]:
        """Waits until the client's model can answer.

        Returns:
            Its versions and their states, newest first.

        Raises:
            DeadlineExceeded: not within `timeout` seconds; says what was seen last.
        """
        return self._run(self._flows.wait_until_available(self._flows.spec, self._deadline(timeout)))

    def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                try:
                    outcome = self._perform(step)
                except GlyphError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as stop:
            return cast("T", stop.value)

    def _perform(self, step: Attempt[Transport] | Pause | Work) -> Any:
        if isinstance(step, Attempt):
            return self._send(step) if self._hedge_after is None else self._send_hedged(step)
        if isinstance(step, Work):
            return step.function()
        return time.sleep(step.seconds)

    def _send(self, attempt: Attempt[Transport]) -> Response:
        if not self._interceptors:
            return attempt.transport.send(attempt.request, timeout=attempt.timeout, headers=attempt.headers)
        with self._around(attempt):
            check_headers(attempt.headers)
            attempt.response = attempt.transport.send(attempt.request, timeout=attempt.timeout, headers=attempt.headers)
        return attempt.response

    def _send_hedged(self, attempt: Attempt[Transport]) -> Response:
        first = in_thread(partial(self._send, attempt))
        if wait([first], timeout=self._hedge_after).done:
            return first.result()
        second = in_thread(partial(self._send, self._hedge(attempt)))
        done, waiting = wait([first, second], return_when=FIRST_COMPLETED)
        # The first to succeed counts; if the first to end has failed, the other decides.
        winner = next((each for each in done if each.exception() is None), None) or next(iter(waiting or done))
        return winner.result()
