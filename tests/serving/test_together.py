"""Calls that come at the same time are answered together: none of them pays for another."""

import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.conftest import running_server

TIMEOUT = 30
AT_ONCE = 100
PREDICT = "/tensorflow.serving.PredictionService/Predict"


class Halves(tf.Module):  # type: ignore[misc]
    """Takes no negative number.

    Args:
        rounds: Of work for each number, which change nothing.
    """

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        def worked_on(number: tf.Tensor) -> tf.Tensor:
            zeros = tf.foldl(lambda y, _: y @ y, tf.range(self.rounds), tf.zeros([200, 200]) * number)
            return number + zeros[0, 0]

        with tf.control_dependencies([tf.debugging.assert_non_negative(x)]):
            return {"y": (tf.map_fn(worked_on, x) if self.rounds else x) / 2}


@pytest.fixture(
    scope="module",
    params=[
        ("", 0),
        ("allowed_batch_sizes: 4 allowed_batch_sizes: 64", 0),
        ("", 5),  # a millisecond, too much for the event loop
    ],
    ids=["light", "light, of certain sizes", "heavy"],
)
def channel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    folder = tmp_path_factory.mktemp("together")
    parameters, rounds = request.param
    for name in ("halves", "others"):
        module = Halves(rounds)
        tf.saved_model.save(module, str(folder / name / "1"), signatures={"serving_default": module.serve})
    models = "".join(
        f'config {{ name: "{name}" base_path: "{folder / name}" model_platform: "tensorflow" }}'
        for name in ("halves", "others")
    )
    (folder / "models.config").write_text(f"model_config_list {{ {models} }}")
    (folder / "batching.config").write_text(f"max_batch_size {{ value: 64 }} {parameters}")
    with (
        running_server(
            f"--model_config_file={folder / 'models.config'}",
            "--enable_batching",
            f"--batching_parameters_file={folder / 'batching.config'}",
            f"--max_concurrent_requests={AT_ONCE + 1}",
        ) as server,
        grpc.insecure_channel(server.grpc) as open_channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(open_channel)
        for name in ("halves", "others", "halves", "others"):
            stub.Predict(asking(8, name), timeout=TIMEOUT)  # from here on the server knows their kinds
        yield open_channel


@pytest.fixture
def stub(channel: grpc.Channel) -> prediction_service_pb2_grpc.PredictionServiceStub:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def asking(number: float, name: str = "halves") -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    tensor = request.inputs["x"]
    tensor.dtype = tf.float32.as_datatype_enum
    tensor.tensor_shape.dim.add(size=1)
    tensor.tensor_content = np.float32(number).tobytes()
    return request


def half(response: predict_pb2.PredictResponse) -> float:
    return float(tf.make_ndarray(response.outputs["y"])[0])


def test_only_the_culprit_gets_the_error(stub: prediction_service_pb2_grpc.PredictionServiceStub) -> None:
    numbers = [-number if number % 10 == 7 else number for number in range(1, AT_ONCE + 1)]
    calls = [stub.Predict.future(asking(number), timeout=TIMEOUT) for number in numbers]
    for number, call in zip(numbers, calls, strict=True):
        if number < 0:
            assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
        else:
            assert half(call.result()) == number / 2


def test_calls_of_two_models_do_not_mix(stub: prediction_service_pb2_grpc.PredictionServiceStub) -> None:
    names = ["halves", "others", "others"] * (AT_ONCE // 3)
    calls = [stub.Predict.future(asking(number, name), timeout=TIMEOUT) for number, name in enumerate(names)]
    for number, (name, call) in enumerate(zip(names, calls, strict=True)):
        response = call.result()
        assert half(response) == number / 2
        assert response.model_spec.name == name


def test_calls_to_a_model_that_is_not_there_fail_alone(
    stub: prediction_service_pb2_grpc.PredictionServiceStub,
) -> None:
    names = ["halves", "nobody"] * (AT_ONCE // 2)
    calls = [stub.Predict.future(asking(1, name), timeout=TIMEOUT) for name in names]
    for name, call in zip(names, calls, strict=True):
        assert call.code() is (grpc.StatusCode.OK if name == "halves" else grpc.StatusCode.NOT_FOUND)


@pytest.mark.parametrize("end", ["sent", "cancelled"])
def test_a_call_whose_message_does_not_come_holds_up_no_other(
    channel: grpc.Channel, stub: prediction_service_pb2_grpc.PredictionServiceStub, end: str
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def message() -> Iterator[bytes]:
        asked.set()
        go_on.wait(TIMEOUT)
        yield asking(6).SerializeToString()

    method: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(PREDICT)
    slow = method.future(message(), timeout=2 * TIMEOUT)
    try:
        assert asked.wait(TIMEOUT)
        for _ in range(3):
            calls = [stub.Predict.future(asking(number), timeout=TIMEOUT) for number in range(AT_ONCE)]
            assert [half(call.result()) for call in calls] == [number / 2 for number in range(AT_ONCE)]
        assert not slow.done()
    finally:
        if end == "cancelled":
            slow.cancel()
        go_on.set()
    if end == "sent":
        assert half(predict_pb2.PredictResponse.FromString(slow.result())) == 3
    assert half(stub.Predict(asking(4), timeout=TIMEOUT)) == 2


def test_calls_that_were_cancelled_no_longer_count(
    channel: grpc.Channel, stub: prediction_service_pb2_grpc.PredictionServiceStub
) -> None:
    """More of them than may be in flight at once, all without a message."""
    go_on = threading.Event()
    method: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(PREDICT)
    try:
        for _ in range(2):
            asked = [threading.Event() for _ in range(AT_ONCE)]

            def message(asked: threading.Event) -> Iterator[bytes]:
                asked.set()
                go_on.wait(TIMEOUT)
                yield b""

            slow = [method.future(message(event), timeout=TIMEOUT) for event in asked]
            assert all(event.wait(TIMEOUT) for event in asked)
            for call in slow:
                call.cancel()
            assert half(stub.Predict(asking(4), timeout=TIMEOUT)) == 2  # comes after the cancellations
    finally:
        go_on.set()


def test_a_connection_stays_open_for_others_when_most_of_its_calls_are_cancelled(
    channel: grpc.Channel, stub: prediction_service_pb2_grpc.PredictionServiceStub
) -> None:
    go_on = threading.Event()

    def message() -> Iterator[bytes]:
        go_on.wait(TIMEOUT)
        yield asking(6).SerializeToString()

    method: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(PREDICT)
    other = method.future(message(), timeout=TIMEOUT)
    try:
        for number in range(600):
            call = stub.Predict.future(asking(number), timeout=TIMEOUT)
            call.cancel()
            if number % 25 == 0:
                assert half(stub.Predict(asking(4), timeout=TIMEOUT)) == 2  # and the server has seen those before
    finally:
        go_on.set()
    assert half(predict_pb2.PredictResponse.FromString(other.result())) == 3


def test_answers_do_not_tell_what_carries_them(stub: prediction_service_pb2_grpc.PredictionServiceStub) -> None:
    _, call = stub.Predict.with_call(asking(4), timeout=TIMEOUT)
    assert "server" not in dict(call.initial_metadata())
