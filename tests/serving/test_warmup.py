"""Warm-up requests: which are replayed, and what is wrong with those that cannot be."""

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from glyph_serving.errors import ServingError
from glyph_serving.servable import Servable, load
from glyph_serving.warmup import read_records, replay
from tensorflow_serving.apis import prediction_log_pb2

from tests.serving.conftest import RECORDED_MODELS


@pytest.fixture(scope="module")
def servable() -> Servable:
    return load("half_plus_two", 1, RECORDED_MODELS / "half_plus_two" / "1")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Servable:
    """Runs, and gives scores of a shape that no answer to Classify can have."""
    folder = tmp_path_factory.mktemp("odd") / "1"
    spec = tf.TensorSpec([None], tf.string, name="inputs")
    module = tf.Module()
    module.scores = tf.function(lambda inputs: {"scores": tf.ones([tf.size(inputs)])}, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures={"classify_x_to_y": module.scores})
    return load("odd", 1, folder)


def with_example(request: Any) -> None:
    feature = request.input.example_list.examples.add().features.feature["x"]
    feature.float_list.value.append(1.0)


def classify_log() -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    log.classify_log.request.model_spec.signature_name = "classify_x_to_y"
    with_example(log.classify_log.request)
    return log


def regress_log() -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    log.regress_log.request.model_spec.signature_name = "regress_x_to_y"
    with_example(log.regress_log.request)
    return log


def multi_inference_log(*signatures: str) -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    for signature in signatures:
        task = log.multi_inference_log.request.tasks.add(method_name=f"tensorflow/serving/{signature.split('_')[0]}")
        task.model_spec.name, task.model_spec.signature_name = "half_plus_two", signature
    with_example(log.multi_inference_log.request)
    return log


def predict_log() -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto([[1.0]]))
    return log


@pytest.mark.parametrize(
    "log",
    [
        classify_log(),
        regress_log(),
        multi_inference_log("regress_x_to_y"),
        predict_log(),
        prediction_log_pb2.PredictionLog(),  # this and the next are passed over
        prediction_log_pb2.PredictionLog(predict_streamed_log={}),
    ],
    ids=["classify", "regress", "multi-inference", "predict", "none", "streamed"],
)
def test_requests_of_every_kind_are_replayed(servable: Servable, log: prediction_log_pb2.PredictionLog) -> None:
    replay(servable, log)


def test_a_run_of_a_session_cannot_be_replayed(servable: Servable) -> None:
    with pytest.raises(ServingError, match=r"^UNIMPLEMENTED: Unsupported log_type for warmup: 5$"):
        replay(servable, prediction_log_pb2.PredictionLog(session_run_log={}))


def test_an_inference_is_replayed_by_the_rules_of_one(servable: Servable) -> None:
    with pytest.raises(ServingError, match="Duplicate evaluation of signature: regress_x_to_y"):
        replay(servable, multi_inference_log("regress_x_to_y", "regress_x_to_y"))


def test_a_request_that_runs_but_has_no_answer_fails(odd: Servable) -> None:
    with pytest.raises(ServingError, match=r"Expected Tensor shape: \[batch_size num_classes\] but got \[1\]"):
        replay(odd, classify_log())


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "records"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"first")
        writer.write(b"second")
    return path


def test_records_are_read_in_order(records: Path) -> None:
    assert list(read_records(records)) == [b"first", b"second"]


@pytest.mark.parametrize("damage", ["cut short", "changed", "of another kind"])
def test_a_damaged_file_is_refused(records: Path, damage: str) -> None:
    content = records.read_bytes()
    at = content.index(b"second")
    damaged = {
        "cut short": content[:-1],
        "changed": content[:at] + b"S" + content[at + 1 :],
        "of another kind": b"no record, and never was one",
    }
    records.write_bytes(damaged[damage])
    with pytest.raises(ServingError, match=r"^DATA_LOSS: .*verify your warmup data is in TFRecord format"):
        list(read_records(records))
