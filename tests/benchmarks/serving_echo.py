"""What the frameworks do without a model: both answer every Predict with the same message. For serving_bench.py.

As an ASGI application (`serving_echo:app`, run by pyvoy), and as a program (`serving_echo.py PORT ANSWER`) on grpc.aio;
ANSWER, or the environment variable ECHO_ANSWER, is the file with the answer.
"""

import asyncio
import os
import struct
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_ANSWER = Path(os.environ["ECHO_ANSWER"]).read_bytes() if "ECHO_ANSWER" in os.environ else b""
_FRAMED = struct.pack(">BI", 0, len(_ANSWER)) + _ANSWER


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """An ASGI application."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/grpc")]
    await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
    await send({"type": "http.response.body", "body": _FRAMED})
    await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]})


async def _serve(port: int, answer: bytes) -> None:
    async def predict(_request: bytes, _context: Any) -> bytes:
        return answer

    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(predict)
    service = grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": handler})
    server.add_generic_rpc_handlers((service,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2]).read_bytes()))
