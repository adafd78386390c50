"""The endpoints of a published model keep the contract, and survive what does not."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from glyph_trainer.data.mnist import read_mnist_test
from glyph_trainer.preprocess import _orientation
from glyph_trainer.probe import ExportedModel
from glyph_trainer.versions import describe_version
from PIL import Image
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2


@pytest.fixture(scope="module")
def version(models_dir: Path) -> Path:
    return models_dir / "digits" / "1"


@pytest.fixture(scope="module")
def model(version: Path) -> Any:
    return tf.saved_model.load(str(version))


def test_names_shapes_and_types_are_the_contract_s(model: Any) -> None:
    def describe(tensors: dict[str, Any]) -> dict[str, tuple[str, list[int | None]]]:
        return {name: (tensor.dtype.name, tensor.shape.as_list()) for name, tensor in tensors.items()}

    answer = {"probabilities": ("float32", [None, 10]), "label": ("string", [None])}
    ranking = {"classes": ("string", [None, 10]), "scores": ("float32", [None, 10])}
    signatures = {
        name: (describe(signature.structured_input_signature[1]), describe(signature.structured_outputs))
        for name, signature in model.signatures.items()
    }
    assert signatures == {
        "serving_default": ({"image": ("uint8", [None, 28, 28, 1])}, answer),
        "image_bytes": ({"image_bytes": ("string", [None])}, answer),
        "classify": ({"inputs": ("string", [None])}, ranking),
    }


def test_every_endpoint_gives_the_same_answer_about_the_same_picture(model: Any) -> None:
    digits = read_mnist_test().take(slice(8))
    encoded = [tf.io.encode_png(image).numpy() for image in digits.images]
    examples = [
        tf.train.Example(
            features=tf.train.Features(
                feature={"image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))}
            )
        ).SerializeToString()
        for content in encoded
    ]
    direct = model.signatures["serving_default"](image=tf.constant(digits.images))
    decoded = model.signatures["image_bytes"](image_bytes=tf.constant(encoded))
    ranked = model.signatures["classify"](inputs=tf.constant(examples))
    probabilities = direct["probabilities"].numpy()
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert direct["label"].numpy().tolist() == [str(i).encode() for i in probabilities.argmax(axis=1)]
    np.testing.assert_allclose(decoded["probabilities"], probabilities, atol=1e-5)
    assert decoded["label"].numpy().tolist() == direct["label"].numpy().tolist()
    np.testing.assert_allclose(ranked["scores"], -np.sort(-probabilities, axis=1), atol=1e-5)
    assert ranked["classes"][:, 0].numpy().tolist() == direct["label"].numpy().tolist()


def test_it_has_learnt_digits(model: Any) -> None:
    digits = read_mnist_test().take(slice(1000))
    answer = model.signatures["serving_default"](image=tf.constant(digits.images))
    assert (answer["probabilities"].numpy().argmax(axis=1) == digits.labels).mean() > 0.9


def test_the_weights_are_in_the_graph_as_constants_and_nothing_else_is_saved(version: Path) -> None:
    saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    (meta_graph,) = saved.meta_graphs
    values = [node.attr["value"].tensor for node in meta_graph.graph_def.node if node.op == "Const"]
    floats = [tf.make_ndarray(value) for value in values if value.dtype == types_pb2.DT_FLOAT]
    assert sum(array.size for array in floats) == 35_754
    assert list(dict(tf.train.list_variables(str(version / "variables" / "variables")))) == [
        "_CHECKPOINTABLE_OBJECT_GRAPH"
    ]


def test_an_empty_batch_is_an_error_in_plain_words(version: Path) -> None:
    model = ExportedModel(str(version))
    nothing = {"serving_default": np.zeros([0, 28, 28, 1], np.uint8), "image_bytes": np.array([], object)}
    for signature, question in {**nothing, "classify": nothing["image_bytes"]}.items():
        with pytest.raises(tf.errors.InvalidArgumentError, match="the batch is empty: send at least one image"):
            model.ask(signature, question)


def test_it_was_published_because_all_that_does_not_fit_is_an_error(version: Path) -> None:
    gates = {gate["name"]: gate["figure"] for gate in describe_version(version).manifest["gates"]}
    assert gates["what does not fit is an error"] == "22 of 22 questions"


@pytest.mark.parametrize(("order", "head"), [("<", b"II*\0"), (">", b"MM\0*")])
@pytest.mark.parametrize(("kind", "format_"), [(3, "Hxx"), (4, "I")])
@pytest.mark.parametrize("orientation", [1, 6, 8, 9, 65_535])
def test_the_orientation_is_read_as_pillow_reads_it(
    order: str, head: bytes, kind: int, format_: str, orientation: int
) -> None:
    """The tag is a SHORT (3) by EXIF's own rules; some programs write a LONG (4)."""
    entry = struct.pack(f"{order}HHI{format_}", 0x0112, kind, 1, orientation)
    exif = b"Exif\0\0" + head + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)
    file = io.BytesIO()
    Image.new("L", (40, 30)).save(file, "JPEG", exif=exif)
    expected = Image.open(file).getexif()[0x0112]
    assert expected == orientation
    found = int(_orientation(tf.constant(file.getvalue())))
    assert (found if found in range(1, 9) else 1) == (expected if expected in range(1, 9) else 1)
