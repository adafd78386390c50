"""The fastest answer that Envoy and Python give together: always the same one. Run by pyvoy for loadtest_bench.py."""

from collections.abc import Awaitable, Callable
from typing import Any

from glyph_loadtest.protos import predict_pb2

_JSON = b'{"predictions": [{"label": "7"}]}'


def _message() -> bytes:
    answer = predict_pb2.PredictResponse()
    answer.outputs["label"].dtype = predict_pb2.DT_STRING
    answer.outputs["label"].tensor_shape.dim.add(size=1)
    answer.outputs["label"].string_val.append(b"7")
    message: bytes = answer.SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


_MESSAGE = _message()

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """An ASGI application."""
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    while (await receive()).get("more_body"):
        pass
    grpc = scope["path"].startswith("/tensorflow")
    kind = b"application/grpc" if grpc else b"application/json"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)], "trailers": grpc})
    await send({"type": "http.response.body", "body": _MESSAGE if grpc else _JSON})
    if grpc:
        await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]})
