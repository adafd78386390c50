"""Several workers that look like one server: status, metrics and reloads hold for all of them.

Each worker is a process with its own interpreter and its own copy of the models; the kernel spreads connections over
them. Whichever is asked for what concerns all asks the others, over a UNIX socket each, and puts the answers together.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2, model_pb2, status_pb2

from glyph_serving import config as configuration
from glyph_serving import inference, workers
from glyph_serving.errors import Code, ServingError, invalid_argument
from glyph_serving.gate import Gate, Live, Receive, Send
from glyph_serving.harness import State, failure_error
from glyph_serving.manager import Manager
from glyph_serving.metrics import Metrics, add_expositions, first_samples

_READY, _STATUS, _METRICS, _RELOAD = "/ready", "/status", "/metrics", "/reload"
# The longest that a worker may take; a reload loads models.
_SECONDS = {_READY: 5.0, _STATUS: 5.0, _METRICS: 5.0, _RELOAD: 600.0}


class Fleet:
    """This worker and the others.

    Args:
        manager: This worker's.
        metrics: This worker's.
        others: The sockets of the other workers.
        live: Answers ASGI's lifespan.
    """

    def __init__(self, manager: Manager, metrics: Metrics, others: Sequence[Path], live: Live) -> None:
        self._manager = manager
        self._metrics = metrics
        self._others = others
        self._live = live
        self._gate = Gate(2**31 - 1, 0)

    async def ready(self) -> bool:
        """Whether every model that any worker is to serve has an available version in all of them."""
        others = [json.loads(answer) for answer in await self._ask(_READY, b"")]
        models = set(self._manager.model_names).union(*(one["configured"] for one in others))
        return all(
            models <= set(available) for available in (self._manager.available(), *(one["available"] for one in others))
        )

    async def status(self, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
        """The states of a model's versions: of each the least that any worker has reached.

        Raises:
            ServingError: NOT_FOUND if there is nothing to tell.
        """
        own = inference.status(self._manager, spec)
        for answer in await self._ask(_STATUS, spec.SerializeToString()):
            statuses = get_model_status_pb2.GetModelStatusResponse.FromString(answer).model_version_status
            theirs = {one.version: one for one in statuses}
            for one in own.model_version_status:
                other = theirs.get(one.version)
                if one.status.error_code:
                    continue
                if other is None:
                    if one.state != State.END:  # of which it may never hear
                        one.state = State.START
                elif other.status.error_code or other.state < one.state:
                    one.CopyFrom(other)
        return own

    async def exposition(self) -> bytes:
        """The metrics of all workers, added up, in Prometheus' text format."""
        return add_expositions([self._metrics.exposition(), *await self._ask(_METRICS, b"")])

    async def reload(
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replaces the list of models in all workers and waits until it is in effect.

        Returns:
            How much each of the metrics that are asked for has grown meanwhile.

        Raises:
            ServingError: What the first worker to refuse it says.
        """
        names = request.metric_names
        before = first_samples(await self.exposition(), names) if names else {}
        await asyncio.gather(self._reload_own(request), self._ask(_RELOAD, request.SerializeToString()))
        response = model_management_pb2.ReloadConfigResponse(status=status_pb2.StatusProto())
        for name, value in first_samples(await self.exposition(), before).items():
            response.metric.add(name=name, int64_value_increase=value - before[name])
        return response

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answers another worker, about this one alone."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = await self._gate.read(receive)
        status, answer = 200, b""
        try:
            if scope["path"] == _STATUS:
                answer = inference.status(self._manager, model_pb2.ModelSpec.FromString(body)).SerializeToString()
            elif scope["path"] == _READY:
                names = {"configured": self._manager.model_names, "available": list(self._manager.available())}
                answer = json.dumps(names).encode()
            elif scope["path"] == _METRICS:
                answer = self._metrics.exposition()
            else:
                await self._reload_own(model_management_pb2.ReloadConfigRequest.FromString(body))
        except ServingError as error:
            status, answer = 409, json.dumps([int(error.code), error.message]).encode()
        headers = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _reload_own(self, request: model_management_pb2.ReloadConfigRequest) -> None:
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        models = configuration.models_from_proto(request.config, self._manager.model_names)
        new = await asyncio.to_thread(self._manager.replace, models)
        workers.keep_models(request.config.SerializeToString(deterministic=True))
        if failures := await asyncio.to_thread(self._manager.wait_until_settled, new):
            raise failure_error("model", failures)

    async def _ask(self, path: str, body: bytes) -> list[bytes]:
        """What the other workers answer; one that is not there, for it starts anew, has nothing to say."""
        answers = await asyncio.gather(*(_post(socket, path, body) for socket in self._others))
        return [answer for answer in answers if answer is not None]


async def _post(socket: Path, path: str, body: bytes) -> bytes | None:
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return None
    try:
        head = f"POST {path} HTTP/1.1\r\nhost: worker\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        async with asyncio.timeout(_SECONDS[path]):
            answer = await reader.read()
    except (OSError, TimeoutError):
        return None
    finally:
        writer.close()
    head_end = answer.find(b"\r\n\r\n")
    status, content = answer[:head_end].split(b" ", 2)[1], answer[head_end + 4 :]
    if status == b"409":
        code, message = json.loads(content)
        if code == Code.NOT_FOUND and path == _STATUS:
            return b""  # it has not heard of the model yet
        raise ServingError(Code(code), message)
    return content
