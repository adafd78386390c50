"""What the client costs, against the stock way and against the bare minimum, all in one run.

It starts its own glyph-serve. What is compared is measured in turn, in short rounds, as CPU time of this process where
the line says CPU; medians over the rounds count. The exit status is 1 when a bar is missed.

Usage: python tests/benchmarks/client_bench.py [--models-dir FOLDER] [--json]     (about two minutes)
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import grpc
import numpy as np
import tensorflow as tf
from glyph_client import Client, Prediction, preprocess
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

_BIN = Path(sys.executable).parent
_BUILD = Path(__file__).resolve().parents[2] / "build"
_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_IMAGES, _BATCH = 10_000, 64

Function = Callable[[], object]
Clock = Callable[[], float]


@contextlib.contextmanager
def served(models: Path | None) -> Iterator[str]:
    """The address of a glyph-serve; where no model is given, one is trained for a moment and kept."""
    if models is None:
        models = _BUILD / "bench" / "models"
        options = ["--recipe=deck", "--epochs=1", f"--data-dir={_BUILD / 'dataset'}", f"--models-dir={models}"]
        subprocess.run([_BIN / "glyph-train", "run", "--unless-published", *options], check=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command: list[str | Path] = [_BIN / "glyph-serve", "--address=127.0.0.1", f"--port={port}", "--rest_api_port=0"]
    command += ["--model_name=digits", f"--model_base_path={models / 'digits'}"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with Client(f"127.0.0.1:{port}") as client:
            client.wait_until_available(90)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def measured(function: Function, calls: int, clock: Clock) -> float:
    """Seconds of that clock for so many calls."""
    start = clock()
    for _ in range(calls):
        function()
    return clock() - start


def ratios(
    one: Function, others: list[Function], calls: int, rounds: int, clock: Clock = time.process_time
) -> list[float]:
    """How much one costs, relative to each of the others."""
    for function in (one, *others):
        measured(function, calls, clock)
    rows = []
    for _ in range(rounds):
        own = measured(one, calls, clock)
        rows.append([own / measured(other, calls, clock) for other in others])
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def stock_request(images: np.ndarray) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "digits"
    request.inputs["image"].CopyFrom(tf.make_tensor_proto(images))
    return request


def call_ratios(target: str) -> list[float]:
    """CPU time of Client.call, relative to a bare call and to the stock way."""
    image = np.zeros((1, 28, 28, 1), np.uint8)
    ready = stock_request(image).SerializeToString()
    with Client(target) as client, grpc.insecure_channel(target) as channel:
        bare: Any = channel.unary_unary(_PREDICT)
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

        def stock() -> object:
            outputs = stub.Predict(stock_request(image), timeout=10).outputs
            return {name: tf.make_ndarray(tensor) for name, tensor in outputs.items()}

        return ratios(lambda: client.call({"image": image}), [lambda: bare(ready, timeout=10), stock], 60, 25)


def many_ratio(target: str) -> float:
    """Images per second of predict_many, relative to the better of two loops over batches of 64 written by hand."""
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, 28, 28), dtype=np.uint8)
    images[:, [0, -1]] = images[:, :, [0, -1]] = 0  # White on black: preprocessing leaves them as they are.
    batches = [images[start : start + _BATCH, ..., np.newaxis] for start in range(0, _IMAGES, _BATCH)]

    with Client(target, timeout=60) as client, grpc.insecure_channel(target) as channel:
        call: Any = channel.unary_unary(
            _PREDICT,
            request_serializer=predict_pb2.PredictRequest.SerializeToString,
            response_deserializer=predict_pb2.PredictResponse.FromString,
        )

        def in_turn() -> None:
            for batch in batches:
                call(stock_request(batch), timeout=60)

        def pipelined() -> None:
            futures = []
            for batch in batches:
                futures.append(call.future(stock_request(batch), timeout=60))
                if len(futures) >= 4:
                    futures.pop(0).result()
            for future in futures:
                future.result()

        def ours() -> None:
            assert sum(isinstance(each, Prediction) for each in client.predict_many(images)) == _IMAGES

        return 1 / max(ratios(ours, [in_turn, pipelined], 1, 5, time.perf_counter))


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

    return ratios(lambda: preprocess(data), [pillow], 10, 9)[0]


def import_seconds() -> tuple[float, float]:
    """The client's import and the stock stubs', each the best of five new interpreters, taken in turn."""

    def seconds(module: str) -> float:
        code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
        return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)

    runs = [(seconds("glyph_client"), seconds("tensorflow_serving.apis.predict_pb2")) for _ in range(5)]
    own, stock = zip(*runs, strict=True)
    return min(own), min(stock)


def main() -> int:
    """Measures everything and compares it with the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, help="a folder that holds the model digits")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with served(options.models_dir) as target:
        bare, stock = call_ratios(target)
        many = many_ratio(target)
    own_import, stock_import = import_seconds()
    results = [
        ("CPU of Client.call / a bare call", bare, "at most", 1.3),
        ("CPU of Client.call / stock stubs", stock, "at most", 0.5),
        ("predict_many / best loop by hand", many, "at least", 0.9),
        ("CPU of preprocess / Pillow alone", preprocessing_ratio(), "at most", 1.25),
        ("import glyph_client, seconds", own_import, "at most", 0.3),
        ("import of stock stubs / ours", stock_import / own_import, "at least", 10.0),
    ]
    reached = [value <= bar if word == "at most" else value >= bar for _, value, word, bar in results]
    if options.json:
        print(json.dumps({name: value for name, value, *_ in results}))
    else:
        for (name, value, word, bar), is_reached in zip(results, reached, strict=True):
            print(f"{name:34} {value:6.2f}   bar: {word} {bar:<5g} {'reached' if is_reached else 'MISSED'}")
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
