"""Training: the deck's network, the same for the same seed, and it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from glyph_trainer.data.dataset import Dataset
from glyph_trainer.data.folder import read_folder
from glyph_trainer.errors import TrainerError
from glyph_trainer.fit import EpochReport, Loop, fit
from glyph_trainer.recipes import deck, find_recipe


@pytest.fixture(scope="module")
def dataset(small_folder: Path) -> Dataset:
    return read_folder(small_folder).dataset


def train_deck(dataset: Dataset, seed: int, epochs: int) -> tuple[list[EpochReport], list[np.ndarray]]:
    recipe = deck.RECIPE
    keras.utils.set_random_seed(seed)
    model = recipe.build(10)
    settings = replace(recipe.settings, epochs=epochs)
    loop = Loop(model, recipe.optimizer(epochs * settings.steps_per_epoch(len(dataset))), dataset, settings, seed)
    reports = fit(loop, settings)
    return reports, model.get_weights()


def test_the_deck_s_network_is_as_drawn() -> None:
    model = deck.RECIPE.build(10)
    assert model.count_params() == 35_754
    assert [layer.output.shape[1:] for layer in model.layers if layer.weights] == [
        (24, 24, 4),
        (22, 22, 8),
        (9, 9, 16),
        (128,),
        (10,),
    ]
    settings = deck.RECIPE.settings
    assert (settings.epochs, settings.batch_size) == (10, 100)


def test_training_learns(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    reports, _ = train_deck(dataset, seed=1, epochs=4)
    assert [report.epoch for report in reports] == [1, 2, 3, 4]
    assert reports[-1].loss < reports[0].loss
    assert reports[-1].accuracy > 0.8
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4, "one line an epoch where standard output is no terminal"
    assert lines[0].startswith("Epoch   1/4: 14 steps in ")
    assert lines[3].endswith(f"loss {reports[3].loss:.4f}  accuracy {reports[3].accuracy:.2%}")


def test_the_same_seed_gives_the_same_weights_bit_for_bit(dataset: Dataset) -> None:
    _, first = train_deck(dataset, seed=3, epochs=1)
    _, again = train_deck(dataset, seed=3, epochs=1)
    _, other = train_deck(dataset, seed=4, epochs=1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_an_unknown_recipe_is_an_error() -> None:
    with pytest.raises(TrainerError, match=r"there is no recipe 'dekc'\. Choose one of: backprop, logistic, deck"):
        find_recipe("dekc")
