"""How much faster than the deck's own program the trainer is, in one run on this machine.

    python tests/benchmarks/trainer_bench.py --data-dir build/dataset [--seeds 5] [--epochs 10] [--json]

Two ratios:

* Seconds of training from random weights to at least 98.38 % on the 12,000 images held out (`deck --fast`, for each
  seed, tracing included), against the deck's own program: `model.fit` on arrays, Adam, batches of 100, 10 epochs. With
  fewer `--epochs` (at least 2), the missing ones are reckoned like the last one.
* Images per second of the input pipeline, reading the folder of JPEG files without its cache, against a Pillow loop.

The exit status is 1 if a ratio or an accuracy falls short of what is demanded.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
from glyph_trainer.data.dataset import Dataset
from glyph_trainer.data.decode import decode
from glyph_trainer.data.folder import read_folder
from glyph_trainer.evaluate import evaluate
from glyph_trainer.fit import Loop
from glyph_trainer.recipes import deck
from PIL import Image

ACCURACY, TRAINING_RATIO, READING_RATIO = 0.9838, 12.0, 3.5
DECK_EPOCHS = 10


def timed(work: Callable[[], object]) -> float:
    """Seconds that the work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def deck_program(train: Dataset, epochs: int) -> float:
    """Seconds of the deck's own program."""
    keras.utils.set_random_seed(1)
    model = deck.build(10)
    images = train.images.astype("float32")
    labels = keras.utils.to_categorical(train.labels, 10)

    ends = [time.perf_counter()]
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, labels, batch_size=100, epochs=epochs, verbose=0, callbacks=[watch])
    return ends[-1] - ends[0] + (DECK_EPOCHS - epochs) * (ends[-1] - ends[-2])


def fast(dataset: Dataset, seed: int) -> tuple[float, float]:
    """Seconds and accuracy of `deck --fast`."""
    train, held_out = dataset.shuffled(seed).split(30_000)
    recipe = deck.FAST
    keras.utils.set_random_seed(seed)
    model = recipe.build(10)

    def fit() -> None:
        steps = recipe.settings.epochs * recipe.settings.steps_per_epoch(len(train))
        loop = Loop(model, recipe.logits(model), recipe.optimizer(steps), train, recipe.settings, seed)
        for epoch in range(1, recipe.settings.epochs + 1):
            loop.epoch(epoch)

    return timed(fit), evaluate(model, held_out).accuracy


def pillow_loop(paths: list[Path]) -> None:
    """The deck's way to read the folder."""
    images = np.empty((len(paths), 1, 28, 28), "float32")
    for index, path in enumerate(paths):
        images[index] = np.asarray(Image.open(path), dtype="float32")


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=DECK_EPOCHS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    dataset = read_folder(options.data_dir).dataset
    paths = sorted(options.data_dir.glob("*.jpg"))
    decode(paths[:100])  # TensorFlow wakes up
    reading, plain = timed(lambda: decode(paths)), timed(lambda: pillow_loop(paths))
    baseline = deck_program(dataset.shuffled(1).split(30_000)[0], options.epochs)
    runs = [fast(dataset, seed) for seed in range(1, options.seeds + 1)]
    slowest = max(seconds for seconds, _ in runs)
    result = {
        "reading_images_per_second": len(paths) / reading,
        "pillow_images_per_second": len(paths) / plain,
        "reading_ratio": plain / reading,
        "deck_program_seconds": baseline,
        "fast_seconds": [seconds for seconds, _ in runs],
        "fast_accuracies": [accuracy for _, accuracy in runs],
        "training_ratio": baseline / slowest,
    }
    passed = (
        plain / reading >= READING_RATIO
        and baseline / slowest >= TRAINING_RATIO
        and min(accuracy for _, accuracy in runs) >= ACCURACY
    )
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print(
            f"reading   {len(paths) / reading:,.0f} images/s, Pillow {len(paths) / plain:,.0f}: "
            f"{plain / reading:.1f} times"
        )
        print(
            f"training  deck's program {baseline:.1f} s; deck --fast at most {slowest:.1f} s: "
            f"{baseline / slowest:.1f} times"
        )
        for seed, (seconds, accuracy) in enumerate(runs, 1):
            print(f"  seed {seed}: {seconds:.2f} s, {accuracy:.2%}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
