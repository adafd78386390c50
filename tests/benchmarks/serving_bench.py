"""How fast glyph-serve is, against what it is made of: bare echoes, the model itself, and LitServe, all in one run.

Everything runs at the same time and is measured in turn, in short rounds, so that a busy machine slows all of them
alike; medians over the rounds count. Ratios that have a bar are marked, and the exit status is 1 when one is missed.

    (a) an echo of the same messages on pyvoy       (b) the same on grpc.aio
    (c) glyph-serve, batching                       (d) glyph-serve, batching off
    (e) LitServe with the same model, over HTTP     (f) the model called in this process, no server
    (g) the same, called as TensorFlow's guide has it (tf.saved_model.load), where (f) is as glyph-serve loads and calls

Usage: python tests/benchmarks/serving_bench.py [--model FOLDER] [--json]     (about four minutes)
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # this and the next two as glyph_serving/envoy.py has it
os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
os.environ.setdefault("TF_OVERRIDE_GLOBAL_THREADPOOL", "1")

import numpy as np
import tensorflow as tf
from glyph_serving.servable import Array, load
from serving_load import Job, Load  # type: ignore[import-not-found]  # its folder is on the path of a script
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import predict_pb2

_HERE = Path(__file__).parent
_BUILD = _HERE.parent.parent / "build"
_BIN = Path(sys.executable).parent
_CALLERS = (1, 4, 16, 64)
_ROUNDS, _SECONDS = 11, 0.5
_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_HEAVY_SECONDS = 0.020  # an image


@dataclass(frozen=True)
class Bar:
    """A ratio, and what it has to reach."""

    name: str
    value: float
    word: str  # "at least" or "at most"
    bar: float

    @property
    def reached(self) -> bool:
        return self.value >= self.bar if self.word == "at least" else self.value <= self.bar


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def published_model() -> Path:
    """The newest version of `digits` in build/models; where there is none, one that is trained for a moment."""
    models = _BUILD / "models"
    if not (models / "digits").is_dir():
        models = _BUILD / "bench" / "models"
        options = ["--recipe=deck", "--epochs=1", f"--data-dir={_BUILD / 'dataset'}", f"--models-dir={models}"]
        subprocess.run([_BIN / "glyph-train", "run", "--unless-published", *options], check=True)
    return max((path for path in (models / "digits").iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def litserve_python() -> Path:
    """An environment with LitServe, made once, that sees this one's packages too."""
    folder = _BUILD / "bench" / "litserve"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "litserve"], check=True)
        ours = next(path for path in sys.path if path.endswith("site-packages"))
        next(folder.glob("lib/*/site-packages")).joinpath("glyph.pth").write_text(f"{ours}\n")
        (folder / "ready").touch()
    return python


def build_heavy_model(folder: Path) -> None:
    """A SavedModel that takes about 20 ms an image, whatever else is in the batch."""
    weights = tf.constant(np.random.default_rng(0).normal(0, 0.04, (512, 512)).astype(np.float32))
    one = tf.function(lambda steps: tf.foldl(lambda x, _: tf.tanh(x @ weights), tf.range(steps), weights))
    one(tf.constant(2))
    began = time.perf_counter()
    one(tf.constant(20))
    steps = max(1, round(_HEAVY_SECONDS * 20 / (time.perf_counter() - began)))

    class Heavy(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None, 28, 28, 1], tf.uint8, name="image")])  # type: ignore[untyped-decorator]
        def serve(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
            def work(picture: tf.Tensor) -> tf.Tensor:
                start = weights + tf.cast(picture[0, 0, 0], tf.float32)
                return tf.foldl(lambda x, _: tf.tanh(x @ weights), tf.range(steps), start)[0, :10]

            return {"scores": tf.map_fn(work, image, fn_output_signature=tf.float32, parallel_iterations=1)}

    module = Heavy()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})


def grpc_request(model: str, images: Array) -> bytes:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    tensor = request.inputs["image"]
    tensor.dtype = 4  # DT_UINT8
    for size in images.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = images.tobytes()
    return request.SerializeToString()  # type: ignore[no-any-return]


class Bench:
    """All servers, started together, and the load generator.

    Args:
        model: The version folder to serve.
        folder: Where files go.
        stack: Ends the processes.
    """

    def __init__(self, model: Path, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        heavy = folder / "heavy" / "1"
        if not heavy.exists():
            build_heavy_model(heavy)
        python = litserve_python()
        one_thread = config_pb2.ConfigProto(intra_op_parallelism_threads=1)  # its best: see glyph_serving/loader.py
        self.model = load("digits", 1, model, session_config=one_thread).signatures["serving_default"]
        self._stock = tf.saved_model.load(str(model)).signatures["serving_default"]
        self.heavy = load("heavy", 1, heavy, session_config=one_thread).signatures["serving_default"]
        self._write_messages()
        (folder / "models.config").write_text(
            f'model_config_list {{ config {{ name: "digits" base_path: "{model.parent}" model_platform: "tensorflow" '
            f"model_version_policy {{ specific {{ versions: {model.name} }} }} }} "
            f'config {{ name: "heavy" base_path: "{heavy.parent}" model_platform: "tensorflow" }} }}'
        )
        (folder / "batching.config").write_text(
            "max_batch_size { value: 64 } batch_timeout_micros { value: 0 } max_enqueued_batches { value: 1000 }"
        )
        self._ports: dict[str, int] = {}
        self._serve("c", "--enable_batching", f"--batching_parameters_file={folder / 'batching.config'}")
        self._serve("d")
        self._ports["a"], self._ports["b"], self._ports["e"] = free_port(), free_port(), free_port()
        echo = ["pyvoy", "serving_echo:app", "--port", str(self._ports["a"]), "--log-level", "off"]
        self._start([_BIN / echo[0], *echo[1:]], ECHO_ANSWER=str(folder / "answer"))
        self._start([sys.executable, "serving_echo.py", str(self._ports["b"]), folder / "answer"])
        self._start([python, "serving_litserve.py", str(self._ports["e"]), model])
        self._load = subprocess.Popen(
            [sys.executable, _HERE / "serving_load.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        stack.enter_context(self._load)  # which closes its stdin and waits
        for port in self._ports.values():
            self._wait_for(port)

    def _serve(self, name: str, *flags: str) -> None:
        grpc, rest = self._ports[name], self._ports[f"{name} rest"] = free_port(), free_port()
        where = ["--address=127.0.0.1", f"--port={grpc}", f"--rest_api_port={rest}"]
        self._start([_BIN / "glyph-serve", *where, f"--model_config_file={self._folder / 'models.config'}", *flags])

    def _start(self, command: Sequence[object], **environment: str) -> None:
        log = self._stack.enter_context((self._folder / "log.txt").open("a"))
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=_HERE,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self._stack.callback(process.wait)
        self._stack.callback(os.killpg, process.pid, signal.SIGKILL)  # LitServe's own processes outlive it otherwise

    def _wait_for(self, port: int) -> None:
        for _ in range(600):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                return
            time.sleep(0.1)
        raise TimeoutError(f"nothing listens on port {port}: see {self._folder / 'log.txt'}")

    def _write_messages(self) -> None:
        images = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), dtype=np.uint8)
        self.images = images
        (self._folder / "grpc 1").write_bytes(grpc_request("digits", images[:1]))
        (self._folder / "grpc 64").write_bytes(grpc_request("digits", images))
        (self._folder / "heavy 1").write_bytes(grpc_request("heavy", images[:1]))
        (self._folder / "rest 1").write_bytes(json.dumps({"instances": images[:1].tolist()}).encode())
        answer = predict_pb2.PredictResponse()
        for name, output in zip(self.model.outputs, self.model.run([images[:1]]), strict=True):
            answer.outputs[name].CopyFrom(tf.make_tensor_proto(output))
        answer.model_spec.name, answer.model_spec.signature_name = "digits", "serving_default"
        answer.model_spec.version.value = 1
        (self._folder / "answer").write_bytes(answer.SerializeToString())

    def stock(self, images: Array) -> list[Array]:
        """The answers of the model, called as TensorFlow's guide has it."""
        return [output.numpy() for output in self._stock(image=tf.constant(images)).values()]

    def ask(self, server: str, request: str, callers: int, seconds: float = _SECONDS) -> Load:
        """One measurement of one server."""
        protocol = "grpc" if not request.startswith("rest") else "rest"
        port = self._ports[f"{server} rest" if protocol == "rest" and server != "e" else server]
        path = _PREDICT if protocol == "grpc" else "/predict" if server == "e" else "/v1/models/digits:predict"
        job = Job(port, protocol, path, str(self._folder / request), callers, seconds)
        assert self._load.stdin is not None
        assert self._load.stdout is not None
        print(json.dumps(asdict(job)), file=self._load.stdin, flush=True)
        answer = self._load.stdout.readline()
        if not answer:
            raise RuntimeError(f"the load generator ended while it asked ({server}): see {self._folder / 'log.txt'}")
        return Load(**json.loads(answer))


def in_process(call_once: Callable[[], object], threads: int, seconds: float = _SECONDS) -> Load:
    """Calls the model itself, from so many threads at once."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    def call() -> None:
        while (began := time.perf_counter()) < end:
            call_once()
            latencies.append(time.perf_counter() - began)

    workers = [threading.Thread(target=call) for _ in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    ordered = sorted(latencies)
    rate = len(ordered) / (time.perf_counter() - began)
    return Load(rate, statistics.median(ordered), ordered[int(len(ordered) * 0.99)])


def best_in_process(call_once: Callable[[], object], threads: Sequence[int], seconds: float) -> Load:
    """The best of several numbers of threads."""
    return max((in_process(call_once, count, seconds) for count in threads), key=lambda load: load.rate)


def median(rounds: Sequence[dict[str, Load]], numerator: str, denominator: str) -> float:
    """The median over the rounds of one server's rate by another's."""
    return float(statistics.median(one[numerator].rate / one[denominator].rate for one in rounds))


def measure(bench: Bench) -> tuple[list[Bar], dict[str, dict[str, Load]]]:
    """Runs all measurements; the ratios and the figures behind them."""
    table: dict[str, dict[str, Load]] = {}
    bars: list[Bar] = []

    def repeat(title: str, one_round: Mapping[str, Callable[[], Load]]) -> list[dict[str, Load]]:
        rounds = [{name: call() for name, call in one_round.items()} for _ in range(_ROUNDS)]
        table[title] = {
            name: Load(
                *(statistics.median(getattr(one[name], field) for one in rounds) for field in Load.__annotations__)
            )
            for name in one_round
        }
        return rounds

    for server in "abcd":
        bench.ask(server, "grpc 1", 16)
    for server in "ce":
        bench.ask(server, "rest 1", 4)
    for server in "cd":
        bench.ask(server, "heavy 1", 4, 2)
    for callers in _CALLERS:
        calls = {server: partial(bench.ask, server, "grpc 1", callers) for server in "abcd"}
        if callers == 1:
            calls["f"] = partial(in_process, partial(bench.model.run, [bench.images[:1]]), 1)
            calls["g"] = partial(in_process, partial(bench.stock, bench.images[:1]), 1)
        rounds = repeat(f"1 image, {callers} callers", calls)
        if callers == 1:
            sums = statistics.median(one["c"].median / (one["a"].median + one["f"].median) for one in rounds)
            bars.append(Bar("1 caller, median latency: (c) / ((a) + (f))", sums, "at most", 1.25))
            alone = statistics.median(one["c"].median / one["d"].median for one in rounds)
            bars.append(Bar("1 caller, median latency: (c) / (d)", alone, "at most", 1.05))
    bars.append(Bar("64 callers, requests: (c) / (a)", median(rounds, "c", "a"), "at least", 0.65))
    bars.append(Bar("64 callers, requests: (c) / (b)", median(rounds, "c", "b"), "at least", 1.3))
    rounds = repeat(
        "64 images, 4 callers",
        {
            "c": lambda: bench.ask("c", "grpc 64", 4),
            "d": lambda: bench.ask("d", "grpc 64", 4),
            "f": partial(best_in_process, partial(bench.model.run, [bench.images]), (1, 4), _SECONDS / 2),
            "g": partial(best_in_process, partial(bench.stock, bench.images), (1, 4), _SECONDS / 2),
        },
    )
    bars.append(Bar("64 images, 4 callers, requests: (c) / (f)", median(rounds, "c", "f"), "at least", 0.75))
    for callers in (1, 16):
        calls = {server: partial(bench.ask, server, "rest 1", callers) for server in "cde"}
        rounds = repeat(f"REST, 1 image, {callers} callers", calls)
        bars.append(Bar(f"REST, {callers} callers, requests: (c) / (e)", median(rounds, "c", "e"), "at least", 5.0))
    rounds = repeat(
        "20 ms an image, 4 callers",
        {
            "c": lambda: bench.ask("c", "heavy 1", 4, 2),  # long enough for the first and the last to be few
            "d": lambda: bench.ask("d", "heavy 1", 4, 2),
            "f": partial(best_in_process, partial(bench.heavy.run, [bench.images[:1]]), (1, 2), 1),
        },
    )
    bars.append(Bar("20 ms an image, 4 callers, requests: (c) / (f)", median(rounds, "c", "f"), "at least", 0.9))
    return bars, table


def cell(load: Load | None) -> str:
    """A load as the table shows it."""
    return f"{load.rate:>8,.0f} {load.median * 1e3:>5.2f} ms" if load is not None else ""


def main() -> int:
    """Measures, prints, and judges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a version folder of the model digits")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = _BUILD / "bench" / "serving"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        bars, table = measure(Bench((options.model or published_model()).absolute(), folder, stack))
    if options.json:
        print(json.dumps({"bars": [asdict(bar) for bar in bars], "figures": table}, default=asdict))
        return 0 if all(bar.reached for bar in bars) else 1
    print(f"{'':<28}" + "".join(f"{f'({name})':>17}" for name in "abcdefg") + "      requests/s and median")
    for title, loads in table.items():
        print(f"{title:<28}" + "".join(f"{cell(loads.get(name)):>17}" for name in "abcdefg"))
    print()
    for bar in bars:
        print(f"{bar.name:<50}{bar.value:>7.2f}   {bar.word} {bar.bar:<5g} {'reached' if bar.reached else 'MISSED'}")
    return 0 if all(bar.reached for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
