"""The deck's CNN, as drawn: three tanh convolutions, two max-pools, a hidden layer of 128."""

import keras

from glyph_trainer.fit import FitSettings
from glyph_trainer.recipes.recipe import Recipe


def build(classes: int) -> keras.Model:
    """Build the network with random weights.

    Args:
        classes: how many classes; the deck has 10, and with them 35,754 parameters.

    Returns:
        the network, from uint8 [N, 28, 28, 1] to probabilities float32 [N, classes].
    """
    normal = keras.initializers.RandomNormal(stddev=0.05)  # what init='normal' meant in the deck's Keras
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), dtype="uint8", name="image"),
            keras.layers.Rescaling(1 / 255, name="scale"),
            keras.layers.Conv2D(4, 5, activation="tanh", name="conv1"),
            keras.layers.Conv2D(8, 3, activation="tanh", name="conv2"),
            keras.layers.MaxPooling2D(name="pool2"),
            keras.layers.Conv2D(16, 3, activation="tanh", name="conv3"),
            keras.layers.MaxPooling2D(name="pool3"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(128, activation="tanh", kernel_initializer=normal, name="hidden"),
            keras.layers.Dense(classes, kernel_initializer=normal.clone(), name="logits"),
            keras.layers.Softmax(name="probabilities"),
        ],
        name="deck",
    )


def optimizer(steps: int) -> keras.optimizers.Optimizer:
    """Make Adam with a learning rate that falls linearly to nothing.

    The deck does not show its optimiser. At the constant default rate, the last epoch is a matter of luck: 98.29 % of
    the 12,000 with seed 1. With the falling rate it is 98.60 %, with the recipe's label smoothing besides 98.75 %.

    Args:
        steps: of the whole training.

    Returns:
        the optimiser.
    """
    return keras.optimizers.Adam(keras.optimizers.schedules.PolynomialDecay(0.003, steps, 0.0))


RECIPE = Recipe(
    name="deck",
    summary="the deck's CNN as drawn (35,754 parameters), batches of 100, 10 epochs, Adam",
    build=build,
    optimizer=optimizer,
    settings=FitSettings(epochs=10, batch_size=100, label_smoothing=0.05),
)
