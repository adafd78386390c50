"""Ask an exported model, loaded as a server loads it: `python -m glyph_trainer.probe VERSION < QUESTIONS`.

It runs in a process of its own, because an export without guards does not answer a tensor of the wrong rank with an
error: it aborts the process.
"""

import io
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.protobuf import config_pb2

from glyph_trainer.signatures import ENCODED_FEATURE

_TIMED_RUNS = 50


class ExportedModel:
    """A SavedModel in a session of TensorFlow 1's kind, the engine of TensorFlow Serving.

    Args:
        directory: of the SavedModel.
    """

    def __init__(self, directory: str) -> None:
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self._session, ["serve"], directory)
        self._signatures = loaded.signature_def
        self._callables: dict[str, Any] = {}

    def ask(self, signature: str, question: Any) -> dict[str, Any]:
        """Run a signature of one input.

        Args:
            signature: its name.
            question: an array for the input, of any shape: nothing is compared before TensorFlow gets it.

        Returns:
            the outputs by name.

        Raises:
            tf.errors.OpError: the question does not fit.
        """
        definition = self._signatures[signature]
        if signature not in self._callables:
            (fed,) = definition.inputs.values()
            fetched = [output.name for output in definition.outputs.values()]
            options = config_pb2.CallableOptions(feed=[fed.name], fetch=fetched)
            self._callables[signature] = self._session._make_callable_from_options(options)
        return dict(zip(definition.outputs, self._callables[signature](question), strict=True))


def encode(images: NDArray[np.uint8]) -> tuple[Any, Any]:
    """Encode images for the two signatures that take encoded ones.

    Args:
        images: uint8 [N, 28, 28, 1].

    Returns:
        PNG files, and tf.Examples of them: arrays of bytes [N].
    """
    pictures = [tf.io.encode_png(image).numpy() for image in images]
    examples = []
    for picture in pictures:
        example = tf.train.Example()
        example.features.feature[ENCODED_FEATURE].bytes_list.value.append(picture)
        examples.append(example.SerializeToString())
    return np.array(pictures, object), np.array(examples, object)


def probe(model: ExportedModel, images: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> dict[str, Any]:
    """Ask everything that is demanded of a published model.

    Args:
        model: the exported model.
        images: uint8 [N, 28, 28, 1].
        probabilities: float32 [N, K], what the trained model answers.

    Returns:
        the greatest difference of the answers by signature, the kind of answer to each question that does not fit, and
        the median of the milliseconds for one image.
    """
    pictures, examples = encode(images)
    ranked = -np.sort(-probabilities, axis=1)
    differences = {
        "serving_default": model.ask("serving_default", images)["probabilities"] - probabilities,
        "image_bytes": model.ask("image_bytes", pictures)["probabilities"] - probabilities,
        "classify": model.ask("classify", examples)["scores"] - ranked,
    }
    text = np.array([b"no image"], object)
    image = images[:1]
    questions = [
        ("serving_default", "no images", images[:0]),
        ("serving_default", "a scalar", np.uint8(1)),
        ("serving_default", "rank 2", np.zeros([1, 2], np.uint8)),
        ("serving_default", "rank 3", image[0]),
        ("serving_default", "rank 5", image[np.newaxis]),
        ("serving_default", "27 rows", image[:, :27]),
        ("serving_default", "3 channels", np.repeat(image, 3, axis=3)),
        ("serving_default", "floats", image.astype(np.float32)),
        ("serving_default", "strings", text),
        ("image_bytes", "no images", pictures[:0]),
        ("image_bytes", "no image", text),
        ("image_bytes", "nothing", np.array([b""], object)),
        ("image_bytes", "half a picture", np.array([pictures[0][: len(pictures[0]) // 2]], object)),
        ("image_bytes", "a scalar", np.array(b"no image", object)),
        ("image_bytes", "rank 2", text[np.newaxis]),
        ("image_bytes", "numbers", image),
        ("classify", "no images", examples[:0]),
        ("classify", "no example", text),
        ("classify", "an example without a picture", np.array([tf.train.Example().SerializeToString()], object)),
        ("classify", "a scalar", np.array(b"no example", object)),
        ("classify", "rank 2", examples[:1][np.newaxis]),
        ("classify", "numbers", image),
    ]
    return {
        "differences": {name: float(np.abs(difference).max()) for name, difference in differences.items()},
        "wrong": {f"{name}: {what}": _kind_of_answer(model, name, question) for name, what, question in questions},
        "milliseconds": statistics.median(_time(model, image) for _ in range(_TIMED_RUNS)),
    }


def _kind_of_answer(model: ExportedModel, signature: str, question: Any) -> str:
    try:
        model.ask(signature, question)
    except tf.errors.OpError as error:
        return type(error).__name__
    return "an answer"


def _time(model: ExportedModel, image: NDArray[np.uint8]) -> float:
    started = time.perf_counter()
    model.ask("serving_default", image)
    return 1000 * (time.perf_counter() - started)


def main(arguments: Sequence[str]) -> None:
    """Print what was found as one line of JSON.

    Args:
        arguments: the folder of the version. Standard input is an .npz file of `images` and `probabilities`.
    """
    (version,) = arguments
    with np.load(io.BytesIO(sys.stdin.buffer.read())) as asked:
        print(json.dumps(probe(ExportedModel(version), asked["images"], asked["probabilities"])))


if __name__ == "__main__":
    main(sys.argv[1:])
