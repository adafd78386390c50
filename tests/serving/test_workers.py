"""Two workers on the same ports that look like one server."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

from tests.conftest import Certificates, Server, Started, find_free_ports, running_server
from tests.serving.conftest import RECORDED_MODELS, ask, publish

WITHIN = 60.0
MODEL = "/v1/models/half_plus_two"


def workers_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    return Path(f"/proc/{process}/stat").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    models = folder / "models.config"
    models.write_text(
        f'model_config_list {{ config {{ name: "half_plus_two" base_path: "{RECORDED_MODELS / "half_plus_two"}" '
        'model_platform: "tensorflow" '
        f'logging_config {{ log_collector_config {{ type: "tfrecord" filename_prefix: "{folder / "requests"}" }} '
        "sampling_config { sampling_rate: 1 } } } }"
    )
    monitoring = folder / "monitoring.config"
    monitoring.write_text('prometheus_config { enable: true path: "/metrics" }')
    batching = monitoring.with_name("batching.config")
    batching.write_text("max_batch_size { value: 1 }")
    with running_server(
        "--workers=2",
        f"--model_config_file={models}",
        "--request_log_files=1",
        f"--monitoring_config_file={monitoring}",
        "--enable_batching",
        f"--batching_parameters_file={batching}",
    ) as running:
        yield running


def test_there_are_as_many_processes_and_one_line_says_that_all_are_ready(server: Server) -> None:
    assert len(workers_of(server.running.process.pid)) == 2
    assert sum("glyph-serve: ready" in line for line in server.log.splitlines()) == 1


def test_metrics_of_all_are_one(server: Server) -> None:
    for _ in range(32):  # each over a connection of its own, which the kernel gives to either
        assert ask(server, f"{MODEL}:predict", {"instances": [[1.0]]})[0] == 200
    sample = ':tensorflow:serving:request_count{model_name="half_plus_two",status="OK"} 32'
    assert all(sample in ask(server, "/metrics")[1].splitlines() for _ in range(4))


def test_small_batches_turn_nobody_away(server: Server) -> None:
    with ThreadPoolExecutor(32) as callers:
        answers = callers.map(lambda _: ask(server, f"{MODEL}:predict", {"instances": [[1.0]]}), range(128))
        assert {status for status, _ in answers} == {200}


def test_names_of_models_may_hold_separators_of_lines(server: Server) -> None:
    for name in ("a%E2%80%A8b", "a%C2%85b", "a%0Cb"):
        assert ask(server, f"/v1/models/{name}:predict", {"instances": [[1.0]]})[0] == 404
    assert all(ask(server, "/metrics")[0] == 200 for _ in range(4))


def test_each_logs_requests_in_files_of_its_own(server: Server, folder: Path) -> None:
    for _ in range(32):
        assert ask(server, f"{MODEL}:predict", {"instances": [[1.0]]})[0] == 200
    counted = re.compile(r':tensorflow:serving:request_log_count\{model_name="half_plus_two",status_code="OK"\} (\d+)')

    def written() -> int:
        files = [str(path) for path in folder.glob("requests-worker-*-000001.tfrecord")]
        assert len(files) == 2
        return sum(1 for _ in tf.data.TFRecordDataset(files))

    wait_until(lambda: written() == int(counted.findall(ask(server, "/metrics")[1])[0]) >= 32)


def reload_version_1(server: Server) -> None:
    request = model_management_pb2.ReloadConfigRequest()
    entry = request.config.model_config_list.config.add(
        name="half_plus_two", base_path=str(RECORDED_MODELS / "half_plus_two"), model_platform="tensorflow"
    )
    entry.model_version_policy.specific.versions.append(1)
    with grpc.insecure_channel(server.grpc) as channel:
        model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request, timeout=WITHIN)


def test_a_reload_holds_for_all(server: Server) -> None:
    reload_version_1(server)
    for _ in range(16):
        assert ask(server, f"{MODEL}/versions/1:predict", {"instances": [[1.0]]})[0] == 200
        states = {one["version"]: one["state"] for one in ask(server, MODEL)[1]["model_version_status"]}
        assert states == {"3": "END", "1": "AVAILABLE"}


def test_a_reload_that_is_refused_changes_none(server: Server) -> None:
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="gone", base_path="/nonexistent", model_platform="tensorflow")
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as error:
        model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request, timeout=WITHIN)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert all(ask(server, f"{MODEL}:predict", {"instances": [[1.0]]})[0] == 200 for _ in range(8))


def test_a_worker_that_dies_is_replaced_by_one_that_serves_what_was_reloaded(server: Server) -> None:
    reload_version_1(server)
    first, second = workers_of(server.running.process.pid)
    os.kill(first, signal.SIGKILL)
    server.running.wait_for("worker 0 ended with -9 and is started anew")
    assert ask(server, f"{MODEL}:predict", {"instances": [[1.0]]})[0] == 200
    server.running.wait_for("glyph-serve: ready")
    os.kill(second, signal.SIGKILL)  # so that the new one has to answer
    server.running.wait_for("worker 1 ended with -9 and is started anew")
    for _ in range(8):
        assert ask(server, f"{MODEL}/versions/1:predict", {"instances": [[1.0]]})[0] == 200
        assert ask(server, f"{MODEL}/versions/3:predict", {"instances": [[1.0]]})[0] == 404
    wait_until(lambda: len(workers_of(server.running.process.pid)) == 2)


def test_a_worker_is_replaced_though_the_certificate_is_gone_that_all_use(
    tmp_path: Path, certificates: Certificates
) -> None:
    pair = tmp_path / "ssl.config"
    key, certificate = (json.dumps(file.read_text()) for file in (certificates.key, certificates.certificate))
    pair.write_text(f"server_key: {key} server_cert: {certificate}")
    model = ["--model_name=half_plus_two", f"--model_base_path={RECORDED_MODELS / 'half_plus_two'}"]
    with running_server("--workers=2", f"--ssl_config_file={pair}", f"--rest_ssl_config_file={pair}", *model) as server:
        pair.unlink()
        os.kill(workers_of(server.running.process.pid)[0], signal.SIGKILL)
        server.running.wait_for("glyph-serve: ready")


def test_models_that_cannot_be_loaded_end_all_however_long_the_tries_take(
    start: Callable[..., AbstractContextManager[Started]], tmp_path: Path
) -> None:
    (publish(tmp_path, 1) / "saved_model.pb").write_bytes(b"")
    grpc_port, rest_port = find_free_ports(2)
    ports = ["--address=127.0.0.1", f"--port={grpc_port}", f"--rest_api_port={rest_port}"]
    model = [f"--model_base_path={tmp_path}", "--max_num_load_retries=0"]
    at_once = "from glyph_serving import cli, workers; workers._SETTLED_SECONDS = 0.0; cli.main()"
    with start([sys.executable, "-c", at_once, "--workers=2", *ports, *model]) as running:
        assert running.ended() == 255
        assert "is started anew" not in running.log


def test_a_killed_server_leaves_no_worker(server: Server) -> None:
    processes = workers_of(server.running.process.pid)
    os.kill(server.running.process.pid, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(process) for process in processes))
