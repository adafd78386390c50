"""A compact modern CNN: the best answers that two CPU cores can be taught in an hour.

The network is C. Deotte's for this data set (2018): pairs of small convolutions, a convolution of stride 2 instead of a
pool, batch normalisation and dropout. A published model looks at each picture several times, turned a little either
way, and answers with the mean; the views are layers of the model, so whoever asks need not know.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from glyph_trainer.fit import FitSettings
from glyph_trainer.optimizers import Muon, RiseAndFall
from glyph_trainer.recipes.recipe import Recipe

VIEWS = (0.0, -7.0, 7.0)
"""How far the views are turned, in degrees clockwise. Chosen on the images held out of the 60,000 training images."""

_TRAINING_SHARE = 55 / 60
_BLOCKS = (32, 64)
_DROPOUT = 0.3
_RISING_STEPS = 1000


@keras.saving.register_keras_serializable("glyph")
class Rotation(keras.layers.Layer):  # type: ignore[misc]  # keras has no type information
    """Turn images about their centre, reading between pixels; what comes from beyond the border is 0.

    Args:
        degrees: how far, clockwise.
        **kwargs: Keras' own.
    """

    def __init__(self, degrees: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.degrees = degrees

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Turn float32 [N, height, width, 1]."""
        height, width = images.shape[1:3]
        index, share = _corners(height, width, np.deg2rad(self.degrees))
        pixels = tf.gather(tf.reshape(images, [-1, height * width]), index, axis=1)  # [N, corners, pixels]
        return tf.reshape(tf.reduce_sum(pixels * share, axis=1), [-1, height, width, 1])

    def get_config(self) -> dict[str, Any]:
        """Give what the layer is made of."""
        return {**super().get_config(), "degrees": self.degrees}


def _corners(height: int, width: int, angle: float) -> tuple[Any, Any]:
    """Find, for each pixel of a turned image, the four it is mixed of: their positions and shares, [4, pixels]."""
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (np.array(list(np.ndindex(height, width))) - centre) @ turn.T + centre
    nearest = np.floor(points)
    positions, shares = [], []
    for corner in np.ndindex(2, 2):
        place = nearest + corner
        inside = np.all((place >= 0) & (place <= [height - 1, width - 1]), axis=1)
        row, column = np.clip(place, 0, [height - 1, width - 1]).astype(np.int32).T
        positions.append(row * width + column)
        shares.append(inside * np.prod(1 - np.abs(points - place), axis=1))
    return np.stack(positions), np.stack(shares).astype(np.float32)


@keras.saving.register_keras_serializable("glyph")
class Normalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """Batch normalisation of feature maps in one operation. Keras does it in several: an epoch takes a fifth longer."""

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Normalise float32 [N, height, width, channels]."""
        fused = functools.partial(tf.compat.v1.nn.fused_batch_norm, inputs, self.gamma, self.beta, epsilon=self.epsilon)
        if not training:
            return fused(mean=self.moving_mean, variance=self.moving_variance, is_training=False)[0]
        outputs, mean, variance = fused(is_training=True)
        for moving, found in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(self.momentum * moving + (1 - self.momentum) * found)
        return outputs


def build_network(classes: int) -> keras.Sequential:
    """Build what looks at one view.

    Args:
        classes: how many; with 10, 326,826 parameters and 15.2 million multiplications an image.

    Returns:
        the network with random weights, from float32 [N, 28, 28, 1], 0 to 1, to logits float32 [N, classes].
    """
    layers: list[keras.layers.Layer] = [keras.Input((28, 28, 1))]
    for block, filters in enumerate(_BLOCKS, 1):
        layers += _convolution(f"block{block}_1", filters, 3)
        layers += _convolution(f"block{block}_2", filters, 3)
        layers += _convolution(f"block{block}_shrink", filters, 5, strides=2, padding="same")
        layers.append(keras.layers.Dropout(_DROPOUT, name=f"block{block}_dropout"))
    layers += _convolution("whole", 128, 4)
    layers += [keras.layers.Flatten(), keras.layers.Dropout(_DROPOUT, name="dropout")]
    return keras.Sequential([*layers, keras.layers.Dense(classes, name="logits")], name="network")


def _convolution(name: str, filters: int, size: int, **options: Any) -> list[keras.layers.Layer]:
    return [
        keras.layers.Conv2D(filters, size, use_bias=False, kernel_initializer="he_normal", name=name, **options),
        Normalization(momentum=0.9, epsilon=1e-4, name=f"{name}_norm"),
        keras.layers.ReLU(name=f"{name}_relu"),
    ]


def build(classes: int) -> keras.Model:
    """Build the model with random weights: the mean of what the network says of each view.

    Args:
        classes: how many.

    Returns:
        the model, from uint8 [N, 28, 28, 1] to probabilities float32 [N, classes].
    """
    network, softmax = build_network(classes), keras.layers.Softmax(name="softmax")
    image = keras.Input((28, 28, 1), dtype="uint8", name="image")
    scaled = keras.layers.Rescaling(1 / 255, name="scale")(image)
    views = [Rotation(degrees, name=f"view{number}")(scaled) for number, degrees in enumerate(VIEWS, 1)]
    answers = [softmax(network(view)) for view in views]
    return keras.Model(image, keras.layers.Average(name="probabilities")(answers), name="flagship")


def logits(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Lay the model out for training: one view, with dropout, and batches normalised by themselves.

    Args:
        model: as `build` builds it.

    Returns:
        from [N, 28, 28, 1], 0 to 255, to logits float32 [N, classes].
    """
    network = model.get_layer("network")
    return lambda image: network(tf.cast(image, tf.float32) / 255, training=True)


def optimizer(steps: int) -> keras.optimizers.Optimizer:
    """Make Muon, with Adam for the first convolution, the normalisations and the last layer.

    Args:
        steps: of the whole training.

    Returns:
        the optimiser.
    """
    rate = RiseAndFall(0.01, steps, rising=min(0.2, _RISING_STEPS / steps), falling=0.4)
    return Muon(rate, adam_ratio=0.2, left_to_adam=("block1_1", "logits"), weight_decay=0.02)


RECIPE = Recipe(
    name="flagship",
    summary="a modern CNN (326,826 parameters), three views of each picture, about half an hour",
    build=build,
    logits=logits,
    optimizer=optimizer,
    settings=FitSettings(
        epochs=18,
        batch_size=128,
        training_share=_TRAINING_SHARE,
        label_smoothing=0.05,
        augmentation=(1.0, 0.3),
        averaging=0.992,
    ),
)
