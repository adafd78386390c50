"""Another list of models for a server that runs: what is waited for, what is judged, what is told of it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from glyph_serving.metrics import first_samples
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

from tests.conftest import Server, running_server
from tests.serving.conftest import ask, publish

MODEL = "/v1/models/half_plus_two"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two versions, the newer of which is broken."""
    folder = tmp_path_factory.mktemp("reload")
    publish(folder, 1)
    (publish(folder, 2) / "saved_model.pb").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    (folder / "models.config").write_text(
        f'model_config_list {{ config {{ name: "half_plus_two" base_path: "{folder}" model_platform: "tensorflow" '
        "model_version_policy { all { } } } }"
    )
    with running_server(f"--model_config_file={folder / 'models.config'}", "--max_num_load_retries=0") as running:
        yield running


def reload(server: Server, *metrics: str, **base_paths: object) -> model_management_pb2.ReloadConfigResponse:
    request = model_management_pb2.ReloadConfigRequest(metric_names=metrics)
    for name, path in base_paths.items():
        request.config.model_config_list.config.add(name=name, base_path=str(path), model_platform="tensorflow")
    with grpc.insecure_channel(server.grpc) as channel:
        stub: Any = model_service_pb2_grpc.ModelServiceStub(channel)
        return stub.HandleReloadConfigRequest(request, timeout=60)


def states(server: Server) -> dict[str, str]:
    return {one["version"]: one["state"] for one in ask(server, MODEL)[1]["model_version_status"]}


def test_a_version_that_works_is_served_though_another_does_not(server: Server) -> None:
    assert states(server) == {"2": "END", "1": "AVAILABLE"}
    assert ask(server, f"{MODEL}:predict", {"instances": [[1.0]]})[0] == 200


def test_a_model_that_is_served_is_not_judged_and_keeps_what_works(server: Server, folder: Path) -> None:
    reload(server, half_plus_two=folder)  # now by the newest version alone
    assert states(server) == {"2": "END", "1": "AVAILABLE"}
    reload(server, half_plus_two="/nonexistent")
    assert ask(server, f"{MODEL}:predict", {"instances": [[1.0]]})[0] == 200


def test_a_new_model_that_cannot_be_loaded_is_told(server: Server, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "2", tmp_path / "7")
    with pytest.raises(grpc.RpcError) as refused:
        reload(server, half_plus_two=folder, new=tmp_path)
    assert refused.value.code() is grpc.StatusCode.UNKNOWN
    assert (refused.value.details() or "").startswith(
        "1 model(s) did not become available: {{{name: new version: 7} due to error: NOT_FOUND: Could not find meta "
    )
    assert ask(server, f"{MODEL}:predict", {"instances": [[1.0]]})[0] == 200


def test_counters_that_are_asked_for_are_told_by_how_much_they_grew(server: Server, folder: Path) -> None:
    first = folder.parent / "a"  # the first of all paths in the metrics, so that its counter is what is told
    first.mkdir()
    publish(first, 1)
    reload(server, half_plus_two=folder, first=first)
    reload(server, half_plus_two=folder)
    loads, unknown = "/tensorflow/cc/saved_model/load_attempt_count", "foo"
    response = reload(server, loads, unknown, half_plus_two=folder, first=first)
    assert [(one.name, one.int64_value_increase) for one in response.metric] == [(loads, 1), (unknown, 0)]
    assert response.metric[1].HasField("int64_value_increase")
    assert not reload(server, half_plus_two=folder).metric


def test_the_first_value_of_a_counter_is_what_counts() -> None:
    text = b'# TYPE :a:b counter\n:a:b{x="1"} 3\n:a:b{x="2"} 5\n# TYPE :c counter\n# TYPE :d histogram\n:d_sum{} 7\n'
    assert first_samples(text, ["/a/b", "/c", "/d", "/e"]) == {"/a/b": 3, "/c": 0, "/d": 0, "/e": 0}
