"""What the client costs, against the stock way and against the bare minimum, all in one run.

Usage: python tests/benchmarks/client_bench.py HOST:PORT   (a server of the model `digits` over gRPC)

Prints one line a ratio and its limit; exits with 1 if a limit is not kept.
"""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from glyph_client import Client, preprocess
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

CALLS, ROUNDS, IMAGES = 200, 5, 10_000


def cpu(function: Callable[[], object], calls: int) -> float:
    """Seconds of this process's CPU time for so many calls."""
    start = time.process_time()
    for _ in range(calls):
        function()
    return time.process_time() - start


def ratio(one: Callable[[], object], other: Callable[[], object], calls: int = CALLS) -> float:
    """The median over rounds, each of which measures both in turn."""
    for function in (one, other):
        cpu(function, calls // 10 + 1)
    return statistics.median(cpu(one, calls) / cpu(other, calls) for _ in range(ROUNDS))


def call_ratios(target: str) -> tuple[float, float]:
    image = np.zeros((1, 28, 28, 1), np.uint8)
    channel = grpc.insecure_channel(target)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def stock_request() -> predict_pb2.PredictRequest:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "digits"
        request.inputs["image"].CopyFrom(tf.make_tensor_proto(image))
        return request

    def stock() -> object:
        outputs = stub.Predict(stock_request(), timeout=10).outputs
        return {name: tf.make_ndarray(tensor) for name, tensor in outputs.items()}

    ready = stock_request().SerializeToString()
    bare: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with Client(target) as client, channel:
        against_bare = ratio(lambda: client.call({"image": image}), lambda: bare(ready, timeout=10))
        return against_bare, ratio(lambda: client.call({"image": image}), stock)


def many_ratio(target: str) -> float:
    """Images per second of predict_many, relative to the better of two loops over batches of 64 written by hand."""
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 28, 28), dtype=np.uint8)
    images[:, [0, -1]] = images[:, :, [0, -1]] = 0
    batches = [images[start : start + 64, ..., np.newaxis] for start in range(0, IMAGES, 64)]
    channel = grpc.insecure_channel(target)
    call: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

    def request(batch: np.ndarray) -> bytes:
        message = predict_pb2.PredictRequest()
        message.model_spec.name = "digits"
        tensor = message.inputs["image"]
        tensor.dtype = 4
        for size in batch.shape:
            tensor.tensor_shape.dim.add().size = size
        tensor.tensor_content = batch.tobytes()
        return bytes(message.SerializeToString())

    def in_turn() -> None:
        for batch in batches:
            predict_pb2.PredictResponse.FromString(call(request(batch), timeout=60))

    def pipelined() -> None:
        futures = []
        for batch in batches:
            futures.append(call.future(request(batch), timeout=60))
            if len(futures) >= 4:
                predict_pb2.PredictResponse.FromString(futures.pop(0).result())
        for future in futures:
            predict_pb2.PredictResponse.FromString(future.result())

    def seconds(function: Callable[[], object]) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    with Client(target, timeout=60) as client, channel:

        def ours() -> None:
            assert sum(1 for _ in client.predict_many(images)) == IMAGES

        ours()
        rounds = [(seconds(ours), min(seconds(in_turn), seconds(pipelined))) for _ in range(3)]
    return statistics.median(best / own for own, best in rounds)


def preprocessing_ratio() -> float:
    """CPU time of preprocess, relative to Pillow's own decoding, greying and resizing of the same JPEG."""
    paper = np.random.default_rng(1).normal(225, 3, (1200, 900)).clip(0, 255)
    paper[200:1000, 400:480] = 40
    file = io.BytesIO()
    Image.fromarray(paper.astype(np.uint8)).convert("RGB").save(file, "JPEG", quality=90)
    data = file.getvalue()

    def pillow() -> object:
        image = Image.open(io.BytesIO(data)).convert("L")
        return np.asarray(image.resize((28, 28), Image.Resampling.BOX))

    return ratio(lambda: preprocess(data), pillow, 20)


def import_seconds(statement: str) -> float:
    """The best of five fresh interpreters."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(5)]
    return min(float(run.stdout) for run in runs)


def main() -> int:
    """Measures everything and compares it with its limits."""
    target = sys.argv[1]
    bare, stock = call_ratios(target)
    own_import = import_seconds("import glyph_client")
    stock_import = import_seconds("import tensorflow_serving.apis.predict_pb2")
    results = [
        ("CPU of Client.call / bare call", bare, "at most", 1.3),
        ("CPU of Client.call / stock stubs", stock, "at most", 0.5),
        ("predict_many / best loop by hand", many_ratio(target), "at least", 0.9),
        ("CPU of preprocess / Pillow alone", preprocessing_ratio(), "at most", 1.25),
        ("import, seconds", own_import, "at most", 0.3),
        ("import of the stock stubs / ours", stock_import / own_import, "at least", 10.0),
    ]
    kept = [value <= limit if word == "at most" else value >= limit for _, value, word, limit in results]
    for (name, value, word, limit), is_kept in zip(results, kept, strict=True):
        print(f"{name:34} {value:6.2f}  {word} {limit:g}  {'kept' if is_kept else 'NOT KEPT'}")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
