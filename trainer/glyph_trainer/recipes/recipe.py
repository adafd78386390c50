"""What a recipe is."""

from collections.abc import Callable
from dataclasses import dataclass

import keras

from glyph_trainer.fit import FitSettings


@dataclass(frozen=True)
class Recipe:
    """A network and the way to train it.

    Attributes:
        name: what it is called on the command line.
        summary: one line about it.
        build: from the number of classes to a network with random weights, uint8 [N, 28, 28, 1] to probabilities.
            Its last layer is the softmax.
        optimizer: from the number of steps of the whole training to the optimiser.
        settings: how long and how to train, unless the command says otherwise.
    """

    name: str
    summary: str
    build: Callable[[int], keras.Model]
    optimizer: Callable[[int], keras.optimizers.Optimizer]
    settings: FitSettings
