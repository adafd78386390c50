"""Versions that fail, and are tried again much later, hold up no other; those that are being copied are waited for."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tests.conftest import Server, running_server
from tests.serving.conftest import RECORDED_MODELS, ask, publish
from tests.serving.test_lifecycle import wait_until
from tests.serving.test_reload import reload

MODEL = "/v1/models/half_plus_two"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retries")
    publish(folder, 1)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    flags = ["--load_retry_interval_micros=600000000", "--file_system_poll_wait_seconds=2"]
    with running_server("--model_name=half_plus_two", f"--model_base_path={folder}", *flags) as running:
        yield running


def states(server: Server) -> dict[str, tuple[str, str]]:
    _, answer = ask(server, MODEL)
    return {one["version"]: (one["state"], one["status"]["error_message"]) for one in answer["model_version_status"]}


def test_a_version_that_will_be_tried_again_says_why_and_holds_up_no_other(server: Server, folder: Path) -> None:
    shutil.copytree(RECORDED_MODELS / "half_plus_two" / "1", folder / "tmp")
    (folder / "tmp" / "saved_model.pb").write_bytes(bytes(1000))
    (folder / "tmp").rename(folder / "2")
    wait_until(lambda: states(server).get("2", ("", ""))[1] != "")
    assert states(server)["2"][0] == "LOADING"
    assert "as binary proto" in states(server)["2"][1]
    publish(folder, 3)
    wait_until(lambda: states(server).get("3", ("",))[0] == "AVAILABLE")
    wait_until(lambda: states(server)["2"][0] == "END")  # it is not wanted any more


def test_a_version_that_could_be_loaded_half_copied_is_not(server: Server, folder: Path) -> None:
    shutil.copytree(RECORDED_MODELS / "half_plus_two" / "1", folder / "4")
    for number in range(20):
        time.sleep(0.2)  # as a slow copy does
        (folder / "4" / f"asset{number}").touch()
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.name = "half_plus_two"
    log.predict_log.request.inputs["wrong"].CopyFrom(tf.make_tensor_proto([[1.0]]))
    (folder / "4" / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(folder / "4" / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())
    wait_until(lambda: "warm-up request 1 failed" in states(server).get("4", ("", ""))[1])
    assert [state for state, _ in states(server).values()].count("AVAILABLE") == 1
    assert states(server)["4"][0] != "AVAILABLE"


def test_a_version_half_copied_at_the_first_look_is_served_once_it_is_whole(server: Server, tmp_path: Path) -> None:
    whole = RECORDED_MODELS / "half_plus_two" / "1"
    (tmp_path / "5").mkdir()
    shutil.copy(whole / "saved_model.pb", tmp_path / "5")
    reload(server, half_plus_two=tmp_path)
    wait_until(lambda: "variables" in states(server).get("5", ("", ""))[1])
    shutil.copytree(whole, tmp_path / "5", dirs_exist_ok=True)
    wait_until(lambda: states(server)["5"][0] == "AVAILABLE")
