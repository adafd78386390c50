"""The distribution: what it exports, ships, weighs and needs."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
import venv
from pathlib import Path

import glyph_client
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

CLIENT = Path(__file__).resolve().parents[2] / "client"
SAMPLES = sorted((CLIENT / "samples").iterdir())
LIMIT = 130_000_000  # bytes installed, with all dependencies


def test_all_names_exactly_what_is_imported() -> None:
    tree = ast.parse((CLIENT / "glyph_client" / "__init__.py").read_text())
    imported = [
        name.asname or name.name for node in tree.body if isinstance(node, ast.ImportFrom) for name in node.names
    ]
    assert sorted(glyph_client.__all__) == sorted(imported)


def test_both_clients_take_the_same_parameters() -> None:
    names = [name for name in dir(glyph_client.Client) if not name.startswith("_")]
    assert names == [name for name in dir(glyph_client.AsyncClient) if not name.startswith("_")]
    for name in ("__init__", *names):
        one, other = (getattr(each, name) for each in (glyph_client.Client, glyph_client.AsyncClient))
        shapes = [
            [(each.name, each.kind, each.default) for each in inspect.signature(method).parameters.values()]
            for method in (one, other)
        ]
        assert shapes[0] == shapes[1], name


def test_the_samples_are_official_test_images_of_every_digit(
    digits: NDArray[np.uint8], truths: NDArray[np.uint8]
) -> None:
    assert len(SAMPLES) == 12
    seen = set()
    for path in SAMPLES:
        label, index, suffix = path.name.split(".")
        assert suffix == "png"
        assert truths[int(index)] == int(label)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), digits[int(index)])
        assert path.stat().st_size < 500
        seen.add(label)
    assert seen == set("0123456789")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds the client, what it needs, and nothing else."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder)
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", str(folder)]
    subprocess.run([*install, "--require-hashes", "-r", str(CLIENT / "requirements.lock")], check=True)
    subprocess.run([*install, "--no-deps", "--no-build-isolation", str(CLIENT)], check=True)
    return folder


def test_it_installs_and_imports_without_tensorflow_and_stays_small(fresh: Path) -> None:
    code = (
        "import importlib.util, json, sys, glyph_client, glyph_client.cli;"
        "glyph_client.Client('localhost:1').close(); glyph_client.Client('http://localhost:1').close();"
        "print(json.dumps([importlib.util.find_spec('tensorflow') is None,"
        " [name for name in sys.modules if name.startswith(('tensorflow', 'keras'))], glyph_client.__file__]))"
    )
    done = subprocess.run([fresh / "bin" / "python", "-c", code], check=True, capture_output=True, text=True, cwd=fresh)
    absent, loaded, place = json.loads(done.stdout)
    assert absent
    assert loaded == []
    package = Path(place).parent
    assert str(package).startswith(str(fresh))
    assert (package / "py.typed").exists()
    assert (package / "protos" / "serving_pb2.pyi").exists()
    tools = ("pip", "setuptools", "hatchling")
    files = [path for path in package.parent.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files if not path.relative_to(package.parent).parts[0].startswith(tools))
    assert size < LIMIT


def test_its_command_answers_there(fresh: Path) -> None:
    done = subprocess.run([fresh / "bin" / "glyph", "--help"], check=True, capture_output=True, text=True)
    assert "exit codes:" in done.stdout


def test_importing_it_loads_no_transport() -> None:
    code = "import sys, glyph_client; print([m for m in ('grpc', 'h11', 'hpack', 'opentelemetry') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
