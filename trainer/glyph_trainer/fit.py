"""Training: a loop of our own over images that lie in memory as bytes.

Some hundred steps at a time run inside one TensorFlow function, which gathers its batches out of the images by index;
nothing is copied, converted or fed in between. On the deck's small network this takes about half the time of
`keras.Model.fit`, and the loop can run under a `tf.distribute` strategy, where `fit` of Keras 3 cannot.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from glyph_trainer.data.dataset import Dataset
from glyph_trainer.progress import task

_STEPS_A_CALL = 50


@dataclass(frozen=True)
class FitSettings:
    """How to train.

    Attributes:
        epochs: how many times to go through the images.
        batch_size: images a step. What is left over at the end of an epoch (other images each time) is not used.
        label_smoothing: how much of each label's probability is spread over all classes, 0 to 1.
    """

    epochs: int
    batch_size: int
    label_smoothing: float = 0.0

    def steps_per_epoch(self, images: int) -> int:
        """Count the steps of an epoch.

        Args:
            images: how many there are to train with.

        Returns:
            the number of whole batches.

        Raises:
            ValueError: there are fewer images than a batch needs.
        """
        if images < self.batch_size:
            raise ValueError(f"An epoch needs a whole batch. Received: {images} images, batch_size={self.batch_size}")
        return images // self.batch_size


@dataclass(frozen=True)
class EpochReport:
    """What an epoch brought.

    Attributes:
        epoch: its number, from 1 on.
        loss: mean cross-entropy over the epoch, in nats.
        accuracy: share of the training images answered rightly, each before its step.
        seconds: how long it took.
    """

    epoch: int
    loss: float
    accuracy: float
    seconds: float


class Loop:
    """A network in training.

    Args:
        model: the network; its last layer is a softmax. Trained in place.
        optimizer: not yet built for other variables.
        train: the images to train with.
        settings: how to train.
        seed: decides the order of the images, epoch by epoch.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        train: Dataset,
        settings: FitSettings,
        seed: int,
    ) -> None:
        self._settings = settings
        self._seed = seed
        self._count = len(train)
        self.steps_per_epoch = settings.steps_per_epoch(self._count)
        optimizer.build(model.trainable_variables)
        self._run = _compile_steps(model, optimizer, train, settings)

    def epoch(self, number: int, on_steps: Callable[[int], None] = lambda _: None) -> EpochReport:
        """Train for one epoch.

        Args:
            number: which, from 1 on; together with the seed it decides the order.
            on_steps: told now and then how many steps have been done since.

        Returns:
            what it brought.
        """
        started = time.perf_counter()
        loss, right = 0.0, 0
        for batches in self._batches(number):
            part_loss, part_right = self._run(tf.constant(batches))
            loss += float(part_loss)
            right += int(part_right)
            on_steps(len(batches))
        images = self.steps_per_epoch * self._settings.batch_size
        return EpochReport(number, loss / self.steps_per_epoch, right / images, time.perf_counter() - started)

    def _batches(self, epoch: int) -> Iterator[NDArray[np.int32]]:
        order = np.random.default_rng((self._seed, epoch)).permutation(self._count).astype(np.int32)
        used = order[: self.steps_per_epoch * self._settings.batch_size].reshape(-1, self._settings.batch_size)
        for start in range(0, len(used), _STEPS_A_CALL):
            yield used[start : start + _STEPS_A_CALL]


def _compile_steps(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, train: Dataset, settings: FitSettings
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Compile a function that trains on the batches it is given, int32 [steps, batch] of indices.

    It returns the sum of the losses and the number of right answers.
    """
    logits_of = keras.Model(model.inputs, model.layers[-1].input)
    images, labels = tf.constant(train.images), tf.constant(train.labels)
    classes = len(train.names)
    smoothing = settings.label_smoothing

    def loss_of(truth: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        if not smoothing:
            return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(truth, logits))
        target = tf.one_hot(truth, classes, 1 - smoothing + smoothing / classes, smoothing / classes)
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(target, logits))

    @tf.function(input_signature=[tf.TensorSpec([None, settings.batch_size], tf.int32)])  # type: ignore[untyped-decorator]
    def run(batches: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loss_sum, right = tf.constant(0.0), tf.constant(0)
        for indices in batches:
            truth = tf.gather(labels, indices)
            with tf.GradientTape() as tape:
                logits = logits_of(tf.gather(images, indices), training=True)
                loss = loss_of(truth, logits)
            optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            loss_sum += loss
            right += tf.math.count_nonzero(tf.argmax(logits, axis=-1, output_type=tf.int32) == truth, dtype=tf.int32)
        return loss_sum, right

    return run  # type: ignore[no-any-return]  # tensorflow has no type information


def fit(loop: Loop, epochs: int) -> list[EpochReport]:
    """Train to the end, showing the progress of each epoch.

    Args:
        loop: the network in training.
        epochs: how many epochs.

    Returns:
        what each epoch brought.
    """
    reports = []
    for number in range(1, epochs + 1):
        with task(f"Epoch {number:>3}/{epochs}", loop.steps_per_epoch, "steps") as work:
            report = loop.epoch(number, work.advance)
            work.outcome = f"loss {report.loss:.4f}  accuracy {report.accuracy:.2%}"
        reports.append(report)
    return reports
