"""Versions come, go and fail under the eyes of one server, which goes on answering."""

import http.client
import itertools
import json
import os
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

from tests.conftest import Server, running_server
from tests.serving.conftest import RECORDED_MODELS, ask, publish

WITHIN = 30.0  # seconds
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Home:
    """A server, its model's folder and its config file."""

    def __init__(self, folder: Path) -> None:
        self.model = folder / "half_plus_two"
        self.config = folder / "models.config"
        self.server: Server

    def configure(self, *models: str) -> None:
        """Writes the config file, as one that appears at once."""
        text = "".join(f"config {{ {model} }}" for model in models)
        (self.config.parent / "next").write_text(f"model_config_list {{ {text} }}")
        (self.config.parent / "next").rename(self.config)

    def entry(self, extra: str = "") -> str:
        return f'name: "half_plus_two" base_path: "{self.model}" model_platform: "tensorflow" {extra}'

    def states(self, model: str = "half_plus_two") -> dict[int, tuple[str, str]]:
        """State and error message of every version."""
        _, answer = ask(self.server, f"/v1/models/{model}")
        return {
            int(one["version"]): (one["state"], one["status"]["error_message"])
            for one in answer.get("model_version_status", [])
        }

    def wait_for(self, *versions: int) -> None:
        """Waits until exactly these versions are available."""
        wait_until(lambda: [v for v, (state, _) in self.states().items() if state == "AVAILABLE"] == [*versions])

    def answering(self, path: str = "/v1/models/half_plus_two") -> Any:
        return ask(self.server, f"{path}:predict", {"instances": [[1.0]]})


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    home.model.mkdir()
    publish(home.model, 1)
    home.configure(home.entry())
    with running_server(
        f"--model_config_file={home.config}",
        "--model_config_file_poll_wait_seconds=1",
        "--max_num_load_retries=1",
        "--load_retry_interval_micros=100000",
        "--grace_period_seconds=20",
        "--log_format=json",
        "--enable_batching",
        "--enable_per_model_batching_parameters",
        "--enable_signature_method_name_check",
        "--enable_grpc_healthcheck_service",
    ) as home.server:
        yield home


def test_a_newer_version_takes_over_without_a_failed_request(home: Home) -> None:
    stop = threading.Event()
    failures: list[Any] = []

    def keep_asking() -> int:
        for count in itertools.count(1):
            status, answer = home.answering()
            if status != 200:
                failures.append(answer)
            if stop.is_set():
                return count
        raise AssertionError

    with ThreadPoolExecutor(2) as callers:
        counts = [callers.submit(keep_asking) for _ in range(2)]
        try:
            publish(home.model, 2, source=2)
            home.wait_for(2)
            wait_until(lambda: home.states()[1][0] == "END")
        finally:
            stop.set()
        assert sum(count.result() for count in counts) > 2
    assert not failures


def test_a_version_that_is_copied_in_place_is_served_once_it_is_whole(home: Home) -> None:
    source = RECORDED_MODELS / "half_plus_two" / "1"
    copy = home.model / "3"
    copy.mkdir()
    wait_until(lambda: "does not appear to contain a SavedModel" in home.states().get(3, ("", ""))[1])
    assert home.answering()[0] == 200
    shutil.copytree(source, copy, dirs_exist_ok=True)
    home.wait_for(3)


def test_a_corrupt_version_is_never_served_and_the_status_says_why(home: Home) -> None:
    staging = home.model / "tmp"
    shutil.copytree(RECORDED_MODELS / "half_plus_two" / "1", staging)
    (staging / "saved_model.pb").write_bytes(b"no protobuf")
    staging.rename(home.model / "4")
    wait_until(lambda: home.states().get(4, ("",))[0] == "END")
    assert "4" in home.states()[4][1] or home.states()[4][1]
    assert home.states()[3][0] == "AVAILABLE"
    assert home.answering()[0] == 200
    shutil.rmtree(home.model / "4")


def test_a_version_whose_warm_up_fails_is_never_served_and_the_status_says_why(home: Home) -> None:
    staging = home.model / "tmp"
    shutil.copytree(RECORDED_MODELS / "half_plus_two" / "1", staging)
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.name = "half_plus_two"
    log.predict_log.request.inputs["wrong"].CopyFrom(tf.make_tensor_proto([[1.0]]))
    (staging / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(staging / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())
    staging.rename(home.model / "5")
    wait_until(lambda: home.states().get(5, ("",))[0] == "END")
    assert "warm-up request 1 failed: Signature input alias: x(feed name: " in home.states()[5][1]
    assert home.states()[3][0] == "AVAILABLE"
    shutil.rmtree(home.model / "5")


def test_failures_and_retries_are_logged_as_json(home: Home) -> None:
    home.server.running.wait_for("warm-up request 1 failed")
    entries = [json.loads(line) for line in home.server.log.splitlines() if line.startswith("{")]
    tries = [entry["message"] for entry in entries if "version 5" in entry["message"]]
    assert [f"try {attempt} of 2" in message for attempt, message in enumerate(tries, 1)] == [True, True]
    assert {entry["level"] for entry in entries} == {"warning"}


def test_numbers_too_large_for_the_input_leave_the_log_as_json(home: Home) -> None:
    status, answer = ask(home.server, "/v1/models/half_plus_two:predict", b'{"instances": [[1e39]]}')
    assert (status, answer) == (200, {"predictions": [[float("inf")]]})
    assert "overflow" not in home.server.log


def test_the_config_file_is_read_again_when_it_changes(home: Home) -> None:
    publish(home.model, 6)
    home.configure(home.entry("model_version_policy { specific { versions: 3 versions: 6 } }"))
    home.wait_for(6, 3)


def test_labels_are_given_to_available_versions_only(home: Home) -> None:
    both = "model_version_policy { specific { versions: 3 versions: 6 } }"
    home.configure(home.entry(f'{both} version_labels {{ key: "stable" value: 9 }}'))
    home.server.running.wait_for("is not in effect: FAILED_PRECONDITION")
    home.configure(home.entry(f'{both} version_labels {{ key: "stable" value: 3 }}'))
    wait_until(lambda: home.answering("/v1/models/half_plus_two/labels/stable")[0] == 200)


def test_a_config_file_that_was_refused_is_in_effect_as_soon_as_it_can_be(home: Home) -> None:
    several = "model_version_policy { specific { versions: 3 versions: 6 versions: 61 } }"
    home.configure(home.entry(several))
    wait_until(lambda: home.answering("/v1/models/half_plus_two/labels/stable")[0] == 400)
    home.configure(home.entry(f'{several} version_labels {{ key: "next" value: 61 }}'))
    home.server.running.wait_for("assign label to version 61")
    publish(home.model, 61)
    wait_until(lambda: home.answering("/v1/models/half_plus_two/labels/next")[0] == 200)
    home.configure(home.entry())
    shutil.rmtree(home.model / "61")
    home.wait_for(6)


def test_sighup_reads_the_config_file_at_once_and_a_removed_model_is_gone(home: Home) -> None:
    home.configure(
        home.entry(), f'name: "digits" base_path: "{RECORDED_MODELS / "digits"}" model_platform: "tensorflow"'
    )
    home.server.running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: ask(home.server, "/readyz") == (200, "half_plus_two: version 6\ndigits: version 1\n"))
    home.configure(home.entry())
    home.server.running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: ask(home.server, "/v1/models/digits:predict", {"instances": []})[0] in (400, 404))
    wait_until(lambda: home.states("digits").get(1, ("END",))[0] == "END")


def test_readiness_names_a_model_that_is_not_available(home: Home) -> None:
    empty = home.model.parent / "empty"
    (empty / "1").mkdir(parents=True)
    home.configure(home.entry(), f'name: "empty" base_path: "{empty}" model_platform: "tensorflow"')
    wait_until(lambda: ask(home.server, "/readyz") == (503, "half_plus_two: version 6\nempty: not available\n"))
    assert ask(home.server, "/healthz") == (200, "alive\n")
    home.configure(home.entry())
    wait_until(lambda: ask(home.server, "/readyz")[0] == 200)


def test_a_version_may_bring_batching_parameters_of_its_own(home: Home) -> None:
    five = {"instances": [[1.0]] * 5}
    assert ask(home.server, "/v1/models/half_plus_two:predict", five)[0] == 200
    staging = home.model / "tmp"
    shutil.copytree(RECORDED_MODELS / "half_plus_two" / "1", staging)
    (staging / "batching_params.pbtxt").write_text("max_batch_size { value: 4 }")
    staging.rename(home.model / "7")
    home.wait_for(7)
    status, answer = ask(home.server, "/v1/models/half_plus_two:predict", five)
    assert (status, answer["error"]) == (400, "Task size 5 is larger than maximum input batch size 4")


def test_method_names_are_checked_where_that_is_asked_for(home: Home) -> None:
    body = {"signature_name": "serving_default", "examples": [{"x": 1.0}]}
    status, answer = ask(home.server, "/v1/models/half_plus_two:classify", body)
    was = "Expected classification signature method_name to be tensorflow/serving/classify. Was: "
    assert (status, answer["error"]) == (400, f"{was}tensorflow/serving/predict")


def test_sigterm_answers_what_is_in_flight_refuses_what_is_new_and_leaves_nothing(home: Home) -> None:
    """The request in flight is one whose body has not come whole, which no time limit of the test's own decides."""
    host, _, port = home.server.rest.removeprefix("http://").partition(":")
    slow = http.client.HTTPConnection(host, int(port), timeout=WITHIN)
    body = json.dumps({"instances": [[1.0]]}).encode()
    slow.putrequest("POST", "/v1/models/half_plus_two:predict")
    slow.putheader("Content-Length", str(len(body)))
    slow.endheaders(body[:5])
    channel = grpc.insecure_channel(home.server.grpc)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half_plus_two"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([[1.0]]))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    stub.Predict(request, timeout=WITHIN)
    os.kill(home.server.running.process.pid, signal.SIGTERM)

    def refused() -> bool:
        try:
            stub.Predict(request, timeout=WITHIN)
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAVAILABLE)
        return False

    wait_until(refused)
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=WITHIN).status == NOT_SERVING
    assert [one.status for one in health.Watch(health_pb2.HealthCheckRequest(), timeout=WITHIN)] == [NOT_SERVING]
    channel.close()
    slow.send(body[5:])
    assert slow.getresponse().status == 200
    slow.close()
    assert home.server.running.ended() == 0
    assert "Traceback" not in home.server.log
    with pytest.raises(urllib.error.URLError):
        ask(home.server, "/healthz")
