"""Models of kinds that were not recorded: inputs with defaults, and outputs that an RPC does not take."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tests.conftest import Server, running_server
from tests.serving.conftest import ask


class Odd(tf.Module):  # type: ignore[misc]
    """Has a factor that is 2 unless a request brings one."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x"), tf.TensorSpec([], tf.float32, name="k")])  # type: ignore[untyped-decorator]
    def multiply(self, x: tf.Tensor, k: tf.Tensor = tf.constant(2.0)) -> dict[str, tf.Tensor]:  # noqa: B008 (that is how a default gets into the signature)
        return {"y": x * k}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def spell(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"text": tf.strings.as_string(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="s")])  # type: ignore[untyped-decorator]
    def read(self, s: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"number": tf.strings.to_number(s)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.resource, name="table")])  # type: ignore[untyped-decorator]
    def look(self, table: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"there": tf.raw_ops.VarIsInitializedOp(resource=table)}


def of_examples(outputs: Callable[[tf.Tensor], dict[str, tf.Tensor]]) -> Any:
    """A signature that takes N serialized Examples, and answers with what `outputs` makes of N."""
    spec = tf.TensorSpec([None], tf.string, name="inputs")
    return tf.function(lambda inputs: outputs(tf.size(inputs)), input_signature=[spec])


SIGNATURES: dict[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]] = {
    "rank of classes": lambda n: {"classes": tf.fill([n], "a")},
    "type of classes": lambda n: {"classes": tf.ones([n, 2])},
    "number of classes": lambda n: {"classes": tf.fill([n + 1, 2], "a")},
    "rank of scores": lambda n: {"scores": tf.ones([n, 2, 1])},
    "type of scores": lambda n: {"scores": tf.ones([n, 2], tf.float64)},
    "number of scores": lambda n: {"scores": tf.ones([n + 1, 2])},
    "widths": lambda n: {"classes": tf.fill([n, 2], "a"), "scores": tf.ones([n, 3])},
    "value": lambda n: {"outputs": tf.ones([n, 1])},
    "rank of outputs": lambda n: {"outputs": tf.ones([n, 2])},
    "type of outputs": lambda n: {"outputs": tf.ones([n], tf.int64)},
    "number of outputs": lambda n: {"outputs": tf.ones([n + 1])},
    "composite": lambda n: {"words": tf.strings.split(tf.fill([n], "a b"))},
    "sparse": lambda n: {"words": tf.sparse.from_dense(tf.ones([n, 2]))},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("odd")
    odd = Odd()
    odd.functions = {name: of_examples(outputs) for name, outputs in SIGNATURES.items()}
    tf.saved_model.save(
        odd,
        str(folder / "1"),
        signatures={
            "serving_default": odd.multiply,
            "spell": odd.spell,
            "read": odd.read,
            "look": odd.look,
            **odd.functions,
        },
    )
    (folder / "1" / "nowhere").symlink_to(folder / "gone")
    (folder / "1" / "assets.extra").mkdir()
    (folder / "1" / "assets.extra" / "mlmd_uuid").write_text("0b6a52d8")
    (folder / "monitoring.config").write_text('prometheus_config { enable: true path: "/metrics" }')
    monitoring = f"--monitoring_config_file={folder / 'monitoring.config'}"
    with running_server("--model_name=odd", f"--model_base_path={folder}", monitoring) as running:
        yield running


@pytest.fixture(scope="module")
def stub(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def outcome(call: Any, request: Any) -> Any:
    """The answer, or code and details of the error."""
    try:
        return call(request, timeout=30)
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"


def multiplied(stub: Any, **inputs: Any) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "odd"
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(value, tf.float32))
    answer = outcome(stub.Predict, request)
    return answer if isinstance(answer, str) else tf.make_ndarray(answer.outputs["y"]).tolist()


def test_an_input_that_is_missing_has_its_default(stub: Any) -> None:
    for _ in range(2):
        assert multiplied(stub, x=[1.0, 3.0]) == [2.0, 6.0]
        assert multiplied(stub, x=[1.0, 3.0], k=5.0) == [5.0, 15.0]


def test_an_input_without_a_default_must_not_be_missing(stub: Any) -> None:
    feed = "serving_default_x:0"
    assert multiplied(stub, k=5.0) == (
        f"INVALID_ARGUMENT: Signature input alias: x(feed name: {feed}) not found in request and no default value "
        "provided. Inputs expected to be in the request {k}, or default input alias set: k"
    )


def test_an_input_that_is_none_is_named(stub: Any) -> None:
    assert multiplied(stub, x=[1.0], z=5.0) == (
        "INVALID_ARGUMENT: Inputs contains invalid name. Used request inputs: x, request input: x,z"
    )
    assert str(multiplied(stub, x=[1.0], k=2.0, z=5.0)).startswith(
        "INVALID_ARGUMENT: input size does not match signature: 3!=2 len({k,x,z}) != len({k,x}). Sent extra: {z}."
    )


def predict(stub: Any, signature: str, **inputs: tf.Tensor) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "odd", signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return outcome(stub.Predict, request)


def test_an_output_of_strings_has_at_most_32_dimensions(stub: Any) -> None:
    answer = predict(stub, "spell", x=tf.ones([1] * 32))
    assert answer.outputs["text"].string_val == [b"1.000000"]
    assert predict(stub, "spell", x=tf.ones([1] * 33)).startswith(
        "INVALID_ARGUMENT: assertion failed: [output text holds strings, which can have at most 32 dimensions. "
        "Received:] [33]"
    )


def test_an_error_that_quotes_bytes_is_told(server: Server, stub: Any) -> None:
    message = "StringToNumberOp could not correctly convert string: \N{REPLACEMENT CHARACTER}"
    assert predict(stub, "read", s=[b"\xff"]).startswith(f"INVALID_ARGUMENT: {message}")
    status, answer = ask(server, "/v1/models/odd:predict", b'{"signature_name": "read", "instances": ["\xff"]}')
    assert (status, answer["error"][: len(message)]) == (400, message)


def test_an_input_that_no_tensor_can_be_is_refused(stub: Any) -> None:
    assert predict(stub, "look", table="a") == (
        "INVALID_ARGUMENT: Expects arg[0] to be resource but string is provided"
    )


def test_metadata_tells_the_defaults(stub: Any) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "odd"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    stub.GetModelMetadata(request, timeout=30).metadata["signature_def"].Unpack(signatures)
    assert tf.make_ndarray(signatures.signature_def["serving_default"].defaults["k"]) == 2.0


@pytest.mark.parametrize("kind", ["composite", "sparse"])
def test_a_signature_that_cannot_be_called_says_so_and_harms_no_other(stub: Any, kind: str) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "odd", kind
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto([b""]))
    for _ in range(2):
        assert outcome(stub.Predict, request) == (
            f'INVALID_ARGUMENT: Signature "{kind}" cannot be called: its output words is a {kind} tensor, which a '
            "TensorProto cannot hold. Export a signature with its components instead"
        )


def with_examples(request: Any, signature: str) -> Any:
    """A request, or one of a single regression, with two empty Examples."""
    inference = isinstance(request, inference_pb2.MultiInferenceRequest)
    spec = (request.tasks.add(method_name="tensorflow/serving/regress") if inference else request).model_spec
    spec.name, spec.signature_name = "odd", signature
    for _ in range(2):
        request.input.example_list.examples.add()
    return request


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("rank of classes", "Expected Tensor shape: [batch_size num_classes] but got [2]"),
        ("type of classes", "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
        ("number of classes", "Expected classes output batch size of 2. Got: 3"),
        ("rank of scores", "Expected Tensor shape: [batch_size num_classes] but got [2,2,1]"),
        ("type of scores", "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
        ("number of scores", "Expected scores output batch size of 2. Got: 3"),
        ("widths", "Tensors class and score should match in dim_size(1). Got 2 vs. 3"),
    ],
)
def test_what_classify_does_not_take_is_said(stub: Any, signature: str, message: str) -> None:
    request = with_examples(classification_pb2.ClassificationRequest(), signature)
    assert outcome(stub.Classify, request) == f"INVALID_ARGUMENT: {message}"


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("rank of outputs", "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]"),
        ("type of outputs", "Expected output Tensor of DT_FLOAT.  Got: DT_INT64"),
        ("number of outputs", "Input batch size did not match output batch size: 2 vs. 3"),
    ],
)
def test_what_regress_does_not_take_is_said(stub: Any, signature: str, message: str) -> None:
    request = with_examples(regression_pb2.RegressionRequest(), signature)
    assert outcome(stub.Regress, request) == f"INVALID_ARGUMENT: {message}"


def test_an_inference_counts_its_examples_once(server: Server, stub: Any) -> None:
    def counted() -> int:
        name = ':tensorflow:serving:request_example_count_total{model="odd"} '
        lines = ask(server, "/metrics")[1].splitlines()
        return sum(int(line.removeprefix(name)) for line in lines if line.startswith(name))

    request = with_examples(inference_pb2.MultiInferenceRequest(), "value")
    before = counted()
    assert len(stub.MultiInference(request, timeout=30).results[0].regression_result.regressions) == 2
    assert counted() == before + 2


def test_metrics_tell_of_metadata_and_of_runs(server: Server, stub: Any) -> None:
    assert multiplied(stub, x=[1.0]) == [2.0]
    lines = ask(server, "/metrics")[1].splitlines()
    assert ':tensorflow:serving:mlmd_map{model_name="odd",version="1"} 0' in lines
    runs, sessions = (
        next(line for line in lines if line.startswith(f":tensorflow:core:{name}{{")).split()[1]
        for name in ("graph_runs", "direct_session_runs")
    )
    assert int(runs) == int(sessions) > 0
