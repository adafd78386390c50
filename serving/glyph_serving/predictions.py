"""Predict over gRPC: requests of a known kind that arrive together are answered together.

What is done once for all of them (finding the model, joining the inputs, running, encoding the answers, counting) costs
a fraction of doing it for each.
"""

import asyncio
import time

from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from glyph_serving import inference
from glyph_serving.arrivals import Arrivals
from glyph_serving.errors import UnloadedError
from glyph_serving.grpc_app import Call, awaited
from glyph_serving.harness import Loaded
from glyph_serving.lookalike import Kind, Lookalikes
from glyph_serving.manager import Manager
from glyph_serving.metrics import Metrics
from glyph_serving.request_log import RequestLogs
from glyph_serving.servable import Arrays

_API = ("Predict", "GRPC")  # as the metrics have it


class Predictions:
    """Answers Predict calls. All on one event loop.

    Args:
        manager: Knows the servables.
        metrics: Counts requests.
        logs: Where requests are logged.
        as_content: Whether tensors are answered as ``tensor_content``.

    Attributes:
        arrivals: To be told of every call on that event loop, whatever it asks for.
    """

    def __init__(self, manager: Manager, metrics: Metrics, logs: RequestLogs, as_content: bool) -> None:
        self._manager = manager
        self._metrics = metrics
        self._logs = logs
        self._as_content = as_content
        self._lookalikes = Lookalikes()
        self._parse_and_answer = awaited(self._parse_and_predict)
        self.arrivals = Arrivals(self._begin)
        self._calls: list[Call] = []  # those that wait
        self._enough = 1  # of them, not to wait for others that are about to come
        self._scheduled = False

    def take(self, call: Call) -> None:
        """Answers a call, together with those that have come and those that are about to."""
        self._calls.append(call)
        if len(self._calls) >= self._enough and not self._scheduled:
            self._begin()

    def _begin(self) -> None:
        """Answers those that wait: one that is alone at once, else after the announcements that have come meanwhile."""
        if len(self._calls) == 1:
            self._answer_waiting()
        elif self._calls and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._answer_waiting)

    def _answer_waiting(self) -> None:
        self._scheduled = False
        most = self._enough
        calls, self._calls = self._calls[:most], self._calls[most:]
        while calls:
            kind = self._lookalikes.find(calls[0].message)
            if kind is None:
                self._parse_and_answer(calls.pop(0))
            else:
                head, size = kind.head, len(calls[0].message)
                alike = [call for call in calls if len(call.message) == size and call.message.startswith(head)]
                self._answer_alike(kind, alike)
                calls = [call for call in calls if call not in alike] if len(alike) < len(calls) else []
        if self._calls and (len(self._calls) >= most or not self.arrivals.expected):
            self._begin()

    def _answer_alike(self, kind: Kind, calls: list[Call]) -> None:
        try:
            loaded = kind.servable(self._manager)
        except Exception as error:  # noqa: BLE001 (whatever goes wrong, the callers hear of it)
            self._fail(kind, calls, error)
            return
        if loaded is None:
            for call in calls:
                self._parse_and_answer(call)
            return
        most = kind.most_together(loaded)
        self._enough = kind.enough(loaded)
        for start in range(0, len(calls), most):
            self._submit(kind, loaded, calls[start : start + most])

    def _submit(self, kind: Kind, loaded: Loaded, calls: list[Call]) -> None:
        loop = asyncio.get_running_loop()

        def done(result: Arrays | Exception) -> None:
            if not isinstance(result, Exception):
                self._answer(kind, loaded, calls, result)
            elif len(calls) == 1:
                self._fail(kind, calls, result)
            else:  # each by itself, so that only the culprit gets the error
                for call in calls:
                    loop.call_soon_threadsafe(self._submit, kind, loaded, [call])

        deadline = max([call.deadline for call in calls])
        try:
            kind.submit(loaded, [call.message for call in calls], deadline, [call.since for call in calls], done)
        except UnloadedError:
            for call in calls:
                self._parse_and_answer(call)
        except Exception as error:  # noqa: BLE001 (whatever goes wrong, the callers hear of it)
            done(error)

    def _answer(self, kind: Kind, loaded: Loaded, calls: list[Call], outputs: Arrays) -> None:
        try:
            answers = inference.responses(loaded.servable, kind.signature_name, outputs, len(calls), self._as_content)
            if self._logs.has(kind.name):
                for call, answer in zip(calls, answers, strict=True):
                    self._log(kind.name, call.message, answer)
        except Exception as error:  # noqa: BLE001 (whatever goes wrong, the callers hear of it)
            self._fail(kind, calls, error)
            return
        now = time.monotonic()
        self._metrics.answers.add_all((kind.name, *_API), [now - call.since for call in calls])
        for call, answer in zip(calls, answers, strict=True):
            call.answer(answer)

    def _fail(self, kind: Kind, calls: list[Call], error: Exception) -> None:
        for call in calls:
            self._metrics.count_error(kind.name, error)
            call.fail(error)

    async def _parse_and_predict(self, payload: bytes, deadline: float) -> bytes:
        request = predict_pb2.PredictRequest.FromString(payload)
        with self._metrics.request(request.model_spec.name, *_API):
            answer = await inference.while_served(
                lambda: inference.predict(self._manager, request, self._as_content, deadline)
            )
        self._lookalikes.learn(payload, request)
        self._log(request.model_spec.name, payload, answer)
        return answer

    def _log(self, name: str, payload: bytes, answer: bytes) -> None:
        if log := self._logs.sample(name):
            entry = prediction_log_pb2.PredictionLog()
            entry.predict_log.request.ParseFromString(payload)
            entry.predict_log.response.ParseFromString(answer)
            entry.log_metadata.model_spec.CopyFrom(entry.predict_log.response.model_spec)
            log.add(entry)
