"""A server whose behaviour is known: it speaks enough of TensorFlow Serving to be measured, and prints its two ports.

gRPC is the stock library's own asyncio server; REST is a few lines over asyncio's streams. Digits are recognised by
their pixels, which is cheating, and exactly right.
"""

import argparse
import asyncio
import base64
import json
import ssl
import time
from pathlib import Path
from urllib.parse import quote

import grpc
import numpy as np
from glyph_loadtest.digits import as_jpeg, known_digits
from glyph_loadtest.protos import predict_pb2

_DIGITS = known_digits()
_LABELS = {image.tobytes(): label for image, label in zip(_DIGITS.images, _DIGITS.labels, strict=True)}
_LABELS |= {as_jpeg(image): label for image, label in zip(_DIGITS.images, _DIGITS.labels, strict=True)}


class RefusalError(Exception):
    """A request that is answered by an error: the gRPC status, the HTTP status, the message."""


class Behaviour:
    """When and how a request is answered."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.requests = 0
        self.free_at = 0.0
        self.gathered = asyncio.Event()
        self.leaving = asyncio.Event()

    async def serve(self, model: str, images: list[bytes], api_key: str) -> list[str]:
        options = self.options
        if options.api_key not in ("", api_key):
            raise RefusalError("UNAUTHENTICATED", 401, "who asks?")
        self.requests += 1
        number = self.requests
        if number == options.leave_after:
            self.leaving.set()
        if model != options.model:
            raise RefusalError("NOT_FOUND", 404, f"Servable not found for request: Latest({model})")
        await self.wait()
        if options.error_every and number % options.error_every == 0:
            raise RefusalError("RESOURCE_EXHAUSTED", 429, "Server Threadpool Exhausted")
        labels = [] if options.no_labels else [_LABELS[image] for image in images]
        if options.wrong_every and number % options.wrong_every == 0:
            labels = [str((int(label) + 1) % 10) for label in labels]
        return labels

    async def wait(self) -> None:
        options, now = self.options, time.time()
        if self.requests == options.gather:
            self.gathered.set()
        if options.gather:
            await self.gathered.wait()
        until = now + options.delay
        if options.stall_every and now % options.stall_every < options.stall:
            until = now - now % options.stall_every + options.stall + options.delay
        if options.rate:
            self.free_at = max(now, self.free_at) + 1 / options.rate
            until = max(until, self.free_at)
        if until > now:
            await asyncio.sleep(until - now)


def read_tensor(tensor: predict_pb2.Tensor) -> list[bytes]:
    if tensor.dtype == predict_pb2.DT_STRING:
        return list(tensor.string_val)
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    dtype = "u1" if tensor.dtype == predict_pb2.DT_UINT8 else "<f4"
    values = np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    images = values if dtype == "u1" else np.round(values * 255).astype(np.uint8)
    return [image.tobytes() for image in images]


def read_json(instances: list[object]) -> list[bytes]:
    if isinstance(instances[0], dict):
        return [base64.b64decode(instance["b64"]) for instance in instances if isinstance(instance, dict)]
    values = np.array(instances, np.float64)
    scale = 255 if values.max() <= 1 else 1
    return [np.round(image * scale).astype(np.uint8).tobytes() for image in values]


async def serve_grpc(behaviour: Behaviour, port: int = 0) -> tuple[grpc.aio.Server, int]:
    async def predict(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        message = predict_pb2.PredictRequest.FromString(request)
        (tensor,) = message.inputs.values()
        try:
            api_key = str(dict(context.invocation_metadata() or ()).get("x-api-key", ""))
            labels = await behaviour.serve(message.model_spec.name, read_tensor(tensor), api_key)
        except RefusalError as refusal:
            await context.abort(grpc.StatusCode[refusal.args[0]], refusal.args[2])
        answer = predict_pb2.PredictResponse()
        output = answer.outputs["label"]
        output.dtype = predict_pb2.DT_STRING
        output.tensor_shape.dim.add(size=len(labels))
        output.string_val.extend(label.encode() for label in labels)
        return answer.SerializeToString()

    streams = behaviour.options.streams
    server = grpc.aio.server(options=[("grpc.max_concurrent_streams", streams)] if streams else None)
    key, certificate = behaviour.options.key, behaviour.options.certificate
    handler = grpc.method_handlers_generic_handler(
        "tensorflow.serving.PredictionService", {"Predict": grpc.unary_unary_rpc_method_handler(predict)}
    )
    server.add_generic_rpc_handlers((handler,))
    if certificate is None:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        pair = (key.read_bytes(), certificate.read_bytes())
        port = server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair]))
    await server.start()
    return server, port


async def serve_rest(behaviour: Behaviour, port: int = 0) -> tuple[asyncio.Server, int]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = dict(line.split(": ") for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(headers["Content-Length"]))
                model = head.split()[1].removeprefix("/v1/models/").removesuffix(":predict")
                try:
                    instances, api_key = json.loads(body)["instances"], headers.get("x-api-key", "")
                    labels = await behaviour.serve(model, read_json(instances), api_key)
                    status, answer = 200, json.dumps({"predictions": [{"label": label} for label in labels]})
                except RefusalError as refusal:
                    status, answer = refusal.args[1], json.dumps({"error": refusal.args[2]})
                head = f"HTTP/1.1 {status} {quote('as it is')}\r\nContent-Type: application/json"
                writer.write(f"{head}\r\nContent-Length: {len(answer)}\r\n\r\n{answer}".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    context = None
    if behaviour.options.certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(behaviour.options.certificate, behaviour.options.key)
    server = await asyncio.start_server(connected, "127.0.0.1", port, ssl=context)
    return server, server.sockets[0].getsockname()[1]


async def serve(options: argparse.Namespace) -> None:
    behaviour = Behaviour(options)
    grpc_server, grpc_port = await serve_grpc(behaviour, options.port)
    _rest_server, rest_port = await serve_rest(behaviour, options.rest_api_port)
    print(grpc_port, rest_port, flush=True)
    await behaviour.leaving.wait()
    successor, _ = await serve_grpc(behaviour, grpc_port)
    await grpc_server.stop(grace=60)
    await successor.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="digits")
    parser.add_argument("--port", type=int, default=0, help="of gRPC; 0 for any that is free")
    parser.add_argument("--rest_api_port", type=int, default=0, help="of REST")
    parser.add_argument("--no-labels", action="store_true", help="answer, but not with digits")
    parser.add_argument("--delay", type=float, default=0, help="seconds that every answer takes")
    parser.add_argument("--stall", type=float, default=0, help="seconds in which nothing is answered ...")
    parser.add_argument("--stall-every", type=float, default=0, help="... at every multiple of so many seconds")
    parser.add_argument("--error-every", type=int, default=0, help="answer each so-manyth request by an error")
    parser.add_argument("--wrong-every", type=int, default=0, help="answer each so-manyth request wrongly")
    parser.add_argument("--rate", type=float, default=0, help="answer at most so many requests a second, in order")
    parser.add_argument("--gather", type=int, default=0, help="answer none before so many requests are there")
    parser.add_argument("--streams", type=int, default=0, help="at most so many requests of a gRPC connection at once")
    parser.add_argument("--leave-after", type=int, default=0, help="send gRPC connections away after so many requests")
    parser.add_argument("--api-key", default="", help="answer only who sends it as x-api-key")
    parser.add_argument("--certificate", type=Path, help="speak TLS")
    parser.add_argument("--key", type=Path, help="of the certificate")
    asyncio.run(serve(parser.parse_args()))
