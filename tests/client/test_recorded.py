"""What the genuine server once answered is understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glyph_client import (
    CallError,
    ClassifyRequest,
    ClassifyResponse,
    InputError,
    InvalidRequest,
    MetadataRequest,
    MetadataResponse,
    ModelSpec,
    NotFound,
    PredictRequest,
    PredictResponse,
    RegressRequest,
    RegressResponse,
    ReloadRequest,
    Signature,
    StatusRequest,
    StatusResponse,
    TensorSpec,
    _json,
    _wire,
)
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

RECORDINGS = Path(__file__).resolve().parents[1] / "conformance"


def recorded(name: str) -> list[dict[str, Any]]:
    # Recorded text holds line separators that are none in JSON, so not splitlines().
    return [json.loads(line) for line in (RECORDINGS / name).read_text().split("\n") if line]


REST = {each["name"]: each for each in recorded("rest.jsonl")}
ANSWERED = [each for each in recorded("grpc.jsonl") if "response_text" in each]
SPEC = ModelSpec("half_plus_two")
KINDS: dict[str, tuple[Any, Any]] = {
    "Predict": (predict_pb2.PredictResponse, PredictRequest(SPEC, {})),
    "Classify": (classification_pb2.ClassificationResponse, ClassifyRequest(SPEC, [])),
    "Regress": (regression_pb2.RegressionResponse, RegressRequest(SPEC, [])),
    "GetModelMetadata": (get_model_metadata_pb2.GetModelMetadataResponse, MetadataRequest(SPEC)),
    "GetModelStatus": (get_model_status_pb2.GetModelStatusResponse, StatusRequest(SPEC)),
    "HandleReloadConfigRequest": (model_management_pb2.ReloadConfigResponse, ReloadRequest([])),
}


@pytest.mark.parametrize("case", ANSWERED, ids=lambda case: f"{case['method'].rpartition('/')[2]}: {case['name']}")
def test_an_answer_over_grpc_is_read_value_by_value(case: dict[str, Any]) -> None:
    kind = case["method"].rpartition("/")[2]
    if kind not in KINDS:
        pytest.skip(f"the client has no {kind}")
    stock, request = KINDS[kind]
    message = text_format.Parse(case["response_text"], stock())
    if kind == "HandleReloadConfigRequest" and message.status.error_code:
        with pytest.raises(InvalidRequest, match=message.status.error_message[:20]):
            _wire.decode(request, message.SerializeToString())
        return
    read = _wire.decode(request, message.SerializeToString())
    match read:
        case PredictResponse():
            import tensorflow as tf

            assert read.outputs.keys() == message.outputs.keys()
            for name, array in read.outputs.items():
                np.testing.assert_array_equal(array, tf.make_ndarray(message.outputs[name]))
            assert read.spec.version == message.model_spec.version.value
        case ClassifyResponse():
            wanted = [[(one.label, one.score) for one in each.classes] for each in message.result.classifications]
            assert [[(one.label, one.score) for one in each] for each in read.results] == wanted
        case RegressResponse():
            assert read.values.tolist() == [each.value for each in message.result.regressions]
        case StatusResponse():
            assert [each.version for each in read.versions] == [e.version for e in message.model_version_status]
        case MetadataResponse():
            assert "serving_default" in read.signatures
            assert not any(name.startswith("__") for name in read.signatures)


def test_signatures_over_rest_are_those_over_grpc() -> None:
    rest = REST["GET /v1/models/digits/metadata"]
    over_rest = _json.decode(MetadataRequest(ModelSpec("digits")), 200, rest["response_body"].encode())
    case = next(each for each in ANSWERED if each["name"] == "ok" and "Metadata" in each["method"])
    message = text_format.Parse(case["response_text"], get_model_metadata_pb2.GetModelMetadataResponse())
    over_grpc = _wire.decode(MetadataRequest(ModelSpec("digits")), message.SerializeToString())
    assert isinstance(over_rest, MetadataResponse)
    assert isinstance(over_grpc, MetadataResponse)
    assert over_rest.signatures == over_grpc.signatures
    assert over_rest.spec.version == 1


def test_classes_over_rest_are_read() -> None:
    body = REST[":classify ok"]["response_body"].encode()
    read = _json.decode(ClassifyRequest(SPEC, []), 200, body)
    assert isinstance(read, ClassifyResponse)
    assert [[(one.label, one.score) for one in each] for each in read.results] == [
        [("low", 2.5), ("high", 4.5)],
        [("low", 3.0), ("high", 5.0)],
    ]
    bare = _json.decode(ClassifyRequest(SPEC, []), 200, REST[":classify NaN"]["response_body"].encode())
    assert isinstance(bare, ClassifyResponse)
    assert np.isnan(bare.results[0][0].score)


def test_what_the_client_writes_as_examples_is_what_was_recorded() -> None:
    request = ClassifyRequest(
        ModelSpec("half_plus_two", signature="classify_x_to_y"), [{}, {"x": 1.0}], context={"x": 3.0}
    )
    method, path, body = _json.encode(request)
    sent = REST[":classify context"]
    assert (method, path) == (sent["method"], sent["path"])
    assert json.loads(body or b"") == json.loads(sent["body"])


def test_json_has_no_complex_numbers() -> None:
    with pytest.raises(InputError, match=r"JSON has no complex numbers. Received: input 'z' of complex64. Use gRPC"):
        _json.encode(PredictRequest(SPEC, {"z": np.zeros(1, np.complex64)}))


@pytest.mark.parametrize(
    "case", [each for each in REST.values() if each.get("status", 200) != 200], ids=lambda case: case["name"]
)
def test_every_refusal_over_rest_is_an_error_with_the_servers_words(case: dict[str, Any]) -> None:
    with pytest.raises(CallError) as error:
        _json.decode(StatusRequest(SPEC), case["status"], case["response_body"].encode())
    wanted = {400: InvalidRequest, 404: NotFound}.get(case["status"], CallError)
    assert isinstance(error.value, wanted)
    if case["response_body"].startswith("{"):
        assert error.value.server_message == json.loads(case["response_body"])["error"]


MULTI = Signature(
    "multi",
    "",
    {},
    {
        "b": TensorSpec("", "bool", (None,)),
        "x": TensorSpec("", "float32", (None,)),
        "n": TensorSpec("", "int64", (None,)),
        "s": TensorSpec("", "string", (None,)),
        "image_bytes": TensorSpec("", "string", (None, None)),
    },
)


def test_outputs_over_rest_take_the_signatures_names_and_types() -> None:
    body = b'{"outputs": {"b": [true], "x": [NaN], "n": [7], "s": ["a"], "image_bytes": [[{"b64": "/w=="}]]}}'
    read = _json.decode(PredictRequest(SPEC, {}, signature=MULTI), 200, body)
    assert isinstance(read, PredictResponse)
    assert {name: array.dtype.name for name, array in read.outputs.items()} == {
        "b": "bool",
        "x": "float32",
        "n": "int64",
        "s": "object",
        "image_bytes": "object",
    }
    assert read.outputs["image_bytes"].tolist() == [[b"\xff"]]
    single = Signature("one", "", {}, {"y": TensorSpec("", "bfloat16", None)})
    one = _json.decode(PredictRequest(SPEC, {}, signature=single), 200, b'{"outputs": [1.5, -Infinity]}')
    assert isinstance(one, PredictResponse)
    np.testing.assert_array_equal(one.outputs["y"], np.array([1.5, -np.inf], np.float32))
    untyped = _json.decode(PredictRequest(SPEC, {}), 200, b'{"outputs": {"y": [[]], "t": []}}')
    assert isinstance(untyped, PredictResponse)
    assert untyped.outputs["y"].shape == (1, 0)
    assert str(single.outputs["y"]) == "bfloat16 of any shape"
