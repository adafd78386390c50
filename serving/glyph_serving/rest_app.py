"""TensorFlow Serving's REST API as an ASGI application."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar
from urllib.parse import unquote_to_bytes

from google.protobuf import json_format
from google.protobuf.message import Message as ProtoMessage
from tensorflow_serving.apis import classification_pb2, input_pb2, model_pb2, regression_pb2

from glyph_serving import classify, inference, json_answer
from glyph_serving.config import ServerConfig
from glyph_serving.cors import Cors, is_preflight
from glyph_serving.errors import Code, ServingError, error_page, invalid_argument
from glyph_serving.fleet import Fleet
from glyph_serving.gate import Gate, Headers, Live, Receive, Send, TooLargeError, request_id
from glyph_serving.harness import Loaded
from glyph_serving.health import Health
from glyph_serving.json_examples import parse_examples
from glyph_serving.json_predict import parse_predict
from glyph_serving.log import LOGGER
from glyph_serving.manager import Manager
from glyph_serving.metrics import Metrics
from glyph_serving.request_log import RequestLogs
from glyph_serving.servable import DEFAULT_SIGNATURE, Signature
from glyph_serving.unzip import MAX_UNZIPPED, unzip

_PREDICTION = re.compile(
    r"/v1/models/([^/:]+)(?:(?:/versions/([0-9]+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)", re.IGNORECASE
)
_STATUS = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:(?:/versions/([0-9]+))|(?:/labels/([^/:]+)))?(?:/(metadata))?", re.IGNORECASE
)
_API = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
_URI = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/?#]*(?:%[0-9A-Fa-f]{2}[A-Za-z0-9\-._~!$&'()*+,;=:@/?#]*)*")
_LARGE = 256 * 1024  # bytes; reading or writing so much JSON takes some 10 ms
_LONGEST_INT64 = 19  # digits
_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
_JSON: Headers = [(b"content-type", b"application/json")]
_HTML: Headers = [(b"content-type", b"text/html"), (b"connection", b"close")]
_PLAIN_HTML: Headers = [(b"content-type", b"text/html; charset=ISO-8859-1")]
_TEXT: Headers = [(b"content-type", b"text/plain")]


P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """What goes back to the caller."""

    status: int
    headers: Headers
    body: bytes


class RestApp:
    """Answers REST requests.

    Args:
        config: The checked configuration.
        manager: Knows the servables.
        fleet: Knows the other workers.
        health: Whether requests are taken.
        metrics: What is counted.
        logs: Where requests are logged.
        gate: Counts and bounds requests.
        live: Answers ASGI's lifespan.
    """

    def __init__(
        self,
        config: ServerConfig,
        manager: Manager,
        fleet: Fleet,
        health: Health,
        metrics: Metrics,
        logs: RequestLogs,
        gate: Gate,
        live: Live,
    ) -> None:
        self._manager = manager
        self._fleet = fleet
        self._health = health
        self._metrics = metrics
        self._logs = logs
        self._gate = gate
        self._live = live
        self._metrics_path = config.metrics_path
        self._timeout = config.flags.rest_api_timeout_in_ms / 1000
        self._cors = Cors.from_flags(config.flags)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        in_flight, request = self._gate.in_flight, object()
        in_flight.add(request)
        try:
            answer = await self._answer(scope, receive)
            headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
            if self._cors is not None:
                headers += self._cors.headers(scope["headers"])
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": answer.body})
        finally:
            in_flight.discard(request)

    async def _answer(self, scope: Mapping[str, Any], receive: Receive) -> Answer:
        method = scope["method"]
        path = _path(scope)
        if method not in _METHODS:
            return Answer(501, _HTML, error_page(501).encode())
        if not _URI.fullmatch(path):
            return Answer(400, _HTML, error_page(400).encode())
        if path.partition("?")[0] == self._metrics_path:
            return await self._exposition(path)
        if path == "/healthz":
            return Answer(200, _TEXT, b"alive\n")
        if path == "/readyz":
            return await self._readiness()
        if not _API.fullmatch(path):
            with contextlib.suppress(TooLargeError):
                await self._gate.read(receive)
            return Answer(404, _HTML, error_page(404).encode())
        if method == "OPTIONS":
            return Answer(200 if is_preflight(scope["headers"]) else 400, _PLAIN_HTML, b"")
        try:
            if self._health.draining:
                raise ServingError(Code.UNAVAILABLE, "The server is shutting down")
            self._gate.check()
            body = await self._gate.read(receive)
            return Answer(200, _JSON, await self._process(method, path, body, scope["headers"]))
        except TooLargeError as error:
            return Answer(413, _JSON, json_answer.format_error(error.message))
        except ServingError as error:
            body = json_answer.format_error(error.message) if error.message else b""
            return Answer(error.code.http_status, _JSON, body)
        except Exception as error:  # noqa: BLE001 (whatever goes wrong with one request, the caller hears of it)
            LOGGER.exception("%s %s failed", method, path, extra={"request_id": request_id(scope["headers"])})
            return Answer(500, _JSON, json_answer.format_error(f"{type(error).__name__}: {error}"))

    async def _exposition(self, path: str) -> Answer:
        if path != self._metrics_path:  # with a query, as at the genuine server, it is another one
            return Answer(400, _TEXT, f"Unexpected path: {path}. Should be {self._metrics_path}".encode())
        return Answer(200, _TEXT, await self._fleet.exposition())

    async def _readiness(self) -> Answer:
        if self._health.draining:
            return Answer(503, _TEXT, b"draining\n")
        available = self._manager.available()
        lines = []
        for name in self._manager.model_names:
            versions = available.get(name)
            state = "version " + ", ".join(map(str, versions)) if versions else "not available"
            lines.append(f"{name}: {state}\n")
        return Answer(200 if await self._health.serving() else 503, _TEXT, "".join(lines).encode())

    async def _process(self, method: str, path: str, body: bytes, headers: Headers) -> bytes:
        if method == "POST" and (match := _PREDICTION.fullmatch(path)):
            name, version, label, verb = match.groups()
            spec = _model_spec(name, version, label)
            answers = {"predict": self._predict, "classify": self._classify, "regress": self._regress}
            if verb in answers:
                inflated = self._inflate(body, headers)
                with self._metrics.request(spec.name, verb, "REST"):
                    return await inference.while_served(lambda: answers[verb](spec, inflated))
        elif method == "GET" and (match := _STATUS.fullmatch(path)):
            name, version, label, metadata = match.groups()
            spec = _model_spec(name or "", version, label)
            if not name:
                raise invalid_argument("Missing model name in request.")
            if metadata == "metadata":  # Written otherwise, it is answered with the status, as by the genuine server.
                return self._metadata(spec)
            return _proto_json(await self._fleet.status(spec)).encode()
        raise invalid_argument(f"Malformed request: {method} {path}")

    async def _predict(self, spec: model_pb2.ModelSpec, body: bytes) -> bytes:
        found: list[Loaded] = []  # looked for only once the body has turned out to be JSON

        def find_signature(name: str) -> Signature:
            found.append(inference.find(self._manager, spec))
            signature = found[-1].servable.signatures.get(name or DEFAULT_SIGNATURE)
            if signature is None:
                raise invalid_argument(
                    f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def'
                )
            inference.check_method_name(signature)
            if not signature.inputs:
                raise invalid_argument(f"Failed to get input map for signature: {name or 'DEFAULT'}")
            return signature

        request = await _aside(len(body), parse_predict, body, find_signature)
        outputs = await found[-1].batchers[request.signature.name].run(request.arrays, self._deadline())
        if log := self._logs.sample(spec.name):
            spec.version.value = found[-1].servable.version
            spec.signature_name = request.signature.name
            log.add(inference.prediction_log(spec, request.signature, request.arrays, outputs))
        named = dict(zip(request.signature.outputs, outputs, strict=True))
        size = sum([output.nbytes for output in outputs])
        return await _aside(size, json_answer.format_predictions, named, request.row_format)

    async def _classify(self, spec: model_pb2.ModelSpec, body: bytes) -> bytes:
        examples = await _aside(len(body), self._parse_examples, spec, body)
        request = classification_pb2.ClassificationRequest(model_spec=spec, input=examples)
        response = await classify.classify(self._manager, request, self._deadline())
        self._metrics.count_examples(spec.name, len(response.result.classifications))
        self._logs.record(spec.name, "classify_log", request, response)
        return json_answer.format_classifications(response.result)

    async def _regress(self, spec: model_pb2.ModelSpec, body: bytes) -> bytes:
        examples = await _aside(len(body), self._parse_examples, spec, body)
        request = regression_pb2.RegressionRequest(model_spec=spec, input=examples)
        response = await classify.regress(self._manager, request, self._deadline())
        self._metrics.count_examples(spec.name, len(response.result.regressions))
        self._logs.record(spec.name, "regress_log", request, response)
        return json_answer.format_regressions(response.result)

    def _parse_examples(self, spec: model_pb2.ModelSpec, body: bytes) -> input_pb2.Input:
        """The examples of a request, the name of whose signature is put into the spec."""
        name, examples = parse_examples(body)
        try:
            spec.signature_name = name
        except UnicodeEncodeError:  # no signature's name is that
            inference.find(self._manager, spec)
            raise invalid_argument(f"No signature was found with the name: {name}") from None
        return examples

    def _inflate(self, body: bytes, headers: Headers) -> bytes:
        if not any(name == b"content-encoding" and b"gzip" in value for name, value in headers):
            return body
        limit = min(self._gate.max_message_bytes, MAX_UNZIPPED)
        try:
            return unzip(body, limit)
        except ValueError:
            return b""  # which is then refused as no JSON, as by the genuine server
        except OverflowError:
            raise TooLargeError(limit + 1, limit) from None

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout

    def _metadata(self, spec: model_pb2.ModelSpec) -> bytes:
        servable = inference.find(self._manager, spec).servable
        answered = model_pb2.ModelSpec(name=servable.name)
        answered.version.value = servable.version
        definitions = _proto_json(inference.signature_def_map(servable.signature_defs))
        text = f'{{\n"model_spec":{_proto_json(answered)},\n"metadata": {{"signature_def": {definitions}}}\n}}\n'
        return text.encode()


async def _aside(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function returns that works through so many bytes: on another thread where others would wait for it."""
    if size < _LARGE:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


def _path(scope: Mapping[str, Any]) -> str:
    """The request's path as sent, query string included: the genuine server takes it for a part of the path."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    if scope["query_string"]:
        raw += b"?" + scope["query_string"]
    return raw.decode("utf-8", "surrogateescape")


def _model_spec(name: str, version: str | None, label: str | None) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=_unquote(name))
    if version is not None:
        digits = version.lstrip("0") or "0"
        if len(digits) > _LONGEST_INT64 or int(digits) >= 2**63:
            raise invalid_argument("")  # the genuine server's answer has no body
        spec.version.value = int(digits)
    elif label is not None:
        spec.version_label = _unquote(label)
    return spec


def _unquote(text: str) -> str:
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")


def _proto_json(message: ProtoMessage) -> str:
    """A message as proto3 JSON with its field names kept and default values printed, as the genuine server does."""
    return json.dumps(
        json_format.MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True),
        indent=1,
    )
