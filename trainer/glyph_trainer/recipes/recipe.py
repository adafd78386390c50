"""What a recipe is."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from glyph_trainer.fit import FitSettings


def as_built(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Answer with the network itself.

    Args:
        model: the network.

    Returns:
        from its input to its output.
    """
    return functools.partial(model, training=False)


@dataclass(frozen=True)
class Recipe:
    """A network and the way to train it.

    Attributes:
        name: what it is called on the command line.
        summary: one line about it.
        build: from the number of classes to a network with random weights, uint8 [N, 28, 28, 1] to probabilities.
            Its last layer is the softmax.
        logits: from the network to a function from uint8 [N, 28, 28, 1] to the logits float32 [N, classes], what goes
            into the softmax: the same function, laid out for training.
        answers: from the network to a function from uint8 [N, 28, 28, 1] to probabilities float32 [N, classes]: the
            same function, laid out for being served. The network as it was built, unless there is a faster one.
        optimizer: from the number of steps of the whole training to the optimiser.
        settings: how long and how to train, unless the command says otherwise.
    """

    name: str
    summary: str
    build: Callable[[int], keras.Model]
    logits: Callable[[keras.Model], Callable[[tf.Tensor], tf.Tensor]]
    optimizer: Callable[[int], keras.optimizers.Optimizer]
    settings: FitSettings
    answers: Callable[[keras.Model], Callable[[tf.Tensor], tf.Tensor]] = as_built


@dataclass(frozen=True, eq=False)
class Fitted:
    """What an example brings.

    Attributes:
        module: with the method `serving_default`, a function of one named input.
        question: a batch for that input, to warm up a server with.
        labels: the names of the outputs.
        metrics: how well it has learnt, by the name of the data.
        settings: how it was trained, by name.
    """

    module: tf.Module
    question: NDArray[np.float32]
    labels: tuple[str, ...]
    metrics: dict[str, dict[str, Any]]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A recipe without pictures: it brings its own data, and explains itself while it runs.

    Attributes:
        name: what it is called on the command line, and on the server.
        summary: one line about it.
        run: does it all; what it has to say goes, line by line, to its argument.
    """

    name: str
    summary: str
    run: Callable[[Callable[[str], None]], Fitted]
