"""However one version comes to take the place of another: no request fails meanwhile, large ones and small ones."""

import itertools
import os
import shutil
import signal
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from glyph_serving.source import fingerprint
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc, regression_pb2

from tests.conftest import BIN, Server, find_free_ports, running_server, started
from tests.serving.conftest import RECORDED_MODELS, ask, publish
from tests.serving.test_lifecycle import wait_until

MODEL = "/v1/models/half_plus_two"


def configure(config: Path, model: Path, policy: str = "") -> None:
    text = f'name: "half_plus_two" base_path: "{model}" model_platform: "tensorflow" {policy}'
    (config.parent / "next").write_text(f"model_config_list {{ config {{ {text} }} }}")
    (config.parent / "next").rename(config)


def available(server: Server, model: str = MODEL) -> list[str]:
    _, answer = ask(server, model)
    return [one["version"] for one in answer.get("model_version_status", []) if one["state"] == "AVAILABLE"]


@contextmanager
def asking(*questions: Callable[[], Any]) -> Iterator[None]:
    """Asks all the time, each question on a thread of its own; in the end none of them may have failed."""
    stop = threading.Event()
    failures: list[Any] = []

    def keep_asking(question: Callable[[], Any]) -> int:
        for count in itertools.count(1):
            if failure := question():
                failures.append(failure)
            if stop.is_set():
                return count
        raise AssertionError

    with ThreadPoolExecutor(len(questions)) as callers:
        counts = [callers.submit(keep_asking, question) for question in questions]
        try:
            yield
        finally:
            stop.set()
        assert all(count.result() > 2 for count in counts)
    assert not failures, (len(failures), failures[:3])


def ask_soon(server: Server, path: str, body: bytes) -> int:
    """The status of an answer; 0 from a worker that does not answer."""
    request = urllib.request.Request(f"{server.rest}{path}", body)  # noqa: S310 (always http)
    try:
        with urllib.request.urlopen(request, timeout=1) as response:  # noqa: S310 (always http)
            return int(response.status)
    except OSError as error:
        return int(getattr(error, "code", 0))


def asked_over_rest(server: Server, instances: int = 1) -> Callable[[], Any]:
    body = b'{"instances": [%s]}' % b", ".join([b"[1.5]"] * instances)

    def question() -> Any:
        status, answer = ask(server, f"{MODEL}:predict", body)
        return None if status == 200 else answer

    return question


@contextmanager
def corrected_while_starting(*flags: str, seen: str, correct: Callable[[], None]) -> Iterator[Server]:
    """A server that could not start as it is configured, and is put right once it has said so."""
    ports = find_free_ports(2)
    where = ["--address=127.0.0.1", f"--port={ports[0]}", f"--rest_api_port={ports[1]}"]
    with started([BIN / "glyph-serve", *where, *flags]) as running:
        running.wait_for(seen)
        correct()
        running.wait_for("glyph-serve: ready")
        yield Server(running, f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base path that is a link to a release, which holds version 1."""
    (tmp_path / "release1").mkdir()
    publish(tmp_path / "release1", 1)
    (tmp_path / "model").symlink_to("release1")
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    configure(folder / "models.config", folder / "model")
    with running_server(f"--model_config_file={folder / 'models.config'}") as running:
        yield running


def by_a_link(server: Server, folder: Path) -> None:
    """Another release behind the link."""
    (folder / "release2").mkdir()
    publish(folder / "release2", 2, source=2)
    (folder / "link").symlink_to("release2")
    (folder / "link").rename(folder / "model")


def by_moving(server: Server, folder: Path) -> None:
    """The old version away and the new one there, quicker than anybody looks."""
    publish(folder, 2, source=2)
    (folder / "model" / "1").rename(folder / "away")
    (folder / "2").rename(folder / "model" / "2")


def by_policy(server: Server, folder: Path) -> None:
    """A new version that nobody has looked at yet, which the policy wants by its number."""
    publish(folder / "model", 2, source=2)
    configure(folder / "models.config", folder / "model", "model_version_policy { specific { versions: 2 } }")
    server.running.process.send_signal(signal.SIGHUP)


@pytest.mark.parametrize("swap", [by_a_link, by_moving, by_policy])
def test_the_old_version_stays_until_the_new_one_is_available(
    server: Server, folder: Path, swap: Callable[[Server, Path], None]
) -> None:
    with asking(asked_over_rest(server)):
        swap(server, folder)
        wait_until(lambda: available(server) == ["2"])


def test_a_request_that_is_being_read_when_its_version_is_unloaded_is_answered_by_the_next(
    server: Server, folder: Path
) -> None:
    def regress() -> Any:
        request = regression_pb2.RegressionRequest()
        request.model_spec.name, request.model_spec.signature_name = "half_plus_two", "regress_x_to_y"
        example = tf.train.Example()
        example.features.feature["x"].float_list.value.append(1.0)
        request.input.example_list.examples.extend([example] * 2000)
        return call(lambda stub: stub.Regress(request, timeout=30))

    def predict() -> Any:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "half_plus_two"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.zeros((100_000, 1), np.float32)))
        return call(lambda stub: stub.Predict(request, timeout=30))

    def call(ask_it: Callable[[Any], Any]) -> Any:
        try:
            ask_it(prediction_service_pb2_grpc.PredictionServiceStub(channel))
        except grpc.RpcError as error:
            return f"{error.code()}: {error.details()}"

    with grpc.insecure_channel(server.grpc) as channel:
        large = asked_over_rest(server, 60_000)
        with asking(large, large, regress, predict):
            for version in range(2, 10):
                publish(folder / "model", version)
                wait_until(lambda version=version: available(server) == [f"{version}"])  # type: ignore[misc]


def test_a_version_that_fails_is_looked_for_where_the_base_path_has_come_to_be(tmp_path: Path) -> None:
    for name in ("wrong", "right"):
        (tmp_path / name).mkdir()
    (publish(tmp_path / "wrong", 1) / "saved_model.pb").write_bytes(b"")
    publish(tmp_path / "right", 1)
    config = tmp_path / "models.config"
    configure(config, tmp_path / "wrong")
    flags = ["--model_config_file_poll_wait_seconds=1", "--load_retry_interval_micros=600000000"]
    with corrected_while_starting(
        f"--model_config_file={config}",
        *flags,
        seen="failed to load, try 1 of 6",
        correct=lambda: configure(config, tmp_path / "right"),
    ) as server:
        assert available(server) == ["1"]
        configure(config, tmp_path / "wrong")
        line = server.running.wait_for("goes on being served from")
        assert f"from {tmp_path / 'right' / '1'}, not {tmp_path / 'wrong' / '1'}" in line
        assert available(server) == ["1"]


def test_a_base_path_that_is_missing_at_the_start_can_be_corrected_in_the_polled_file(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    config = tmp_path / "models.config"
    configure(config, tmp_path / "nowhere")

    with corrected_while_starting(
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=1",
        seen="Looking again every",
        correct=lambda: configure(config, tmp_path),
    ) as server:
        assert available(server) == ["1"]


def test_a_folder_that_may_not_be_read_stands_still_and_its_load_says_why() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name) / "1"
        shutil.copytree(RECORDED_MODELS / "half_plus_two" / "1", folder)
        Path(name).chmod(0o755)
        folder.chmod(0o644)
        user = os.geteuid()
        os.seteuid(user or 65534)  # root may read everything
        try:
            first, second = fingerprint(folder), fingerprint(folder)
        finally:
            os.seteuid(user)
        folder.chmod(0o755)
        assert first == second != fingerprint(folder)


def test_ready_is_what_all_workers_are(tmp_path: Path) -> None:
    publish(tmp_path / "one", 1)
    slow = publish(tmp_path / "two", 1)
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.name = "half_plus_two"
    log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto([[1.0]]))
    (slow / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(slow / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for _ in range(1000):
            writer.write(log.SerializeToString())
    config = tmp_path / "models.config"
    configure(config, tmp_path / "one")
    flags = ["--workers=2", "--num_request_iterations_for_warmup=30"]
    with running_server(f"--model_config_file={config}", *flags) as server:
        children = Path(f"/proc/{server.running.process.pid}/task/{server.running.process.pid}/children")
        behind = int(children.read_text().split()[1])
        os.kill(behind, signal.SIGSTOP)
        text = config.read_text().removesuffix(" }")
        config.write_text(
            f'{text} config {{ name: "two" base_path: "{tmp_path / "two"}" model_platform: "tensorflow" }} }}'
        )
        server.running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: ask_soon(server, "/v1/models/two:predict", b'{"instances": [[1.0]]}') == 200)
        os.kill(behind, signal.SIGCONT)

        def available_to_all() -> bool:
            ready, _ = ask(server, "/readyz")
            states = [one["state"] for one in ask(server, "/v1/models/two")[1].get("model_version_status", [])]
            assert ready == 503 or states == ["AVAILABLE"]
            return states == ["AVAILABLE"]

        wait_until(available_to_all)
