"""A training that was killed goes on as if nothing had been."""

import json
import random
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glyph_trainer import checkpoint
from glyph_trainer.data.mnist import DEFAULT_DIRECTORY
from glyph_trainer.errors import TrainerError
from glyph_trainer.fit import EpochReport, FitSettings, State
from glyph_trainer.pipeline import load_images, train
from glyph_trainer.recipes import deck
from glyph_trainer.staging import locked

from tests.loadtest.conftest import read_until
from tests.trainer.conftest import COMMAND, PROCESSES, limit_files_to

SETTINGS = FitSettings(epochs=5, batch_size=20, patience=4)
RANDOM = random.SystemRandom()


def train_in_process(folder: Path, run: Path, weights: Path | None) -> None:
    images = load_images(folder, DEFAULT_DIRECTORY, 0, seed=5)
    trained = train(deck.RECIPE, SETTINGS, images, seed=5, run_directory=run, resume=True)
    if weights:
        np.savez(weights, *trained.model.get_weights())


def epochs_done(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def test_killed_at_three_random_moments_it_ends_with_the_same_weights(small_folder: Path, tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    reference = PROCESSES.Process(target=train_in_process, args=(small_folder, undisturbed, tmp_path / "reference.npz"))
    reference.start()
    reference.join(120)
    assert reference.exitcode == 0

    for epoch in sorted(RANDOM.sample(range(1, SETTINGS.epochs - 1), 3)):
        training = PROCESSES.Process(target=train_in_process, args=(small_folder, disturbed, None))
        training.start()
        deadline = time.monotonic() + 60
        while epochs_done(disturbed) < epoch and training.is_alive() and time.monotonic() < deadline:
            training.join(0.01)
        training.join(RANDOM.uniform(0, 0.3))  # somewhere in the next epoch, or in the saving of this one
        training.kill()
        training.join()
        assert epochs_done(disturbed) >= epoch

    last = PROCESSES.Process(target=train_in_process, args=(small_folder, disturbed, tmp_path / "resumed.npz"))
    last.start()
    last.join(120)
    assert last.exitcode == 0
    with np.load(tmp_path / "reference.npz") as expected, np.load(tmp_path / "resumed.npz") as received:
        assert len(expected.files) == 10
        for name in expected.files:
            assert np.array_equal(expected[name], received[name]), name
    histories = [
        [{**json.loads(line), "seconds": None} for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (undisturbed, disturbed)
    ]
    assert histories[0] == histories[1]
    assert len(histories[0]) == SETTINGS.epochs
    assert list(undisturbed.glob("events.out.tfevents.*")), "TensorBoard's"


@pytest.fixture
def finished(small_folder: Path, tmp_path: Path) -> Path:
    images = load_images(small_folder, DEFAULT_DIRECTORY, 0, seed=5)
    train(deck.RECIPE, FitSettings(epochs=1, batch_size=100), images, seed=5, run_directory=tmp_path)
    return tmp_path


def test_tensorboard_draws_a_training(finished: Path, start: Callable[..., AbstractContextManager[Any]]) -> None:
    command = [COMMAND.with_name("tensorboard"), "--logdir", finished, "--host=127.0.0.1", "--port=0"]
    with start(command) as board:
        board.wait_for("Press CTRL+C")
        address = re.search(r"http://127\.0\.0\.1:\d+/", board.log)
        assert address
        assert "loss" in read_until(f"{address[0]}data/plugin/scalars/tags", "loss")


def test_a_training_is_not_overwritten_nor_mistaken_for_another(small_folder: Path, finished: Path) -> None:
    images = load_images(small_folder, DEFAULT_DIRECTORY, 0, seed=5)
    settings = FitSettings(epochs=1, batch_size=100)
    with pytest.raises(TrainerError, match=r"holds a training of 1 epochs\. Go on with --resume, or choose another"):
        train(deck.RECIPE, settings, images, seed=5, run_directory=finished)
    with pytest.raises(TrainerError, match=r"belongs to another training: seed 5, not 6\. Choose another folder"):
        train(deck.RECIPE, settings, images, seed=6, run_directory=finished, resume=True)
    checkpoint = finished / "checkpoint.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(TrainerError, match=r"checkpoint\.npz is damaged .* Remove it and train again"):
        train(deck.RECIPE, settings, images, seed=5, run_directory=finished, resume=True)


def test_two_do_not_train_in_one_folder(small_folder: Path, tmp_path: Path) -> None:
    images = load_images(small_folder, DEFAULT_DIRECTORY, 0, seed=5)
    settings = FitSettings(epochs=1, batch_size=100)
    with (
        locked(tmp_path),
        pytest.raises(TrainerError, match=r"another glyph-train is training in .* Wait for its end, or choose another"),
    ):
        train(deck.RECIPE, settings, images, seed=5, run_directory=tmp_path)
    train(deck.RECIPE, settings, images, seed=5, run_directory=tmp_path)


def save_events_without_space(directory: Path) -> None:
    run = checkpoint.Run(directory, {}, resume=False)
    checkpoint.write_atomically = lambda *_: None  # type: ignore[attr-defined]  # finds its place
    limit_files_to(100)()
    with pytest.raises(
        TrainerError, match=r"cannot be written \(.*events\.out.* MB free\)\. Free some space and go on"
    ):
        run.save(State([EpochReport(1, 0.5, 0.5, 1.0)]), [])
    (directory / "told").mkdir()


def test_events_that_find_no_space_are_told_of(tmp_path: Path) -> None:
    saving = PROCESSES.Process(target=save_events_without_space, args=(tmp_path,))
    saving.start()
    saving.join(60)
    assert (tmp_path / "told").exists()


def test_it_stops_early_with_the_best_weights(small_folder: Path) -> None:
    from glyph_trainer.evaluate import evaluate

    images = load_images(small_folder, DEFAULT_DIRECTORY, 0, seed=5)
    hasty = replace(deck.RECIPE, optimizer=lambda _: deck.optimizer(100_000))  # the rate stays too high to settle
    trained = train(hasty, FitSettings(epochs=60, batch_size=20, patience=2), images, seed=5)
    history = trained.record.history
    losses = [epoch["validation_loss"] for epoch in history]
    assert len(history) < 60
    assert len(losses) - 1 - losses.index(min(losses)) == 2
    aside = images.train.split(len(images.train) - len(images.train) // 10)[1]
    assert evaluate(trained.model, aside).loss == pytest.approx(min(losses))


def test_the_state_knows_its_best_epoch() -> None:
    assert State().since_best() == 0
