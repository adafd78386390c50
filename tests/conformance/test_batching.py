"""The recorded cases of the genuine server's batching, replayed."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.conformance.conftest import MODELS, recordings
from tests.conftest import Server, running_server

SPLITTING = """max_batch_size { value: 64 } max_execution_batch_size { value: 32 }
enable_large_batch_splitting { value: true }"""
TINY_QUEUE = """max_batch_size { value: 2 } batch_timeout_micros { value: 500000 } max_enqueued_batches { value: 1 }
num_batch_threads { value: 1 }"""
RECORDED = {case["name"]: case["result"] for case in recordings("startup") if case["group"] == "batching"}


@pytest.fixture(scope="module")
def batching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    folder = tmp_path_factory.mktemp("batching")
    model = ["--model_name=digits", f"--model_base_path={MODELS / 'digits'}", "--enable_batching"]
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, parameters in (("splitting", SPLITTING), ("tiny queue", TINY_QUEUE)):
            file = folder / f"{name}.config"
            file.write_text(parameters)
            servers[name] = stack.enter_context(running_server(*model, f"--batching_parameters_file={file}"))
        yield servers


def outcome(server: Server, *shape: int) -> str:
    """What a request of zeros of a shape comes to, in the words of the recordings."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "digits"
    request.inputs["image"].CopyFrom(tf.make_tensor_proto(np.zeros(shape, np.float32)))
    with grpc.insecure_channel(server.grpc) as channel:
        try:
            response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return f"OK {[dim.size for dim in response.outputs['output_0'].tensor_shape.dim]}"


def test_refuses_a_request_beyond_the_largest_batch(batching: dict[str, Server]) -> None:
    assert outcome(batching["splitting"], 65, 28, 28, 1) == RECORDED["batch of 65 over max_batch_size 64"]


def test_splits_a_request_beyond_the_largest_run(batching: dict[str, Server]) -> None:
    assert outcome(batching["splitting"], 64, 28, 28, 1) == RECORDED["65 with large splitting"]


def test_refuses_a_scalar(batching: dict[str, Server]) -> None:
    assert outcome(batching["splitting"]) == RECORDED["scalar"]


def test_refuses_an_empty_batch(batching: dict[str, Server]) -> None:
    # The genuine server lets it wait until its deadline.
    assert outcome(batching["splitting"], 0, 28, 28, 1).startswith("INVALID_ARGUMENT: The batch is empty")


def test_refuses_what_the_queue_cannot_hold(batching: dict[str, Server]) -> None:
    with ThreadPoolExecutor(32) as callers:
        outcomes = set(callers.map(lambda _: outcome(batching["tiny queue"], 2, 28, 28, 1), range(64)))
    assert outcomes == set(RECORDED["queue full"])


def test_an_odd_shape_does_not_spoil_the_batch_that_it_arrives_with(batching: dict[str, Server]) -> None:
    # The genuine server answers both with FAILED_PRECONDITION.
    shapes = [(1, 28, 28, 1), (1, 20, 20, 1)]
    with ThreadPoolExecutor(2) as callers:
        good, odd = callers.map(lambda shape: outcome(batching["tiny queue"], *shape), shapes)
    assert good == "OK [1, 10]"
    assert odd.startswith("INVALID_ARGUMENT: Input to reshape is a tensor with 64 values")
