"""The servers that the recordings are replayed against, and the recordings."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server, running_server

HERE = Path(__file__).parent
MODELS = HERE / "models"

MODEL_CONFIG = f"""
model_config_list {{
  config {{ name: "digits" base_path: "{MODELS}/digits" model_platform: "tensorflow" }}
  config {{
    name: "half_plus_two" base_path: "{MODELS}/half_plus_two" model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "canary" value: 2 }}
  }}
}}
"""
MONITORING_CONFIG = 'prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }'


def recordings(name: str) -> list[dict[str, Any]]:
    """The recorded exchanges of one file."""
    return [json.loads(line) for line in (HERE / f"{name}.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")]


def flags(folder: Path) -> list[str]:
    """What makes a server of the recorded models, configured as the genuine one was."""
    (folder / "models.config").write_text(MODEL_CONFIG)
    (folder / "monitoring.config").write_text(MONITORING_CONFIG)
    return [
        f"--model_config_file={folder / 'models.config'}",
        f"--monitoring_config_file={folder / 'monitoring.config'}",
        "--allow_version_labels_for_unavailable_models",
    ]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """Two servers: one as it comes ("default"), and one without oneDNN's kernels ("plain")."""
    recorded = flags(tmp_path_factory.mktemp("recorded"))
    without = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    with running_server(*recorded) as default, running_server(*recorded, env=without) as plain:
        yield {"default": default, "plain": plain}
