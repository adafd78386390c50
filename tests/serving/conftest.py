"""One server that most tests ask, and folders of versions that the others change under a server's eyes."""

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server, running_server

RECORDED_MODELS = Path(__file__).parent.parent / "conformance" / "models"


def publish(base_path: Path, version: int, source: int = 1) -> Path:
    """Puts a version of half_plus_two into a model's folder, all at once."""
    staging = base_path / f"tmp-{version}"
    shutil.copytree(RECORDED_MODELS / "half_plus_two" / str(source), staging)
    return staging.rename(base_path / str(version))


def ask(server: Server, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
    """The status and the JSON (or text) of a REST answer."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.rest}{path}", data, headers)  # noqa: S310 (always http)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 (always http)
            status, text = response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text.decode()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of both recorded models, with everything switched on."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "models.config").write_text(
        f'model_config_list {{ config {{ name: "digits" base_path: "{RECORDED_MODELS}/digits" '
        'model_platform: "tensorflow" } '
        f'config {{ name: "half_plus_two" base_path: "{RECORDED_MODELS}/half_plus_two" model_platform: "tensorflow" '
        "model_version_policy { specific { versions: 1 versions: 2 } } "
        'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 } } }'
    )
    (folder / "batching.config").write_text(
        "max_batch_size { value: 64 } allowed_batch_sizes: 4 allowed_batch_sizes: 64"
    )
    (folder / "monitoring.config").write_text('prometheus_config { enable: true path: "/metrics" }')
    with running_server(
        f"--model_config_file={folder / 'models.config'}",
        "--allow_version_labels_for_unavailable_models",
        "--enable_batching",
        f"--batching_parameters_file={folder / 'batching.config'}",
        f"--monitoring_config_file={folder / 'monitoring.config'}",
        "--enable_grpc_healthcheck_service",
        "--rest_api_enable_cors_support",
    ) as running:
        yield running
