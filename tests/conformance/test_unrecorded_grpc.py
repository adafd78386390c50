"""What no recording of gRPC shows, and the genuine server's source says."""

import socket
from collections.abc import Iterator
from typing import Any

import grpc
import hpack
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import inference_pb2, predict_pb2, prediction_service_pb2_grpc

from tests.conformance.conftest import flags
from tests.conftest import Server, running_server

PREDICT = "/tensorflow.serving.PredictionService/Predict"
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


@pytest.fixture(scope="module")
def channel(servers: dict[str, Server]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(servers["default"].grpc) as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def outcome(call: Any, request: Any, **options: Any) -> Any:
    """The answer, or code and details of the error."""
    try:
        return call(request, timeout=30, **options)
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"


def tensor(kind: int, *shape: int, **content: Any) -> tensor_pb2.TensorProto:
    proto = tensor_pb2.TensorProto(dtype=kind, **content)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def predict(stub: Any, signature: str = "", **inputs: tensor_pb2.TensorProto) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "half_plus_two", signature
    for alias, proto in inputs.items():
        request.inputs[alias].CopyFrom(proto)
    return outcome(stub.Predict, request)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, kind.lower())
        for kind in ("RESOURCE", "VARIANT", "FLOAT8_E5M2", "FLOAT8_E4M3FNUZ", "FLOAT8_E4M3B11FNUZ", "INT4", "UINT2")
    ],
)
def test_types_that_no_signature_takes_are_named(stub: Any, kind: str, name: str) -> None:
    answer = predict(stub, x=tensor(types_pb2.DataType.Value(f"DT_{kind}"), 1, 1))
    assert answer == f"INVALID_ARGUMENT: Expects arg[0] to be float but {name} is provided"


def test_a_half_that_is_negative_counts_by_its_bits(stub: Any) -> None:
    answer = predict(stub, x=tensor(types_pb2.DT_HALF, 1, half_val=[-1]))
    assert answer == "INVALID_ARGUMENT: Expects arg[0] to be float but half is provided"


def test_a_tensor_without_elements_is_not_looked_into(stub: Any) -> None:
    answer = predict(stub, x=tensor(types_pb2.DT_FLOAT, 0, 1, tensor_content=b"whatever"))
    assert tf.make_ndarray(answer.outputs["y"]).shape == (0, 1)


def strings(stub: Any, content: bytes) -> Any:
    answer = predict(stub, "strs", s=tensor(types_pb2.DT_STRING, 3, tensor_content=content))
    return answer if isinstance(answer, str) else list(answer.outputs["image_bytes"].string_val)


def test_strings_of_more_dimensions_than_can_be_copied_are_refused(stub: Any) -> None:
    answer = predict(stub, "strs", s=tensor(types_pb2.DT_STRING, *[1] * 32, string_val=[b"x"]))
    assert answer.outputs["image_bytes"].string_val == [b"x"]
    assert predict(stub, "strs", s=tensor(types_pb2.DT_STRING, *[1] * 33, string_val=[b"x"])) == (
        "INVALID_ARGUMENT: input s holds strings, which can have at most 32 dimensions. Received: 33"
    )


def test_strings_may_come_as_content(stub: Any) -> None:
    long = b"y" * 300
    assert strings(stub, b"\x01\x00\xac\x02x" + long) == [b"x", b"", long]


@pytest.mark.parametrize(
    "content",
    [b"\x01\x00", b"\x01\x01\x01ab", b"\x01\x01\x01abcd", b"\xff\xff\xff\xff\xff\x01\x00\x00", b"\x00\x00\x80"],
)
def test_strings_that_end_too_soon_or_too_late_are_refused(stub: Any, content: bytes) -> None:
    assert strings(stub, content) == "INVALID_ARGUMENT: tensor parsing error: s"


@pytest.mark.parametrize(("content", "fine"), [(b"\x01\x00", True), (b"\x01\x02", False)])
def test_a_truth_value_is_0_or_1(stub: Any, content: bytes, fine: bool) -> None:
    two = {"s": "string_val", "n": "int64_val", "x": "float_val"}
    values: dict[str, Any] = {"s": [b"a", b"b"], "n": [1, 2], "x": [1.0, 2.0]}
    kinds = {"s": types_pb2.DT_STRING, "n": types_pb2.DT_INT64, "x": types_pb2.DT_FLOAT}
    inputs = {alias: tensor(kinds[alias], 2, **{field: values[alias]}) for alias, field in two.items()}
    answer = predict(stub, "multi", b=tensor(types_pb2.DT_BOOL, 2, tensor_content=content), **inputs)
    if fine:
        assert list(answer.outputs["b"].bool_val)
    else:
        assert answer == "INVALID_ARGUMENT: tensor parsing error: b"


def test_the_signature_that_initializes_a_model_has_nothing_to_give(stub: Any) -> None:
    name = "__saved_model_init_op"
    assert str(predict(stub, name)).startswith(
        "INVALID_ARGUMENT: Tried to fetch data for 'NoOp', which produces no output.  To run to a node but not fetch "
    )
    assert predict(stub, name, x=tensor(types_pb2.DT_FLOAT, 1, 1)) == (
        "INVALID_ARGUMENT: input size does not match signature: 1!=0 len({x}) != len({}). Sent extra: {x}. Missing but "
        "required: {}."
    )


def multi_inference(stub: Any, *tasks: tuple[str, str, str]) -> Any:
    request = inference_pb2.MultiInferenceRequest()
    for model, signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = model, signature
    feature = request.input.example_list.examples.add().features.feature["x"]
    feature.float_list.value.append(1.0)
    return outcome(stub.MultiInference, request)


MODEL = "half_plus_two"
REGRESSION = (MODEL, "regress_x_to_y", REGRESS)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([REGRESSION, REGRESSION, (MODEL, "none", REGRESS)], "Duplicate evaluation of signature: regress_x_to_y"),
        ([REGRESSION, (MODEL, "none", REGRESS), REGRESSION], "Requested signature not found in model graph: none"),
        ([REGRESSION, ("", "none", REGRESS)], "Found ModelSpec with an empty model name."),
        (
            [REGRESSION, ("digits", "regress_x_to_y", REGRESS)],
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            [REGRESSION, (MODEL, "classify_x_to_y", CLASSIFY), (MODEL, "none", REGRESS)],
            "Input tensor must be the same for all Signatures.",
        ),
    ],
)
def test_the_tasks_of_an_inference_are_judged_one_after_the_other(stub: Any, tasks: list[Any], message: str) -> None:
    assert multi_inference(stub, *tasks) == f"INVALID_ARGUMENT: {message}"


def test_a_message_may_be_deflated(stub: Any) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([[1.0]] * 100))
    answer = outcome(stub.Predict, request, compression=grpc.Compression.Deflate)
    assert len(tf.make_ndarray(answer.outputs["y"])) == 100


def test_health_of_what_is_not_known(tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        running_server(*flags(tmp_path_factory.mktemp("health")), "--enable_grpc_healthcheck_service") as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check
        unknown = outcome(check, health_pb2.HealthCheckRequest(service="x"))
        unreadable = outcome(channel.unary_unary("/grpc.health.v1.Health/Check"), b"\xff")
        watched = outcome(lambda *a, **k: next(channel.unary_stream("/grpc.health.v1.Health/Watch")(*a, **k)), b"\xff")
    assert unknown == "NOT_FOUND: service name unknown"
    assert unreadable == watched == "INVALID_ARGUMENT: could not parse request"


def bare_call(servers: dict[str, Server], *more: tuple[str, str]) -> dict[str, str]:
    """The trailers of a call of nothing but headers, which end the request."""
    host, port = servers["default"].grpc.split(":")
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", PREDICT),
        (":authority", "x"),
        ("te", "trailers"),
        *more,
    ]
    block = hpack.Encoder().encode(fields)
    decoder = hpack.Decoder()
    told: dict[str, str] = {}
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        connection.sendall(len(block).to_bytes(3, "big") + b"\x01\x05\0\0\0\x01" + block)
        stream = connection.makefile("rb")
        while "grpc-status" not in told:
            head = stream.read(9)
            payload = stream.read(int.from_bytes(head[:3], "big"))
            if head[3] == 1:
                told.update((str(name), str(value)) for name, value in decoder.decode(payload))
    return told


def test_a_call_without_a_message_is_answered(servers: dict[str, Server]) -> None:
    told = bare_call(servers, ("content-type", "application/grpc"))
    assert (told["grpc-status"], told["grpc-message"]) == ("13", "A unary call needs one message")


@pytest.mark.parametrize("value", ["-1S", "1_0S", " 1S", "1 S", "S", "1x"])
def test_a_timeout_that_is_none_is_refused(servers: dict[str, Server], value: str) -> None:
    told = bare_call(servers, ("content-type", "application/grpc"), ("grpc-timeout", value))
    assert told["grpc-status"] == "3"
    assert told["grpc-message"].startswith("grpc-timeout must be digits and one of HMSmun. Received: ")


def test_a_very_long_timeout_is_none(servers: dict[str, Server]) -> None:
    told = bare_call(servers, ("content-type", "application/grpc"), ("grpc-timeout", "9" * 400 + "H"))
    assert told["grpc-message"] == "A unary call needs one message"
