"""Training: the deck's network, the same for the same seed, and it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from glyph_trainer.cli import main
from glyph_trainer.data.dataset import Dataset
from glyph_trainer.data.folder import read_folder
from glyph_trainer.errors import TrainerError
from glyph_trainer.fit import EpochReport, Loop, fit
from glyph_trainer.optimizers import RiseAndFall, orthogonalise
from glyph_trainer.recipes import deck, find_recipe


@pytest.fixture(scope="module")
def dataset(small_folder: Path) -> Dataset:
    return read_folder(small_folder).dataset


def train_deck(dataset: Dataset, seed: int, epochs: int) -> tuple[list[EpochReport], list[np.ndarray]]:
    recipe = deck.RECIPE
    keras.utils.set_random_seed(seed)
    model = recipe.build(10)
    settings = replace(recipe.settings, epochs=epochs)
    loop = Loop(
        model,
        recipe.logits(model),
        recipe.optimizer(epochs * settings.steps_per_epoch(len(dataset))),
        dataset,
        settings,
        seed,
    )
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


def test_the_network_laid_out_for_training_is_the_same_function(dataset: Dataset) -> None:
    model = deck.build(10)
    as_drawn = keras.Model(model.inputs, model.get_layer("logits").output)
    images = tf.constant(dataset.images[:50])
    np.testing.assert_allclose(deck.relaid_logits(model)(images), as_drawn([images]), atol=1e-5)


def test_muon_makes_steps_orthogonal() -> None:
    for shape in ((72, 16), (16, 72)):
        matrix = tf.random.stateless_normal(shape, [1, 2])
        values = tf.linalg.svd(orthogonalise(matrix, 4), compute_uv=False).numpy()
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_the_rate_rises_and_falls() -> None:
    rate = RiseAndFall(2.0, steps=100, rising=0.1)
    rates = [float(rate(tf.constant(step))) for step in range(100)]
    assert np.argmax(rates) in (9, 10)
    assert max(rates) <= 2.0
    assert rates[0] < 0.2
    assert rates[-1] < 0.02


def test_the_fast_recipe_learns_more_in_an_epoch(dataset: Dataset) -> None:
    accuracies = {}
    for recipe in (deck.RECIPE, deck.FAST):
        keras.utils.set_random_seed(1)
        model = recipe.build(10)
        settings = replace(recipe.settings, epochs=1, batch_size=50)
        loop = Loop(model, recipe.logits(model), recipe.optimizer(28), dataset, settings, 1)
        accuracies[recipe.name] = loop.epoch(1).accuracy
    assert accuracies["deck-fast"] > accuracies["deck"]


def test_averaged_weights_are_what_remains(dataset: Dataset) -> None:
    model = deck.build(10)
    settings = replace(deck.POLISH.settings, epochs=1)
    loop = Loop(model, deck.POLISH.logits(model), deck.POLISH.optimizer(14), dataset, settings, 1)
    loop.epoch(1)
    last = model.get_weights()
    loop.finish()
    assert not np.array_equal(last[0], model.get_weights()[0])


def test_an_unknown_recipe_is_an_error() -> None:
    with pytest.raises(TrainerError, match=r"there is no recipe 'dekc'\. Choose one of: .*deck"):
        find_recipe("dekc")


@pytest.mark.parametrize("command", [("validate", "--data-dir"), ("samples", "--samples-dir")])
def test_a_seed_has_32_bits(command: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, message in ((2**32, "'4294967296' is too large: seeds are below"), (-1, "'-1' is no whole number")):
        with pytest.raises(SystemExit, match="2"):
            main([*command, str(tmp_path), f"--seed={seed}"])
        assert f"argument --seed: {message}" in capsys.readouterr().err
