"""Every recipe: it does what it says, and is published, served and called like any other model."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from glyph_client import CallError, Client
from glyph_trainer.cli import main
from glyph_trainer.data.mnist import DEFAULT_DIRECTORY, read_mnist_test
from glyph_trainer.gates import Limits
from glyph_trainer.pipeline import load_images, train
from glyph_trainer.promotions import CANARY, STABLE
from glyph_trainer.publish import publish
from glyph_trainer.recipes import backprop, flagship, logistic
from glyph_trainer.release import Release
from glyph_trainer.versions import describe_version

from tests.trainer.conftest import Run

DECK = [  # the figures that the deck prints, in its order
    "0.3775",
    "0.593269992",
    "0.596884378",
    "1.105905967",
    "0.75136507",
    "1.224921",
    "0.772928465",
    "0.274811083",
    "0.023560026",
    "0.298371109",
    "0.74136507",
    "0.186815602",
    "0.593269992",
    "0.082167041",
    "0.35891648",
]


DECK_VERSION, FLAGSHIP_VERSION = 1, 2


@pytest.fixture(scope="module")
def models(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all models, with the deck's as the first version of `digits`."""
    folder = tmp_path_factory.mktemp("recipes")
    shutil.copytree(models_dir / "digits", folder / "digits")
    return folder


@pytest.fixture(scope="module")
def backprop_output(glyph_train: Run, models: Path) -> str:
    done = glyph_train("run", "--recipe", "backprop", "--models-dir", models)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def logistic_output(glyph_train: Run, models: Path) -> str:
    done = glyph_train("run", "--recipe", "logistic", "--models-dir", models)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def flagship_model(models: Path, small_folder: Path) -> keras.Model:
    """The flagship after a few epochs on few images, published as the second version of `digits` whatever it fails."""
    settings = replace(flagship.RECIPE.settings, epochs=2, batch_size=32)
    images = load_images(small_folder, DEFAULT_DIRECTORY, 0, seed=5, share=settings.training_share)
    trained = train(flagship.RECIPE, settings, replace(images, official=None), seed=5)
    assert trained.record.metrics["held_out"]["accuracy"] > 0.6
    strict = Limits(accuracy=0.9999, milliseconds=10_000, megabytes=0.1)
    assert publish(trained, models, "digits", strict, force=True).version == models / "digits" / str(FLAGSHIP_VERSION)
    return trained.model


@pytest.fixture(scope="module")
def release(models: Path, flagship_model: keras.Model) -> Release:
    """The models.config of the server, with the deck's version as the stable one."""
    config = models / "models.config"
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{models / name}" model_platform: "tensorflow" }}\n'
        for name in ("backprop", "logistic", "digits")
    )
    config.write_text(f"model_config_list {{\n{entries}}}\n")
    release = Release(config, "digits", models / "digits")
    release.promote(FLAGSHIP_VERSION, CANARY)
    release.promote(DECK_VERSION, STABLE)
    return release


@pytest.fixture(scope="module")
def server(
    backprop_output: str,
    logistic_output: str,
    models: Path,
    release: Release,
    serve: Callable[..., contextlib.AbstractContextManager[Any]],
) -> Iterator[Any]:
    assert f"Published {models}/backprop/1" in backprop_output
    assert f"Published {models}/logistic/1" in logistic_output
    flags = ("--model_config_file_poll_wait_seconds=1", "--allow_version_labels_for_unavailable_models")
    with serve(f"--model_config_file={release.config}", *flags) as running:
        yield running


def test_the_flagship_answers_with_the_mean_of_its_views(flagship_model: keras.Model) -> None:
    digits = read_mnist_test().images[:4]
    network = flagship_model.get_layer("network")
    scaled = digits.astype(np.float32) / 255
    views = [tf.nn.softmax(network(flagship.Rotation(degrees)(scaled))) for degrees in flagship.VIEWS]
    np.testing.assert_allclose(flagship_model(digits), np.mean(views, axis=0), atol=1e-6)


def test_a_view_is_turned() -> None:
    digits = read_mnist_test().images[:4].astype(np.float32)
    np.testing.assert_array_equal(flagship.Rotation(0.0)(digits), digits)
    np.testing.assert_allclose(flagship.Rotation(90.0)(digits), np.rot90(digits, k=-1, axes=(1, 2)), atol=1e-2)


def test_backprop_reproduces_every_figure_of_the_deck(backprop_output: str) -> None:
    assert [line.split()[-1] for line in backprop_output.splitlines()[1:16]] == DECK


def test_the_chain_rule_and_automatic_differentiation_agree() -> None:
    generator = np.random.default_rng(1)
    for _ in range(5):
        network = backprop.Network(generator.normal(size=(2, 2)), generator.normal(size=(2, 2)), 0.35, 0.60)
        by_hand, automatic = backprop.gradients_by_chain_rule(network), backprop.gradients_by_autodiff(network)
        for a, b in zip(by_hand, automatic, strict=True):
            assert a.dtype == b.dtype == np.float64
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_backprop_trains_on_to_the_target_and_plots_the_error(backprop_output: str) -> None:
    assert "the outputs are 0.010990 and 0.988990, for 0.01 and 0.99" in backprop_output
    assert sum(" |" in line and "*" in line for line in backprop_output.splitlines()) == 10


def test_an_example_is_published_under_the_name_that_is_asked_for(tmp_path: Path) -> None:
    assert main(["run", "--recipe=logistic", f"--models-dir={tmp_path}", "--model-name=digits"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_logistic_learns_nothing_from_raw_features_and_all_from_standardised_ones(logistic_output: str) -> None:
    lines = logistic_output.splitlines()
    assert lines[1].startswith("  raw ")
    assert lines[1].endswith("2 of 4 right")
    assert lines[2].startswith("  standardised ")
    assert lines[2].endswith("4 of 4 right")
    assert "the sigmoid is saturated" in logistic_output


def test_every_recipe_is_served_and_called_through_the_sdk(server: Any, flagship_model: keras.Model) -> None:
    digits = read_mnist_test().take(slice(64))
    with Client(server.grpc) as client:
        outputs = client.call({"inputs": [backprop.INPUT.tolist()]}, model="backprop")["outputs"]
        np.testing.assert_allclose(outputs[0], backprop.TARGET, atol=2e-3)
        answers = client.call({"features": logistic.DATA[:, 1:].tolist()}, model="logistic")
        assert answers["label"].tolist() == [b"1", b"0", b"0", b"1"]
        assert np.array_equal(answers["probability"] > 0.5, logistic.LABELS > 0.5)
        by_deck = [client.predict(image[..., 0], version=DECK_VERSION).label for image in digits.images]
        assert np.mean([int(label) == truth for label, truth in zip(by_deck, digits.labels, strict=True)]) > 0.9
        by_flagship = client.predict(digits.images[0, ..., 0], version=FLAGSHIP_VERSION)
        np.testing.assert_allclose(by_flagship.probabilities, flagship_model(digits.images[:1])[0], atol=1e-5)


def test_a_label_moves_on_a_running_server(server: Any, release: Release) -> None:
    digit = read_mnist_test().images[0, ..., 0]

    with Client(server.grpc) as client:

        def wait_until(label: str, version: int) -> None:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                with contextlib.suppress(CallError):
                    if client.predict(digit, label=label).version == version:
                        return
            pytest.fail(f"{label} is not version {version}:\n{server.log}")

        wait_until(STABLE, DECK_VERSION)
        release.promote(FLAGSHIP_VERSION, STABLE)
        wait_until(STABLE, FLAGSHIP_VERSION)
        release.rollback()
        wait_until(STABLE, DECK_VERSION)
        release.promote(FLAGSHIP_VERSION, CANARY)
        wait_until(CANARY, FLAGSHIP_VERSION)


def test_a_forced_publication_says_what_it_failed(models: Path, flagship_model: keras.Model) -> None:
    version = describe_version(models / "digits" / str(FLAGSHIP_VERSION))
    assert {gate["name"] for gate in version.manifest["gates"] if not gate["passed"]} == {"accuracy", "size"}
    card = (version.directory / "assets.extra" / "MODEL_CARD.md").read_text()
    assert f"{flagship_model.count_params():,} parameters" in card
    assert "glyph-train run --recipe flagship --data-dir digits --seed 5 --epochs 2 --batch-size 32" in card


def test_an_example_is_no_classifier_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--recipe", "logistic", "--output", str(tmp_path / "model")]) == 1
    assert capsys.readouterr().err == (
        "glyph-train: error: the recipe 'logistic' trains no classifier of pictures. Use 'glyph-train run'\n"
    )
