"""How weights move: Muon, and a learning rate that rises and falls."""

import keras
import tensorflow as tf
from keras import ops

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(keras.optimizers.Optimizer):  # type: ignore[misc]  # keras has no type information
    """Momentum, orthogonalised by Newton-Schulz iterations (K. Jordan et al., 2024), for matrices and convolutions.

    Keras has a Muon that leaves convolutions to Adam; here the kernel of a convolution is a matrix from its window to
    its output channels. Biases and the last layer are left to Adam.

    Args:
        learning_rate: of the orthogonalised steps; a number or a schedule.
        adam_ratio: the learning rate of Adam, as a multiple.
        last_layer: the name of the layer whose kernel is left to Adam.
        momentum: of the orthogonalised steps (Nesterov's).
        iterations_of_newton_schulz: how many; four come near enough to orthogonal.
        beta_2: Adam's.
    """

    def __init__(
        self,
        learning_rate: "float | keras.optimizers.schedules.LearningRateSchedule",
        adam_ratio: float,
        last_layer: str = "logits",
        momentum: float = 0.9,
        iterations_of_newton_schulz: int = 4,
        beta_2: float = 0.99,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name="muon")
        self._adam_ratio = adam_ratio
        self._last_layer = last_layer
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
        return len(variable.shape) >= 2 and not variable.path.endswith(f"{self._last_layer}/kernel")


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
    """A learning rate that rises linearly from nothing, and then falls linearly to nothing.

    Args:
        peak: the greatest learning rate.
        steps: of the whole training.
        rising: the share of the steps in which it rises.
    """

    def __init__(self, peak: float, steps: int, rising: float = 0.1) -> None:
        self._peak, self._steps, self._rising = peak, steps, rising

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Give the rate of a step, counted from 0."""
        done = (tf.cast(step, tf.float32) + 0.5) / self._steps
        return self._peak * tf.maximum(0.0, tf.minimum(done / self._rising, (1 - done) / (1 - self._rising)))
