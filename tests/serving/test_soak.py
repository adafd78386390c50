"""Many requests, and models that are unloaded, leave nothing behind."""

import json
import re
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from tests.benchmarks.serving_load import Job, run
from tests.conftest import Server, running_server
from tests.serving.conftest import ask, publish
from tests.serving.test_lifecycle import wait_until

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def resident(process: int) -> int:
    """KiB of memory that a process holds."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert found
    return int(found[1])


def test_memory_stays_flat(server: Server, tmp_path: Path) -> None:
    ports = [int(address.rpartition(":")[2]) for address in (server.grpc, server.rest)]
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "digits"
    jobs = []
    for size in (1, 7):
        request.inputs["image"].CopyFrom(tf.make_tensor_proto(np.zeros((size, 28, 28, 1), np.float32)))
        (tmp_path / f"grpc {size}").write_bytes(request.SerializeToString())
        jobs.append(Job(ports[0], "grpc", PREDICT, str(tmp_path / f"grpc {size}"), 16, 0.7))
    (tmp_path / "rest").write_text(json.dumps({"instances": [[1.0]] * 5}))
    jobs.append(Job(ports[1], "rest", "/v1/models/half_plus_two:predict", str(tmp_path / "rest"), 16, 0.7))

    def ask_all() -> float:
        for number in range(50):
            assert ask(server, f"/v1/models/missing{number}:predict", {"instances": [[1.0]]})[0] == 404
            assert ask(server, "/v1/models/digits:predict", {"instances": [[number]]})[0] == 400
        return sum(run(job).rate * job.seconds for job in jobs)

    ask_all()
    before = resident(server.running.process.pid)
    answered = sum(ask_all() for _ in range(3))
    assert answered > 0
    assert resident(server.running.process.pid) < before * 1.05


class Large(tf.Module):  # type: ignore[misc]
    """Has 100 MB of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable(np.ones(25_000_000, np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def add(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x + self.weights[0]}


def test_a_model_that_is_unloaded_gives_its_memory_back(tmp_path: Path) -> None:
    large = Large()
    tf.saved_model.save(large, str(tmp_path / "1"), signatures={"serving_default": large.add})
    with running_server("--model_name=m", f"--model_base_path={tmp_path}") as server:
        with_it = resident(server.running.process.pid)
        publish(tmp_path, 2)
        wait_until(lambda: resident(server.running.process.pid) < with_it - 50_000)
