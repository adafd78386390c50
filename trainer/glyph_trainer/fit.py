"""Training: a loop of our own over images that lie in memory as bytes.

Some hundred steps at a time run inside one TensorFlow function, which gathers its batches out of the images by index;
nothing is copied, converted or fed in between. On the deck's small network this takes about half the time of
`keras.Model.fit`.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from glyph_trainer.augment import warp
from glyph_trainer.data.dataset import Dataset
from glyph_trainer.evaluate import evaluate
from glyph_trainer.progress import task

DECK_SHARE = 30_000 / 42_000
"""How much of its images the deck trains with."""

_STEPS_A_CALL = 50
_STEPS_AN_AVERAGE = 8


@dataclass(frozen=True)
class FitSettings:
    """How to train.

    Attributes:
        epochs: how many times to go through the images.
        batch_size: images a step. What is left over at the end of an epoch (other images each time) is not used.
        training_share: how much of the images is for training; the rest is held out, to test or to choose with.
        label_smoothing: how much of each label's probability is spread over all classes, 0 to 1.
        patience: stop when this many epochs in a row have not lowered the loss on a tenth of the training images, set
            aside for that, and take the weights of the best one; None trains to the end.
        augmentation: how strongly to bend the images (see `augment.warp`): to begin with, and in the end; it falls to
            that over the last two fifths of the training.
        averaging: how much of the running average of the weights, which are the ones that count in the end, is kept
            every eight steps.
    """

    epochs: int
    batch_size: int
    training_share: float = DECK_SHARE
    label_smoothing: float = 0.0
    patience: int | None = None
    augmentation: tuple[float, float] | None = None
    averaging: float | None = None

    @property
    def least_images(self) -> int:
        """How many images training takes at the least: a whole batch, beside what is set aside."""
        return max(10, -(-self.batch_size * 10 // 9)) if self.patience else self.batch_size

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
        validation_loss: mean cross-entropy on the images set aside, if there are any.
        validation_accuracy: share of right answers on them.
    """

    epoch: int
    loss: float
    accuracy: float
    seconds: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


class Loop:
    """A network in training.

    Args:
        model: the network. Trained in place.
        logits: from images to the logits of the network.
        optimizer: not yet built for other variables.
        train: the images to train with.
        settings: how to train.
        seed: decides the order of the images, epoch by epoch.

    Attributes:
        model: the network.
        variables: all that changes in training: with their values, an epoch can be done again.
    """

    def __init__(
        self,
        model: keras.Model,
        logits: Callable[[tf.Tensor], tf.Tensor],
        optimizer: keras.optimizers.Optimizer,
        train: Dataset,
        settings: FitSettings,
        seed: int,
    ) -> None:
        self.model = model
        self._settings = settings
        self._seed = seed
        self._aside: Dataset | None = None
        if settings.patience:
            train, self._aside = train.split(len(train) - len(train) // 10)
        self._count = len(train)
        self.steps_per_epoch = settings.steps_per_epoch(self._count)
        optimizer.build(model.trainable_variables)
        averaged = model.weights if settings.averaging else []
        self._averages = [tf.Variable(variable.value, trainable=False) for variable in averaged]
        self.variables = [*model.variables, *optimizer.variables, *self._averages]
        self._run = _compile_steps(model, logits, optimizer, train, settings, self._averages, seed)

    def prepare(self) -> None:
        """Build the graph, which the first epoch would do else."""
        self._run.get_concrete_function()

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
        report = EpochReport(number, loss / self.steps_per_epoch, right / images, time.perf_counter() - started)
        if not self._aside:
            return report
        evaluation = evaluate(self.model, self._aside)
        return replace(report, validation_loss=evaluation.loss, validation_accuracy=evaluation.accuracy)

    def finish(self) -> None:
        """Give the network its final weights, where they are an average."""
        for variable, average in zip(self.model.weights, self._averages, strict=False):
            variable.assign(average)

    def _batches(self, epoch: int) -> Iterator[NDArray[np.int32]]:
        order = np.random.default_rng((self._seed, epoch)).permutation(self._count).astype(np.int32)
        used = order[: self.steps_per_epoch * self._settings.batch_size].reshape(-1, self._settings.batch_size)
        for start in range(0, len(used), _STEPS_A_CALL):
            yield used[start : start + _STEPS_A_CALL]


def _compile_steps(
    model: keras.Model,
    logits_of: Callable[[tf.Tensor], tf.Tensor],
    optimizer: keras.optimizers.Optimizer,
    train: Dataset,
    settings: FitSettings,
    averages: list[tf.Variable],
    seed: int,
) -> Any:
    """Compile a function that trains on the batches it is given, int32 [steps, batch] of indices.

    It returns the sum of the losses and the number of right answers.
    """
    images, labels = tf.constant(train.images), tf.constant(train.labels)
    classes = len(train.names)
    smoothing = settings.label_smoothing

    def loss_of(truth: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        if not smoothing:
            return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(truth, logits))
        target = tf.one_hot(truth, classes, 1 - smoothing + smoothing / classes, smoothing / classes)
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(target, logits))

    total = settings.epochs * settings.steps_per_epoch(len(train))

    def pictures(indices: tf.Tensor) -> tf.Tensor:
        batch = tf.gather(images, indices)
        if not settings.augmentation:
            return batch
        begin, end = settings.augmentation
        step = optimizer.iterations.value
        falling = tf.clip_by_value((tf.cast(step, tf.float32) / total - 0.6) / 0.4, 0.0, 1.0)
        return warp(batch, begin + (end - begin) * falling, tf.stack([tf.cast(step, tf.int32), seed]))

    def average() -> None:
        if not settings.averaging:
            return
        step = optimizer.iterations.value
        # Early on the average follows quickly: it would else remember the random weights.
        kept = tf.minimum(settings.averaging, tf.cast(step, tf.float32) / (tf.cast(step, tf.float32) + 80))
        kept = tf.where(step % _STEPS_AN_AVERAGE == 0, kept, 1.0)
        for variable, running in zip(model.weights, averages, strict=True):
            running.assign(kept * running + (1 - kept) * variable.value)

    @tf.function(input_signature=[tf.TensorSpec([None, settings.batch_size], tf.int32)])  # type: ignore[untyped-decorator]
    def run(batches: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loss_sum, right = tf.constant(0.0), tf.constant(0)
        for indices in batches:
            truth = tf.gather(labels, indices)
            with tf.GradientTape() as tape:
                logits = logits_of(pictures(indices))
                loss = loss_of(truth, logits)
            optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            average()
            loss_sum += loss
            right += tf.math.count_nonzero(tf.argmax(logits, axis=-1, output_type=tf.int32) == truth, dtype=tf.int32)
        return loss_sum, right

    return run


@dataclass
class State:
    """How far a training has come.

    Attributes:
        history: what each epoch brought, so far.
        best: the weights of the best epoch, where a patience is set.
    """

    history: list[EpochReport] = field(default_factory=list)
    best: list[NDArray[np.float32]] = field(default_factory=list)

    def since_best(self) -> int:
        """Count the epochs since the lowest loss on the images set aside."""
        losses = [report.validation_loss or 0.0 for report in self.history]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def fit(
    loop: Loop, settings: FitSettings, state: State | None = None, save: Callable[[State], None] = lambda _: None
) -> list[EpochReport]:
    """Train to the end, showing the progress of each epoch.

    Args:
        loop: the network in training.
        settings: how long, and how patiently.
        state: how far it has come already.
        save: called after every epoch.

    Returns:
        what each epoch brought.
    """
    state = state or State()
    epochs, patience = settings.epochs, settings.patience
    while len(state.history) < epochs and not (patience and state.since_best() >= patience):
        number = len(state.history) + 1
        with task(f"Epoch {number:>3}/{epochs}", loop.steps_per_epoch, "steps") as work:
            report = loop.epoch(number, work.advance)
            work.outcome = f"loss {report.loss:.4f}  accuracy {report.accuracy:.2%}"
            if report.validation_accuracy is not None:
                work.outcome += f"  set aside {report.validation_accuracy:.2%}"
        state.history.append(report)
        if patience and not state.since_best():
            state.best = loop.model.get_weights()
        save(state)
    loop.finish()
    if state.best:
        loop.model.set_weights(state.best)
    return state.history
