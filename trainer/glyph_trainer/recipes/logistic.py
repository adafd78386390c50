"""The deck's logistic regression in ten lines: four people, their height and weight, mean squared error, SGD."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from glyph_trainer.recipes.recipe import Example, Fitted

Array = NDArray[np.float32]

DATA = np.array([[1, 160, 58], [1, 172, 65], [1, 152, 52], [1, 148, 60]], np.float32)
"""[4, 3]: a constant, height in cm, weight in kg."""

LABELS = np.array([1, 0, 0, 1], np.float32)
STEPS = 100_000
_SEED = 1
_RATE = 0.01  # what optimizer='sgd' meant in the deck's Keras, and still means


@dataclass(frozen=True, eq=False)
class Regression:
    """A trained logistic regression.

    Attributes:
        model: from features [N, 3] to probabilities [N, 1].
        losses: mean squared error before each step, [STEPS].
        right: how many of the four rows it answers rightly.
    """

    model: keras.Model
    losses: Array
    right: int


def standardise(data: Array) -> Array:
    """Bring each feature to mean 0 and standard deviation 1; the constant stays what it is.

    Args:
        data: [N, 3].

    Returns:
        the same, standardised by the four rows of the deck.
    """
    mean, deviation = moments()
    return (data - mean) / deviation


def moments() -> tuple[Array, Array]:
    """Compute what `standardise` subtracts and divides by, [3] each."""
    mean, deviation = DATA.mean(axis=0), DATA.std(axis=0)
    mean[0], deviation[0] = 0, 1
    return mean, deviation


def train(features: Array) -> Regression:
    """Train the deck's network on its four rows.

    Args:
        features: [4, 3], raw or standardised.

    Returns:
        the trained regression.
    """
    keras.utils.set_random_seed(_SEED)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    optimizer = keras.optimizers.SGD(_RATE)
    optimizer.build(model.trainable_variables)
    rows, truth = tf.constant(features), tf.constant(LABELS[:, np.newaxis])

    @tf.function  # type: ignore[untyped-decorator]  # tensorflow has no type information
    def descend() -> tf.Tensor:
        losses = tf.TensorArray(tf.float32, STEPS)
        for index in tf.range(STEPS):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(rows) - truth) ** 2)
            optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            losses = losses.write(index, loss)
        return losses.stack()

    losses = descend().numpy()
    answers = np.asarray(model(rows))[:, 0] > 0.5
    return Regression(model, losses, int(np.sum(answers == (LABELS > 0.5))))


class Served(tf.Module):  # type: ignore[misc]  # tensorflow has no type information
    """The regression on standardised features, for a server.

    `features` float32 [N, 2], height in cm and weight in kg, to `probability` float32 [N] and `label` string [N].
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__(name="logistic")
        self.kernel, self.bias = (tf.Variable(weight, name=weight.name) for weight in model.weights)
        mean, deviation = moments()
        self.mean, self.deviation = tf.constant(mean), tf.constant(deviation)

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="features")])  # type: ignore[untyped-decorator]
    def serving_default(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Answer about people."""
        features = tf.ensure_shape(features, [None, 2])
        rows = (tf.pad(features, [[0, 0], [1, 0]], constant_values=1.0) - self.mean) / self.deviation
        probability = tf.sigmoid(rows @ self.kernel + self.bias)[:, 0]
        return {"probability": probability, "label": tf.gather(["0", "1"], tf.cast(probability > 0.5, tf.int32))}


def run(say: Callable[[str], None]) -> Fitted:
    """Train on the raw features and on standardised ones, and say what happens.

    Args:
        say: where the lines go.

    Returns:
        the regression on standardised features.
    """
    raw, standardised = train(DATA), train(standardise(DATA))
    say(f"{STEPS:,} steps of SGD at {_RATE}, mean squared error, on the deck's four rows:")
    for name, regression in (("raw", raw), ("standardised", standardised)):
        losses = regression.losses
        say(f"  {name:<13} loss {losses[0]:.4f} to {losses[-1]:.4f}, {regression.right} of 4 right")
    say(
        "On the raw features the sum that goes into the sigmoid is in the tens or hundreds: the sigmoid is saturated,\n"
        "its gradient is nothing, and nothing is learnt. From standardised features the same ten lines learn."
    )
    return Fitted(
        module=Served(standardised.model),
        question=DATA[:, 1:],
        labels=("0", "1"),
        metrics={
            "training": {"rows": 4, "right": standardised.right, "accuracy": standardised.right / 4},
            "training_on_raw_features": {"rows": 4, "right": raw.right, "accuracy": raw.right / 4},
        },
        settings={"rate": _RATE, "steps": STEPS, "seed": _SEED},
    )


RECIPE = Example(
    name="logistic",
    summary="the deck's logistic regression on four rows: on raw features, and on standardised ones",
    run=run,
)
