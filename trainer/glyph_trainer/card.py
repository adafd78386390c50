"""The model card: what a published version is, for people."""

import shlex
from typing import Any

from glyph_trainer.evaluate import SETS
from glyph_trainer.trained import TrainingRecord

_TEMPLATE = """# {name}: {recipe}

A classifier of 28 x 28 grey images into {classes} classes ({labels}), trained with Glyph's recipe `{recipe}`.

## How good it is

| images | number | accuracy | 95 % interval | cross-entropy |
|---|---|---|---|---|
{metrics}

The interval is Wilson's. It covers the chance of the draw of these images, not other handwriting: photographs, other
pens and other cultures' digits are harder.

## How to ask it

* `serving_default` takes `image`, uint8 [N, 28, 28, 1], 0-255, white ink on black, and gives `probabilities`, float32
  [N, {classes}], and `label`, string [N].
* `image_bytes` takes `image_bytes`, string [N], the bytes of a PNG, JPEG, GIF or BMP of any size, and gives the same.
* `classify` takes `inputs`, string [N], tf.Example with `image/encoded`, and gives `classes`, string [N, {classes}],
  and `scores`, float32 [N, {classes}], best first.

## How it came about

* `{command}`
* {images:,} training images{left_out}, {epochs} epochs in {seconds:.0f} s, {parameters:,} parameters, seed {seed}.
* Settings: {settings}.
* Fingerprint of the data: `{fingerprint}`.
* Software: {software}.

It answers every picture with one of its classes, whatever the picture shows; it does not know that it does not know.
"""


_EXAMPLE_TEMPLATE = """# {name}

An example: {summary}.

`serving_default` takes {input} and gives {outputs}.

{metrics}

* Settings: {settings}.
* Software: {software}.
"""


def write_card(name: str, record: TrainingRecord, parameters: int) -> str:
    """Write the model card.

    Args:
        name: of the model on the server.
        record: how it came about.
        parameters: how many weights it has.

    Returns:
        Markdown.
    """
    return _TEMPLATE.format(
        name=name,
        recipe=record.recipe,
        command=_command(name, record),
        classes=len(record.labels),
        labels=", ".join(record.labels),
        metrics="\n".join(_row(SETS.get(name, name), summary) for name, summary in record.metrics.items())
        or "| none | | | | |",
        images=record.images,
        left_out=f" (without {record.left_out:,} that cannot be used)" if record.left_out else "",
        epochs=len(record.history),
        seconds=record.seconds,
        parameters=parameters,
        seed=record.seed,
        settings=", ".join(f"{key} {value}" for key, value in record.settings.items()),
        fingerprint=record.data_fingerprint,
        software=", ".join(f"{key} {value}" for key, value in record.software.items()),
    )


def _command(name: str, record: TrainingRecord) -> str:
    """Name the command that trains the same model from the same images."""
    options = {"data-dir": record.source, "seed": record.seed}
    options |= {name.replace("_", "-"): record.settings[name] for name in ("epochs", "batch_size", "patience")}
    given = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in options.items() if value is not None)
    skipping = " --skip-bad" if record.left_out else ""
    target = f"--models-dir models --model-name {shlex.quote(name)}"
    return f"glyph-train run --recipe {record.recipe} {given}{skipping} {target}"


def write_example_card(name: str, summary: str, signature: Any, record: TrainingRecord) -> str:
    """Write the model card of an example.

    Args:
        name: of the model on the server.
        summary: one line about the recipe.
        signature: the function behind `serving_default`.
        record: how it came about.

    Returns:
        Markdown.
    """
    (spec,) = signature.input_signature
    metrics = "\n".join(
        f"* {rows.replace('_', ' ')}: {', '.join(f'{key} {value}' for key, value in found.items())}"
        for rows, found in record.metrics.items()
    )
    return _EXAMPLE_TEMPLATE.format(
        name=name,
        summary=summary,
        input=f"`{spec.name}` {spec.dtype.name} {list(spec.shape)}",
        outputs=", ".join(f"`{output}`" for output in signature.get_concrete_function().structured_outputs),
        metrics=metrics,
        settings=", ".join(f"{key} {value}" for key, value in record.settings.items()),
        software=", ".join(f"{key} {value}" for key, value in record.software.items()),
    )


def _row(images: str, metrics: dict[str, Any]) -> str:
    low, high = metrics["accuracy_95_percent_interval"]
    return (
        f"| {images} | {metrics['images']:,} | {metrics['accuracy']:.2%} | {low:.2%} to {high:.2%} "
        f"| {metrics['cross_entropy']:.4f} |"
    )
