"""How much faster than the deck's own program the trainer is, in one run on this machine.

    python tests/benchmarks/trainer_bench.py [--data-dir build/dataset] [--json]

Three bars:

* Training. Seconds from random weights to at least 98.38 % of the 12,000 images held out, by `deck --fast`, in each of
  five seeds, against the deck's own program: `model.fit` on arrays, Adam, batches of 100, 10 epochs, two of them after
  each seed. Both are the seconds of the training steps; building the graph, which both do once, is left out of both and
  shown apart.
* Reading. Images per second of the input pipeline, from the folder of JPEG files without its cache, against a plain
  Pillow loop; the better of two goes each, taken in turns.
* The second reading. Seconds to read the folder from its cache, the best of five.

The exit status is 1 if a bar is not reached.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
from glyph_trainer.data.dataset import Dataset
from glyph_trainer.data.decode import decode
from glyph_trainer.data.digits import build_digit_folder
from glyph_trainer.data.folder import read_folder
from glyph_trainer.data.mnist import DEFAULT_DIRECTORY
from glyph_trainer.evaluate import evaluate
from glyph_trainer.fit import Loop
from glyph_trainer.recipes import deck
from PIL import Image

ACCURACY, TRAINING_RATIO, READING_RATIO, CACHED_SECONDS = 0.9838, 12.0, 3.5, 0.3
SEEDS = (1, 2, 3, 4, 5)
DECK_EPOCHS_AFTER_EACH = 2


@dataclass(frozen=True)
class Measure:
    """One line of the table."""

    name: str
    figure: str
    bar: str
    reached: bool


@dataclass(frozen=True)
class Trained:
    """A training.

    Attributes:
        preparing: seconds of building the graph.
        training: seconds of the steps.
        accuracy: share of right answers on the images held out.
    """

    preparing: float
    training: float
    accuracy: float


def timed(work: Callable[[], object]) -> float:
    """Seconds that the work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class DeckProgram:
    """The deck's own program, epoch by epoch."""

    def __init__(self, train: Dataset) -> None:
        keras.utils.set_random_seed(1)
        self._images = train.images.astype("float32")
        self._labels = keras.utils.to_categorical(train.labels, 10)
        self._model = deck.build(10)
        self._model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
        self._fit(200)  # builds the graph

    def train(self, epochs: int) -> float:
        """Seconds of some more epochs."""
        return timed(lambda: self._fit(len(self._images), epochs))

    def _fit(self, count: int, epochs: int = 1) -> None:
        self._model.fit(self._images[:count], self._labels[:count], batch_size=100, epochs=epochs, verbose=0)


def train_fast(dataset: Dataset, seed: int) -> Trained:
    """Train as `deck --fast` does."""
    train, held_out = dataset.shuffled(seed).split(30_000)
    recipe = deck.FAST
    keras.utils.set_random_seed(seed)
    model = recipe.build(10)
    started = time.perf_counter()
    steps = recipe.settings.epochs * recipe.settings.steps_per_epoch(len(train))
    loop = Loop(model, recipe.logits(model), recipe.optimizer(steps), train, recipe.settings, seed)
    loop.prepare()
    prepared = time.perf_counter()
    for epoch in range(1, recipe.settings.epochs + 1):
        loop.epoch(epoch)
    ended = time.perf_counter()
    return Trained(prepared - started, ended - prepared, evaluate(model, held_out).accuracy)


def pillow_loop(paths: list[Path]) -> None:
    """The deck's way to read the folder."""
    images = np.empty((len(paths), 1, 28, 28), "float32")
    for index, path in enumerate(paths):
        images[index] = np.asarray(Image.open(path), dtype="float32")


def measure_reading(folder: Path) -> list[Measure]:
    """Measure the input pipeline."""
    paths = sorted(folder.glob("*.jpg"))
    decode(paths[:100])  # TensorFlow wakes up
    turns = [(timed(lambda: decode(paths)), timed(lambda: pillow_loop(paths))) for _ in range(2)]
    ours, pillow = map(min, zip(*turns, strict=True))
    cached = min(timed(lambda: read_folder(folder)) for _ in range(5))
    speeds = f"{len(paths) / ours:,.0f} images/s, Pillow {len(paths) / pillow:,.0f}: {pillow / ours:.1f} times"
    return [
        Measure("reading 42,000 JPEGs", speeds, f"{READING_RATIO} times", pillow / ours >= READING_RATIO),
        Measure("the second reading", f"{cached:.2f} s", f"{CACHED_SECONDS} s", cached <= CACHED_SECONDS),
    ]


def measure_training(dataset: Dataset) -> list[Measure]:
    """Measure the fast training, the deck's program in between."""
    program = DeckProgram(dataset.shuffled(1).split(30_000)[0])
    trainings, whole = [], 0.0
    for seed in SEEDS:
        trainings.append(train_fast(dataset, seed))
        whole += program.train(DECK_EPOCHS_AFTER_EACH)
    slowest = max(each.training for each in trainings)
    preparing = max(each.preparing for each in trainings)
    seconds = f"{slowest:.2f} s at most, the deck's program {whole:.1f} s: {whole / slowest:.1f} times"
    with_graph = f"{whole / max(each.preparing + each.training for each in trainings):.1f} times"
    accuracies = [each.accuracy for each in trainings]
    return [
        Measure("training, fast", seconds, f"{TRAINING_RATIO:g} times", whole / slowest >= TRAINING_RATIO),
        Measure("  graph included", f"{preparing:.2f} s more at most: {with_graph}", "", True),
        Measure(
            "  in each seed",
            " ".join(f"{accuracy:.2%}" for accuracy in accuracies),
            f"{ACCURACY:.2%}",
            min(accuracies) >= ACCURACY,
        ),
    ]


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).parents[2] / "build" / "dataset"
    parser.add_argument("--data-dir", type=Path, default=default, help="the 42,000 digits; made if missing")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    build_digit_folder(options.data_dir, DEFAULT_DIRECTORY)
    dataset = read_folder(options.data_dir).dataset
    measures = measure_reading(options.data_dir) + measure_training(dataset)
    if options.json:
        print(json.dumps([asdict(measure) for measure in measures], indent=2))
    else:
        for each in measures:
            verdict = "" if not each.bar else "reached" if each.reached else "NOT REACHED"
            print(f"{each.name:<22}{each.figure:<72}{each.bar:<12}{verdict}")
    return 0 if all(measure.reached for measure in measures) else 1


if __name__ == "__main__":
    sys.exit(main())
