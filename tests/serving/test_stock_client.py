"""The stock client, tensorflow-serving-api's stubs on grpcio, drives every RPC."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import proto_reflection_descriptor_database  # type: ignore[import-untyped]
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tests.conftest import Server
from tests.serving.conftest import RECORDED_MODELS

TIMEOUT = 30


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as open_channel:
        yield open_channel


@pytest.fixture(scope="module")
def prediction(channel: grpc.Channel) -> Any:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel: grpc.Channel) -> Any:
    return model_service_pb2_grpc.ModelServiceStub(channel)


def request_of(values: list[float], **spec: Any) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half_plus_two"
    for name, value in spec.items():
        if name == "version":
            request.model_spec.version.value = value
        else:
            setattr(request.model_spec, name, value)
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([[value] for value in values], dtype=tf.float32))
    return request


def examples(request: Any, *values: float) -> Any:
    for value in values:
        example = request.input.example_list.examples.add()
        example.features.feature["x"].float_list.value.append(value)
    return request


def test_predict_answers_with_the_version_that_answered(prediction: Any) -> None:
    response = prediction.Predict(request_of([1, 2]), timeout=TIMEOUT)
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [[2.5], [3.0]]
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (2, "serving_default")


@pytest.mark.parametrize(("spec", "version"), [({"version": 1}, 1), ({"version_label": "stable"}, 1), ({}, 2)])
def test_predict_takes_a_version_or_a_label(prediction: Any, spec: dict[str, Any], version: int) -> None:
    assert prediction.Predict(request_of([1], **spec), timeout=TIMEOUT).model_spec.version.value == version


def test_predict_answers_only_what_the_filter_names(prediction: Any) -> None:
    request = predict_pb2.PredictRequest(output_filter=["len"])
    request.model_spec.name, request.model_spec.signature_name = "half_plus_two", "strs"
    request.inputs["s"].CopyFrom(tf.make_tensor_proto([b"abc"]))
    response = prediction.Predict(request, timeout=TIMEOUT)
    assert {alias: tf.make_ndarray(tensor).tolist() for alias, tensor in response.outputs.items()} == {"len": [3]}


def test_an_input_that_is_missing_is_named(prediction: Any) -> None:
    request = request_of([1.0])
    request.inputs["z"].CopyFrom(request.inputs["x"])
    del request.inputs["x"]
    with pytest.raises(grpc.RpcError) as refused:
        prediction.Predict(request, timeout=TIMEOUT)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == (
        "Signature input alias: x(feed name: serving_default_x:0) not found in request and no default value provided. "
        "Inputs expected to be in the request {z}, or default input alias set: "
    )


def test_a_request_without_a_model_is_refused(prediction: Any, models: Any) -> None:
    for call, request in (
        (prediction.Predict, predict_pb2.PredictRequest()),
        (prediction.Classify, classification_pb2.ClassificationRequest()),
        (prediction.Regress, regression_pb2.RegressionRequest()),
        (models.GetModelStatus, get_model_status_pb2.GetModelStatusRequest()),
    ):
        with pytest.raises(grpc.RpcError, match="Missing ModelSpec") as refused:
            call(request, timeout=TIMEOUT)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_predict_refuses_an_empty_batch_where_batches_are_gathered(prediction: Any) -> None:
    # The genuine server hangs until the deadline; without batching it answers, as ours does (see the recordings).
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half_plus_two"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.zeros((0, 1), np.float32)))
    with pytest.raises(grpc.RpcError, match="The batch is empty") as refused:
        prediction.Predict(request, timeout=TIMEOUT)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_wrong_rank_into_a_convolution_is_an_error_and_not_the_end(prediction: Any) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "digits"
    request.inputs["image"].CopyFrom(tf.make_tensor_proto(np.zeros((1, 784), np.float32)))
    with pytest.raises(grpc.RpcError) as error:
        prediction.Predict(request, timeout=TIMEOUT)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.details() == "input image must have shape [?,28,28,1]. Received: [1,784]"


def test_classify(prediction: Any) -> None:
    request = examples(classification_pb2.ClassificationRequest(), 1.0, 2.0)
    request.model_spec.name, request.model_spec.signature_name = "half_plus_two", "classify_x_to_y"
    response = prediction.Classify(request, timeout=TIMEOUT)
    assert [[(one.label, one.score) for one in entry.classes] for entry in response.result.classifications] == [
        [("low", 2.5), ("high", 4.5)],
        [("low", 3.0), ("high", 5.0)],
    ]


def test_regress(prediction: Any) -> None:
    request = examples(regression_pb2.RegressionRequest(), 1.0, 2.0)
    request.model_spec.name, request.model_spec.signature_name = "half_plus_two", "regress_x_to_y"
    response = prediction.Regress(request, timeout=TIMEOUT)
    assert [entry.value for entry in response.result.regressions] == [2.5, 3.0]


def test_multi_inference(prediction: Any) -> None:
    request = examples(inference_pb2.MultiInferenceRequest(), 1.0)
    task = request.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.name, task.model_spec.signature_name = "half_plus_two", "regress_x_to_y"
    response = prediction.MultiInference(request, timeout=TIMEOUT)
    assert [result.regression_result.regressions[0].value for result in response.results] == [2.5]


def test_model_metadata(prediction: Any) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "digits"
    response = prediction.GetModelMetadata(request, timeout=TIMEOUT)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert list(signatures.signature_def["serving_default"].inputs) == ["image"]


def test_model_status(models: Any) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "half_plus_two"
    response = models.GetModelStatus(request, timeout=TIMEOUT)
    assert [(status.version, status.state) for status in response.model_version_status] == [(2, 30), (1, 30)]


def test_a_reload_that_names_a_missing_folder_is_refused_at_once_and_changes_nothing(models: Any) -> None:
    # The genuine server blocks.
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="gone", base_path="/nonexistent", model_platform="tensorflow")
    with pytest.raises(grpc.RpcError) as error:
        models.HandleReloadConfigRequest(request, timeout=TIMEOUT)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "/nonexistent" in (error.value.details() or "")
    test_model_status(models)


def test_a_reload_adds_and_removes_models(models: Any, prediction: Any) -> None:
    def reload(*names: str) -> None:
        request = model_management_pb2.ReloadConfigRequest()
        for name in names:
            folder = "half_plus_two" if name == "again" else name
            config = request.config.model_config_list.config.add(
                name=name, base_path=str(RECORDED_MODELS / folder), model_platform="tensorflow"
            )
            if name == "half_plus_two":
                config.model_version_policy.specific.versions.extend([1, 2])
                config.version_labels["stable"], config.version_labels["canary"] = 1, 2
        models.HandleReloadConfigRequest(request, timeout=TIMEOUT)

    reload("digits", "half_plus_two", "again")
    assert prediction.Predict(request_of([1], name="again"), timeout=TIMEOUT).model_spec.version.value == 3
    reload("digits", "half_plus_two")
    with pytest.raises(grpc.RpcError) as error:
        prediction.Predict(request_of([1], name="again"), timeout=TIMEOUT)
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_gzipped_request_is_understood(prediction: Any) -> None:
    response = prediction.Predict(request_of([1.0] * 60), timeout=TIMEOUT, compression=grpc.Compression.Gzip)
    assert len(tf.make_ndarray(response.outputs["y"])) == 60


@pytest.mark.parametrize("service", ["", "PredictionService", "tensorflow.serving.ModelService"])
def test_health_check(channel: grpc.Channel, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT).status == 1


def test_health_of_an_unknown_service_is_not_found(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as error:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="x"), timeout=TIMEOUT)
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_watch_tells_the_status_at_once(channel: grpc.Channel) -> None:
    call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
    assert next(call).status == 1
    call.cancel()


@pytest.mark.parametrize(
    ("method", "messages"),
    [
        ("/grpc.health.v1.Health/Watch", []),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", [b"\xff"]),
    ],
)
def test_a_stream_without_a_message_in_order_is_an_error(
    server: Server, channel: grpc.Channel, method: str, messages: list[bytes]
) -> None:
    call: Any = channel.stream_stream(method)
    with pytest.raises(grpc.RpcError) as error:
        list(call(iter(messages), timeout=TIMEOUT))
    assert error.value.code() is grpc.StatusCode.INTERNAL
    assert "Traceback" not in server.log


def test_reflection_describes_the_services(channel: grpc.Channel) -> None:
    database = proto_reflection_descriptor_database.ProtoReflectionDescriptorDatabase(channel)
    assert "tensorflow.serving.PredictionService" in database.get_services()
    service = descriptor_pool.DescriptorPool(database).FindServiceByName("tensorflow.serving.PredictionService")
    assert "Predict" in [method.name for method in service.methods]
