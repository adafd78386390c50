"""The endpoints of a published model: the contract between the trainer and everyone who asks.

| signature         | input                                      | outputs                                            |
|-------------------|--------------------------------------------|----------------------------------------------------|
| `serving_default` | `image` uint8 [N, 28, 28, 1]               | `probabilities` float32 [N, K], `label` string [N] |
| `image_bytes`     | `image_bytes` string [N]                   | the same                                           |
| `classify`        | `inputs` string [N], serialised tf.Example | `classes` string [N, K], `scores` float32 [N, K]   |
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from glyph_trainer.preprocess import preprocess_images

IMAGE_SHAPE = (28, 28, 1)
ENCODED_FEATURE = "image/encoded"
"""The feature of a tf.Example that holds the bytes of the picture."""

_EMPTY = "the batch is empty: send at least one image"

SIGNATURES = ("serving_default", "image_bytes", "classify")


class ServingModule(tf.Module):  # type: ignore[misc]  # tensorflow has no type information
    """A classifier of images, with the endpoints that TensorFlow Serving offers to its callers.

    Every endpoint begins with `tf.ensure_shape`. The server does not compare a request with the signature's shape, and
    a tensor of the wrong rank that reaches a oneDNN kernel aborts the whole process; the guard makes it an error of
    that one request. So is a batch of no images.
    """

    def __init__(self, model: keras.Model, forward: Callable[[tf.Tensor], tf.Tensor], labels: Sequence[str]) -> None:
        """Wrap a model.

        Args:
            model: whose weights they are.
            forward: from uint8 [N, 28, 28, 1] (scaling is its own affair) to probabilities float32 [N, K].
            labels: the K names of the classes, in the order of the outputs.
        """
        super().__init__(name="glyph")
        # As constants, the weights are laid out and folded into one another when the model is loaded; as variables, in
        # every run anew. A single image is answered in a fifth less time.
        weights = [(variable, tf.constant(variable.value)) for variable in model.variables]

        def with_constants(image: tf.Tensor) -> tf.Tensor:
            with keras.StatelessScope(state_mapping=weights):
                return forward(image)

        self._forward = with_constants
        # A function of its own, so that the endpoints share one graph of it.
        self._preprocess = tf.function(preprocess_images, input_signature=[tf.TensorSpec([None], tf.string)])
        self.labels = tf.constant(list(labels), tf.string, name="labels")

    @tf.function(input_signature=[tf.TensorSpec([None, *IMAGE_SHAPE], tf.uint8, name="image")])  # type: ignore[untyped-decorator]
    def serving_default(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Answer about images that are already 28 x 28, white ink on black."""
        return self._answer(tf.ensure_shape(image, [None, *IMAGE_SHAPE]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])  # type: ignore[untyped-decorator]
    def image_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Answer about encoded pictures of any size."""
        return self._answer(self._read(tf.ensure_shape(image_bytes, [None])))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])  # type: ignore[untyped-decorator]
    def classify(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Answer the Classify API: every class and its score, best first."""
        inputs = tf.ensure_shape(inputs, [None])
        parsed = tf.io.parse_example(inputs, {ENCODED_FEATURE: tf.io.FixedLenFeature([], tf.string)})
        probabilities = self._probabilities(self._read(parsed[ENCODED_FEATURE]))
        scores, order = tf.math.top_k(probabilities, k=self.labels.shape[0], sorted=True)
        return {"classes": tf.gather(self.labels, order), "scores": scores}

    def _read(self, encoded: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(self._preprocess(encoded), [None, *IMAGE_SHAPE])

    def _probabilities(self, image: tf.Tensor) -> tf.Tensor:
        # oneDNN refuses an empty batch too, but in words that nobody understands.
        with tf.control_dependencies([tf.debugging.assert_positive(tf.shape(image)[0], _EMPTY)]):
            image = tf.identity(image)
        return tf.ensure_shape(self._forward(image), [None, self.labels.shape[0]])

    def _answer(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = self._probabilities(image)
        label = tf.gather(self.labels, tf.argmax(probabilities, axis=-1))
        return {"probabilities": probabilities, "label": label}


def export(
    model: keras.Model, forward: Callable[[tf.Tensor], tf.Tensor], labels: Sequence[str], directory: Path
) -> None:
    """Write a SavedModel with the contract's signatures.

    Args:
        model: see `ServingModule`.
        forward: the same.
        labels: the names of the classes.
        directory: where `saved_model.pb` and `variables/` go.
    """
    module = ServingModule(model, forward, labels)
    tf.saved_model.save(module, str(directory), signatures={name: getattr(module, name) for name in SIGNATURES})
