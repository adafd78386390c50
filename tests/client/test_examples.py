"""The examples of client/README.md run as they stand."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Certificates

CLIENT = Path(__file__).resolve().parents[2] / "client"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", (CLIENT / "README.md").read_text(), re.M | re.S)
# What an example prints, by a mark that only this one has.
PROOF = {
    'Client("localhost:8500") as client:\n    print(client.predict(': "7\n",
    "predict_many": "7.0.png [('7', ",
    "AsyncClient": "['0', '1', '2', '3', ",
    "AccessDenied": "7\n",
    "metadata": "(1, 10)\n",
    "MockTransport": "",
    "opentelemetry": "",
}


@pytest.fixture(scope="module")
def gateway(
    models_dir: Path,
    certificates: Certificates,
    serve: Callable[..., contextlib.AbstractContextManager[Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """A server with TLS."""
    config = tmp_path_factory.mktemp("gateway") / "ssl.config"
    pair = {"server_key": certificates.key, "server_cert": certificates.certificate}
    config.write_text("\n".join(f"{name}: {json.dumps(path.read_text())}" for name, path in pair.items()))
    model = ["--model_name=digits", f"--model_base_path={models_dir / 'digits'}"]
    with serve(*model, f"--ssl_config_file={config}") as running:
        yield running


@pytest.mark.parametrize("mark", PROOF)
def test_an_example_runs(mark: str, server: Any, gateway: Any, certificates: Certificates, tmp_path: Path) -> None:
    [code] = [block for block in BLOCKS if mark in block]
    code = code.replace("localhost:8500", server.grpc).replace("localhost:8443", gateway.grpc)
    (tmp_path / "client").symlink_to(CLIENT)
    (tmp_path / "ca.crt").symlink_to(certificates.authority)
    environment = {**os.environ, "GLYPH_API_KEY": "a2V5"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert PROOF[mark] in done.stdout


def test_no_example_is_left_out() -> None:
    assert len(BLOCKS) == len(PROOF)
