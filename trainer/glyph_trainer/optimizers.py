"""How weights move: Muon, and a learning rate that rises and falls."""

from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import ops

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(keras.optimizers.Optimizer):  # type: ignore[misc]  # keras has no type information
    """Momentum, orthogonalised by Newton-Schulz iterations (K. Jordan et al., 2024), for matrices and convolutions.

    Keras has a Muon that leaves convolutions to Adam; here the kernel of a convolution is a matrix from its window to
    its output channels. Vectors are left to Adam, and the kernels of layers that are named.

    Args:
        learning_rate: of the orthogonalised steps; a number or a schedule.
        adam_ratio: the learning rate of Adam, as a multiple.
        left_to_adam: the names of the layers whose kernels are.
        weight_decay: how much of each weight is taken away in a step, as a multiple of the learning rate.
        momentum: of the orthogonalised steps (Nesterov's).
        iterations_of_newton_schulz: how many; four come near enough to orthogonal.
        beta_2: Adam's.
    """

    def __init__(
        self,
        learning_rate: "float | keras.optimizers.schedules.LearningRateSchedule",
        adam_ratio: float,
        left_to_adam: Sequence[str] = ("logits",),
        weight_decay: float | None = None,
        momentum: float = 0.9,
        iterations_of_newton_schulz: int = 4,
        beta_2: float = 0.99,
    ) -> None:
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, name="muon")
        self._adam_ratio = adam_ratio
        self._left_to_adam = tuple(f"{layer}/kernel" for layer in left_to_adam)
        self._momentum = momentum
        self._iterations_of_newton_schulz = iterations_of_newton_schulz
        self._beta_2 = beta_2

    def build(self, variables: list[keras.Variable]) -> None:
        """Make room for the momenta."""
        if self.built:
            return
        super().build(variables)
        self._momenta = [self.add_variable_from_reference(variable, name="momentum") for variable in variables]
        self._velocities = [
            None if self._orthogonalised(variable) else self.add_variable_from_reference(variable, name="velocity")
            for variable in variables
        ]

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        """Move one variable."""
        index = self._get_variable_index(variable)
        momentum, velocity = self._momenta[index], self._velocities[index]
        if velocity is None:
            self.assign(momentum, self._momentum * momentum + gradient)
            rows = ops.reshape(gradient + self._momentum * momentum, (-1, variable.shape[-1]))
            scale = max(1.0, rows.shape[0] / rows.shape[1]) ** 0.5
            step = scale * orthogonalise(rows, self._iterations_of_newton_schulz)
            self.assign_sub(variable, learning_rate * ops.reshape(step, variable.shape))
            return
        beta_1, beta_2 = 0.9, self._beta_2
        time = ops.cast(self.iterations + 1, "float32")
        self.assign(momentum, beta_1 * momentum + (1 - beta_1) * gradient)
        self.assign(velocity, beta_2 * velocity + (1 - beta_2) * gradient**2)
        rate = learning_rate * self._adam_ratio * ops.sqrt(1 - beta_2**time) / (1 - beta_1**time)
        self.assign_sub(variable, rate * momentum / (ops.sqrt(velocity) + 1e-8))

    def _orthogonalised(self, variable: keras.Variable) -> bool:
        return len(variable.shape) >= 2 and not variable.path.endswith(self._left_to_adam)


def orthogonalise(matrix: tf.Tensor, iterations: int) -> tf.Tensor:
    """Bring the singular values of a matrix near to 1, keeping its singular vectors.

    Args:
        matrix: [rows, columns].
        iterations: of a Newton-Schulz polynomial of degree five; the values end between about 0.7 and 1.2.

    Returns:
        [rows, columns].
    """
    a, b, c = _NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else tf.transpose(matrix)
    x = x / (tf.norm(x) + 1e-7)
    for _ in range(iterations):
        square = tf.matmul(x, x, transpose_b=True)
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else tf.transpose(x)


class RiseAndFall(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # keras has no type information
    """A learning rate that rises linearly from nothing, may stay a while, and falls linearly to nothing.

    Args:
        peak: the greatest learning rate.
        steps: of the whole training.
        rising: the share of the steps in which it rises.
        falling: the share of the steps in which it falls; by default all the others.
    """

    def __init__(self, peak: float, steps: int, rising: float = 0.1, falling: float | None = None) -> None:
        self._peak, self._steps, self._rising = peak, steps, rising
        self._falling = 1 - rising if falling is None else falling

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Give the rate of a step, counted from 0."""
        done = (tf.cast(step, tf.float32) + 0.5) / self._steps
        return self._peak * tf.clip_by_value(tf.minimum(done / self._rising, (1 - done) / self._falling), 0.0, 1.0)
