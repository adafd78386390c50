"""The deck's 2-2-2 sigmoid network: back-propagation worked out by hand, then trained to the end.

Everything is float64. The names are the deck's: inputs i1 and i2, hidden neurons h1 and h2, outputs o1 and o2, weights
w1 to w4 into the hidden layer and w5 to w8 out of it, one bias for each layer. `net` is what goes into a neuron, `out`
what comes out of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from glyph_trainer.recipes.recipe import Example, Fitted

Array = NDArray[np.float64]

INPUT = np.array([0.05, 0.10])
TARGET = np.array([0.01, 0.99])
RATE = 0.5

_PLOT_WIDTH, _PLOT_HEIGHT = 60, 10


@dataclass(frozen=True, eq=False)
class Network:
    """The network.

    Attributes:
        hidden: [2, 2], the weights from input (row) to hidden neuron (column): w1 w3, w2 w4.
        output: [2, 2], the weights from hidden neuron (row) to output (column): w5 w7, w6 w8.
        hidden_bias: of both hidden neurons; the deck does not train it.
        output_bias: of both outputs; the deck does not train it.
    """

    hidden: Array
    output: Array
    hidden_bias: float
    output_bias: float


START = Network(
    hidden=np.array([[0.15, 0.25], [0.20, 0.30]]),
    output=np.array([[0.40, 0.50], [0.45, 0.55]]),
    hidden_bias=0.35,
    output_bias=0.60,
)
"""The weights and biases that the deck begins with."""


@dataclass(frozen=True, eq=False)
class Pass:
    """What goes forward through the network, each [2]."""

    net_h: Array
    out_h: Array
    net_o: Array
    out_o: Array
    errors: Array

    @property
    def total(self) -> float:
        """The sum of the squared errors, halved."""
        return float(self.errors.sum())


def forward(network: Network) -> Pass:
    """Propagate the input forward.

    Args:
        network: the network.

    Returns:
        every figure on the way.
    """
    net_h = INPUT @ network.hidden + network.hidden_bias
    out_h = 1 / (1 + np.exp(-net_h))
    net_o = out_h @ network.output + network.output_bias
    out_o = 1 / (1 + np.exp(-net_o))
    return Pass(net_h, out_h, net_o, out_o, (TARGET - out_o) ** 2 / 2)


def gradients_by_chain_rule(network: Network) -> tuple[Array, Array]:
    """Differentiate the total error by hand.

    Args:
        network: the network.

    Returns:
        the derivatives by the hidden and by the output weights, [2, 2] each.
    """
    now = forward(network)
    by_net_o = (now.out_o - TARGET) * now.out_o * (1 - now.out_o)
    by_net_h = (network.output @ by_net_o) * now.out_h * (1 - now.out_h)
    return np.outer(INPUT, by_net_h), np.outer(now.out_h, by_net_o)


def gradients_by_autodiff(network: Network) -> tuple[Array, Array]:
    """Let TensorFlow differentiate the total error.

    Args:
        network: the network.

    Returns:
        the same as `gradients_by_chain_rule`.
    """
    hidden, output = tf.constant(network.hidden), tf.constant(network.output)
    with tf.GradientTape() as tape:
        tape.watch([hidden, output])
        out_h = tf.sigmoid(tf.linalg.matvec(hidden, INPUT, transpose_a=True) + network.hidden_bias)
        out_o = tf.sigmoid(tf.linalg.matvec(output, out_h, transpose_a=True) + network.output_bias)
        total = tf.reduce_sum((TARGET - out_o) ** 2) / 2
    by_hidden, by_output = tape.gradient(total, [hidden, output])
    return by_hidden.numpy(), by_output.numpy()


def step(network: Network) -> Network:
    """Take one step down the gradient.

    Args:
        network: before.

    Returns:
        after.
    """
    by_hidden, by_output = gradients_by_chain_rule(network)
    return replace(network, hidden=network.hidden - RATE * by_hidden, output=network.output - RATE * by_output)


def train(network: Network, until: float = 1e-6, most: int = 200_000) -> tuple[Network, list[float]]:
    """Train on.

    Args:
        network: to begin with.
        until: the total error to reach.
        most: how many steps at most.

    Returns:
        the trained network, and the total error before each step.
    """
    errors: list[float] = []
    while (error := forward(network).total) > until and len(errors) < most:
        errors.append(error)
        network = step(network)
    return network, errors


def worked_example() -> list[tuple[str, float, str]]:
    """Compute every figure of the deck.

    Returns:
        the name, the value, and the format with as many digits as the deck prints.
    """
    now = forward(START)
    factors = (now.out_o - TARGET)[0], (now.out_o * (1 - now.out_o))[0], now.out_h[0]
    gradient = gradients_by_chain_rule(START)[1][0, 0]
    return [
        ("net h1 = i1 w1 + i2 w2 + b1", now.net_h[0], ".4f"),
        ("out h1 = 1 / (1 + exp(-net h1))", now.out_h[0], ".9f"),
        ("out h2", now.out_h[1], ".9f"),
        ("net o1 = out h1 w5 + out h2 w6 + b2", now.net_o[0], ".9f"),
        ("out o1", now.out_o[0], ".8f"),
        ("net o2", now.net_o[1], ".6f"),
        ("out o2", now.out_o[1], ".9f"),
        ("E o1 = (0.01 - out o1)^2 / 2", now.errors[0], ".9f"),
        ("E o2 = (0.99 - out o2)^2 / 2", now.errors[1], ".9f"),
        ("E total", now.total, ".9f"),
        ("dE total / d out o1", factors[0], ".8f"),
        ("d out o1 / d net o1", factors[1], ".9f"),
        ("d net o1 / d w5", factors[2], ".9f"),
        ("dE total / d w5", gradient, ".9f"),
        ("new w5 = w5 - 0.5 dE total / d w5", step(START).output[0, 0], ".8f"),
    ]


def plot(errors: list[float]) -> str:
    """Draw the total error, both axes logarithmic.

    Args:
        errors: before each step, all positive.

    Returns:
        lines of text.
    """
    steps = np.unique(np.geomspace(1, len(errors), _PLOT_WIDTH).astype(int)) - 1
    heights = np.log10(np.array(errors)[steps])
    low, high = heights.min(), heights.max()
    rows = np.round((heights - low) / max(high - low, 1e-9) * (_PLOT_HEIGHT - 1)).astype(int)
    lines = []
    for row in reversed(range(_PLOT_HEIGHT)):
        value = 10 ** (low + (high - low) * row / (_PLOT_HEIGHT - 1))
        lines.append(f"{value:9.1e} |" + "".join("*" if row == height else " " for height in rows).rstrip())
    return "\n".join([*lines, f"          +{'-' * len(steps)}", f"           1 to {len(errors):,} steps"])


class Served(tf.Module):  # type: ignore[misc]  # tensorflow has no type information
    """The trained network, for a server: `inputs` float32 [N, 2] to `outputs` float32 [N, 2]."""

    def __init__(self, network: Network) -> None:
        super().__init__(name="backprop")
        self.hidden = tf.Variable(network.hidden, name="hidden")
        self.output = tf.Variable(network.output, name="output")
        self.biases = tf.Variable([network.hidden_bias, network.output_bias], dtype=tf.float64, name="biases")

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="inputs")])  # type: ignore[untyped-decorator]
    def serving_default(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Propagate inputs forward."""
        inputs = tf.cast(tf.ensure_shape(inputs, [None, 2]), tf.float64)
        out_h = tf.sigmoid(inputs @ self.hidden + self.biases[0])
        return {"outputs": tf.cast(tf.sigmoid(out_h @ self.output + self.biases[1]), tf.float32)}


def run(say: Callable[[str], None]) -> Fitted:
    """Print the worked example step by step, then train to the end.

    Args:
        say: where the lines go.

    Returns:
        the trained network.
    """
    say("The deck's worked example, computed:")
    for name, value, digits in worked_example():
        say(f"  {name:<36} {value:{digits}}")
    by_hand, automatic = gradients_by_chain_rule(START), gradients_by_autodiff(START)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(by_hand, automatic, strict=True))
    say(f"The chain rule by hand and automatic differentiation differ by {difference:.0e} at most.")
    network, errors = train(START)
    outputs = forward(network).out_o
    say(f"Trained for {len(errors):,} steps: the outputs are {outputs[0]:.6f} and {outputs[1]:.6f}, for 0.01 and 0.99.")
    say("The total error:")
    say(plot(errors))
    return Fitted(
        module=Served(network),
        question=INPUT.astype(np.float32)[np.newaxis],
        labels=("o1", "o2"),
        metrics={"training": {"rows": 1, "steps": len(errors), "squared_error": forward(network).total}},
        settings={"rate": RATE, "steps": len(errors)},
    )


RECIPE = Example(
    name="backprop",
    summary="the deck's 2-2-2 sigmoid network: back-propagation by hand, step by step, then trained to the end",
    run=run,
)
