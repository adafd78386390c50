"""What is said about a SavedModel that cannot be loaded: what the genuine server says, which loads with C++."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from glyph_serving import servable
from glyph_serving.errors import Code, ServingError

from tests.conformance.conftest import MODELS

GRAPH = "saved_model.pb"
DATA = "variables/variables.data-00000-of-00001"
INDEX = "variables/variables.index"
NO_META_GRAPH = (
    "Could not find meta graph def matching supplied tags: { %s }. To inspect available tag-sets in the SavedModel, "
    "please use the SavedModel CLI: `saved_model_cli`"
)


def written(file: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content)


def cut(file: str, size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:size])


def far_away(folder: Path) -> None:
    """Has the footer say that the index block is of 32 TB."""
    file = folder / INDEX
    content = file.read_bytes()
    numbers = b"\x00\x08" + b"\x10" + b"\x80\x80\x80\x80\x80\x80\x08"
    file.write_bytes(content[:-48] + numbers.ljust(40, b"\0") + content[-8:])


def as_text(folder: Path) -> None:
    (folder / GRAPH).rename(folder / "saved_model.pbtxt")


@pytest.mark.parametrize(
    ("harm", "code", "message"),
    [
        (written(GRAPH, b"this is no model"), Code.DATA_LOSS, f"Can't parse $PATH/{GRAPH} as binary proto"),
        (written(GRAPH, bytes(1000)), Code.DATA_LOSS, f"Can't parse $PATH/{GRAPH} as binary proto"),
        (cut(GRAPH, 500), Code.OUT_OF_RANGE, "Read less bytes than requested"),
        (written(GRAPH, b""), Code.NOT_FOUND, NO_META_GRAPH % "serve"),
        (as_text, Code.DATA_LOSS, "Can't parse $PATH/saved_model.pbtxt as text proto"),
        (lambda folder: (folder / DATA).unlink(), Code.NOT_FOUND, f"$PATH/{DATA}; No such file or directory"),
        (cut(DATA, 100), Code.OUT_OF_RANGE, "Read less bytes than requested"),
        (written(INDEX, b"this is no index, and quite long enough to be one"), Code.DATA_LOSS, "not an sstable"),
        (far_away, Code.DATA_LOSS, f"$PATH/{INDEX} is damaged: its index should end at byte 35184372088"),
        (lambda folder: (folder / INDEX).unlink(), Code.INVALID_ARGUMENT, "$PATH cannot be loaded: "),
        (lambda folder: (folder / GRAPH).unlink(), Code.NOT_FOUND, "Specified file path does not appear to contain"),
    ],
)
def test_a_broken_model_says_why(tmp_path: Path, harm: Callable[[Path], object], code: Code, message: str) -> None:
    folder = tmp_path / "1"
    shutil.copytree(MODELS / "digits" / "1", folder)
    harm(folder)
    with pytest.raises(ServingError) as refused:
        servable.load("digits", 1, folder)
    assert refused.value.code is code
    assert refused.value.message.startswith(message.replace("$PATH", str(folder)))


class Doubling(tf.Module):  # type: ignore[misc]
    """Has no variables."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def double(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": 2 * x}


def test_a_model_without_variables_needs_none_on_disk(tmp_path: Path) -> None:
    module = Doubling()
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.double})
    shutil.rmtree(tmp_path / "variables")
    loaded = servable.load("doubling", 1, tmp_path)
    (doubled,) = loaded.signatures["serving_default"].run([np.array([1.5], np.float32)])
    assert doubled.tolist() == [3.0]


def test_tags_that_no_graph_has_are_named() -> None:
    with pytest.raises(ServingError) as refused:
        servable.load("digits", 1, MODELS / "digits" / "1", ("gpu",))
    assert (refused.value.code, refused.value.message) == (Code.NOT_FOUND, NO_META_GRAPH % "gpu")
