"""Requests that differ in the content of their tensor alone: many of them at once, and across versions."""

import gc
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import grpc
import numpy as np
import pytest
import tensorflow as tf
from glyph_serving import tensor_proto
from glyph_serving.batching import Batcher
from glyph_serving.engine import Engine
from glyph_serving.handover import Handover
from glyph_serving.harness import Loaded
from glyph_serving.lookalike import Lookalikes
from glyph_serving.servable import load
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.conftest import Server, running_server
from tests.serving.conftest import ask

TIMEOUT = 30
AT_ONCE = 200


class Sums(tf.Module):  # type: ignore[misc]
    """Answers with a tensor of each of the ways in which tensors are encoded."""

    def __init__(self, alias: str, dtype: tf.DType) -> None:
        super().__init__()
        spec = tf.TensorSpec([None, 2], dtype, name=alias)
        self.serve = tf.function(self._serve, input_signature=[spec])

    def _serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        sums = tf.cast(tf.reduce_sum(x, axis=1), tf.float32)
        return {
            "label": tf.strings.as_string(sums),
            "long": tf.strings.join([tf.strings.as_string(sums), "-" * 100]),
            "pair": tf.stack([tf.strings.as_string(sums), tf.strings.as_string(-sums)], axis=1),
            "scores": tf.stack([sums, sums / 2], axis=1),
            "twice": tf.cast(2 * sums, tf.int64),
            "none": tf.zeros([tf.size(sums), 0]),
        }


@pytest.fixture(scope="module")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions: the second takes an input of another name, the third one of another type."""
    folder = tmp_path_factory.mktemp("models") / "sums"
    for version, module in enumerate((Sums("x", tf.float32), Sums("y", tf.float32), Sums("x", tf.int32)), 1):
        tf.saved_model.save(module, str(folder / str(version)), signatures={"serving_default": module.serve})
    return folder


def configured(base_path: Path, version: int) -> model_management_pb2.ReloadConfigRequest:
    request = model_management_pb2.ReloadConfigRequest()
    config = request.config.model_config_list.config.add(
        name="sums", base_path=str(base_path), model_platform="tensorflow"
    )
    config.model_version_policy.specific.versions.append(version)
    return request


@pytest.fixture(params=["allowed_batch_sizes: 32", ""])
def sums(request: pytest.FixtureRequest, tmp_path: Path, base_path: Path) -> Iterator[Server]:
    """A server that runs requests together; with allowed sizes, even one that comes alone."""
    (tmp_path / "models.config").write_text(str(configured(base_path, 1).config))
    (tmp_path / "batching.config").write_text(f"max_batch_size {{ value: 32 }} {request.param}")
    (tmp_path / "monitoring.config").write_text('prometheus_config { enable: true path: "/metrics" }')
    with running_server(
        f"--model_config_file={tmp_path / 'models.config'}",
        "--enable_batching",
        f"--batching_parameters_file={tmp_path / 'batching.config'}",
        f"--monitoring_config_file={tmp_path / 'monitoring.config'}",
    ) as server:
        yield server


@pytest.fixture
def channel(sums: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(sums.grpc) as open_channel:
        yield open_channel


def request_of(values: np.ndarray[Any, Any]) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "sums"
    tensor = request.inputs["x"]
    tensor.dtype = tf.as_dtype(values.dtype).as_datatype_enum
    for size in values.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = values.tobytes()
    return request


def check(response: predict_pb2.PredictResponse, values: np.ndarray[Any, Any]) -> None:
    sums = values.sum(axis=1)
    texts = [b"%f" % value for value in sums]
    outputs = {alias: tf.make_ndarray(tensor) for alias, tensor in response.outputs.items()}
    assert outputs["label"].tolist() == texts
    assert outputs["long"].tolist() == [text + b"-" * 100 for text in texts]
    assert outputs["pair"].tolist() == [[b"%f" % value, b"%f" % -value] for value in sums]
    np.testing.assert_array_equal(outputs["scores"], np.stack([sums, sums / 2], axis=1))
    np.testing.assert_array_equal(outputs["twice"], (2 * sums).astype(np.int64))
    assert outputs["none"].shape == (len(values), 0)
    assert response.model_spec.version.value == 1


def test_each_of_many_requests_at_once_gets_its_own_answer(sums: Server, channel: grpc.Channel) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    random = np.random.default_rng(0)
    for sizes in ([1] * AT_ONCE, [1, 1, 1, 3] * (AT_ONCE // 4)):
        given = [random.integers(-50, 50, (size, 2)).astype(np.float32) for size in sizes]
        calls = [stub.Predict.future(request_of(values), timeout=TIMEOUT) for values in given]
        for call, values in zip(calls, given, strict=True):
            check(call.result(), values)
    _, metrics = ask(sums, "/metrics")
    runs = re.search(r':glyph:serving:run_size_count{model_name="sums",version="1"} (\d+)', metrics)
    assert runs is not None
    assert int(runs[1]) < 2 * AT_ONCE  # or none ran together, and nothing was tested


def test_a_version_with_other_inputs_answers_by_its_own_rules(channel: grpc.Channel, base_path: Path) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    values = np.array([[1, 2]], np.float32)
    for _ in range(2):
        check(stub.Predict(request_of(values), timeout=TIMEOUT), values)

    def refusal(version: int) -> str:
        models.HandleReloadConfigRequest(configured(base_path, version), timeout=TIMEOUT)
        with pytest.raises(grpc.RpcError) as error:
            stub.Predict(request_of(values), timeout=TIMEOUT)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        return error.value.details() or ""

    assert "input alias: y" in refusal(2)
    assert "to be int32 but float is provided" in refusal(3)
    models.HandleReloadConfigRequest(configured(base_path, 1), timeout=TIMEOUT)
    check(stub.Predict(request_of(values), timeout=TIMEOUT), values)


def test_a_kind_that_is_remembered_keeps_no_version_that_was_unloaded(base_path: Path) -> None:
    servable = load("sums", 1, base_path / "1")
    batcher = Batcher(servable.signatures["serving_default"], None, Engine(1, Handover()), Mock(), lambda: True)
    loaded = Loaded(servable, {"serving_default": batcher})
    manager = Mock(**{"get.return_value": loaded})
    request = request_of(np.array([[1, 2]], np.float32))
    payload = request.SerializeToString()
    lookalikes = Lookalikes()
    lookalikes.learn(payload, request)
    kind = lookalikes.find(payload)
    assert kind is not None
    assert kind.servable(manager) is loaded
    unloaded = weakref.ref(loaded)
    del loaded, manager
    servable.close()
    gc.collect()
    assert unloaded() is None


ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(4, 3),
    np.arange(12, dtype=np.float64).reshape(3, 2, 2)[:, ::-1],
    np.arange(5, dtype=np.int64),
    np.array([True, False]),
    np.arange(3, dtype=np.float16),
    np.zeros((3, 0), np.float32),
    np.array([b"a", b"b" * 200, b"", "ö"], object),
    np.array([[b"a"], [b"b"]], object),
    np.array([[b"a", b"b"], [b"c", b"d"]], object),
]


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_rows_are_encoded_as_each_by_itself(array: np.ndarray[Any, Any], as_content: bool) -> None:
    single = [tensor_proto.encode_entry(1, "a", array[row : row + 1], as_content) for row in range(len(array))]
    assert tensor_proto.encode_rows(1, "a", array, as_content) == single
