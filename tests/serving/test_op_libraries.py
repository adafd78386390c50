"""A model with operations of TF Text: served where that package is installed, and a clear error where it is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from tests.conftest import BIN, find_free_ports, running_server, started
from tests.serving.conftest import RECORDED_MODELS, ask

EXPORT = """
import sys, tensorflow as tf, tensorflow_text as text
tokenizer = text.WhitespaceTokenizer()
spec = tf.TensorSpec([None], tf.string, name="s")
module = tf.Module()
module.words = tf.function(lambda s: {"words": tokenizer.tokenize(s).row_lengths()}, input_signature=[spec])
tf.saved_model.save(module, sys.argv[1], signatures={"serving_default": module.words})
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with TF Text for this TensorFlow, and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    wanted = f"tensorflow-text=={'.'.join(tf.__version__.split('.')[:2])}.*"
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*install, wanted], check=True)
    return folder


@pytest.fixture(scope="module")
def model(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    subprocess.run([sys.executable, "-c", EXPORT, str(folder / "1")], check=True, env=environment, capture_output=True)
    return folder


def test_it_is_served_where_the_package_is_installed(packages: Path, model: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    with running_server("--model_name=words", f"--model_base_path={model}", env=environment) as server:
        answer = ask(server, "/v1/models/words:predict", {"instances": ["a b c", "d"]})
    assert answer == (200, {"predictions": [3, 1]})


def test_what_is_missing_is_said_where_it_is_not(model: Path) -> None:
    (port,) = find_free_ports(1)
    command = [BIN / "glyph-serve", "--address=127.0.0.1", f"--port={port}", f"--model_base_path={model}"]
    with started([*command, "--max_num_load_retries=0"]) as process:
        process.wait_for("operations of tensorflow-text")
        assert process.process.wait(timeout=30) != 0
    assert "Op type not registered 'TFText>WhitespaceTokenizeWithOffsetsV2'" in process.log


def test_a_package_for_another_tensorflow_is_named_and_harms_nothing(tmp_path: Path) -> None:
    package = tmp_path / "tensorflow_text"
    (package / "python" / "ops").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "python" / "ops" / "_broken.so").write_bytes(b"no library")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with running_server(
        "--model_name=digits", f"--model_base_path={RECORDED_MODELS / 'digits'}", env=environment
    ) as server:
        assert "The operations of tensorflow_text are not there" in server.log
