"""Publishing: whole versions, whatever happens meanwhile."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from glyph_trainer.card import write_card
from glyph_trainer.cli import main
from glyph_trainer.data.dataset import Dataset
from glyph_trainer.data.mnist import DEFAULT_DIRECTORY
from glyph_trainer.errors import ModelError
from glyph_trainer.evaluate import load_predictor
from glyph_trainer.fit import FitSettings
from glyph_trainer.pipeline import load_images, train
from glyph_trainer.publish import _is_right, publish, publish_example
from glyph_trainer.recipes import Example, Fitted, deck
from glyph_trainer.staging import staging_directory
from glyph_trainer.trained import TrainedModel, load_trained, save_trained
from glyph_trainer.versions import check_writable, describe_version, published_versions, rename_to_next_version
from tensorflow_serving.apis import prediction_log_pb2

from tests.trainer.conftest import COMMAND, PROCESSES, Run, give_up_root, limit_files_to


@pytest.fixture(scope="module")
def trained(trained_folder: Path) -> TrainedModel:
    return load_trained(trained_folder)


@pytest.fixture(scope="module")
def models(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with one version of `digits`."""
    folder = tmp_path_factory.mktemp("models")
    publication = publish(trained, folder, "digits")
    assert publication.version == folder / "digits" / "1", publication.gates
    return folder


def test_a_model_whose_recipe_is_gone_is_published_as_it_was_built(trained: TrainedModel, tmp_path: Path) -> None:
    record = dataclasses.replace(trained.record, recipe="gone")
    publication = publish(dataclasses.replace(trained, record=record), tmp_path, "digits")
    assert publication.version == tmp_path / "digits" / "1", publication.gates
    check_whole(publication.version)


class Doubling(tf.Module):  # type: ignore[misc]
    """The smallest model there is."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="number")])  # type: ignore[untyped-decorator]
    def serving_default(self, number: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"twice": 2 * number}


def publish_together(models: Path, all_ready: Barrier) -> None:
    fitted = Fitted(Doubling(), np.ones(1, np.float32), ("twice",), {}, {})
    recipe = Example("doubling", "twice the number", lambda _: fitted)
    all_ready.wait(60)
    publish_example(recipe, fitted, models, "doubling")


def test_ten_publishers_at_once_get_ten_whole_versions(tmp_path: Path) -> None:
    all_ready = PROCESSES.Barrier(10)
    publishers = [PROCESSES.Process(target=publish_together, args=(tmp_path, all_ready)) for _ in range(10)]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join(60)
    assert [publisher.exitcode for publisher in publishers] == [0] * 10
    base = tmp_path / "doubling"
    assert sorted(path.name for path in base.iterdir()) == sorted(str(number) for number in range(1, 11))
    for version in published_versions(base).values():
        check_whole(version)


def is_probing(publisher: int) -> bool:
    """Whether a process has one below it that asks what the gates demand."""
    try:
        children = Path(f"/proc/{publisher}/task/{publisher}/children").read_text().split()
        return any(b"glyph_trainer.probe" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)
    except OSError:  # one of them has just ended
        return False


def check_whole(version: Path) -> None:
    """All files that the manifest lists are there with their checksums, and no other."""
    checksums = describe_version(version).manifest["sha256"]
    files = {path.relative_to(version).as_posix() for path in version.rglob("*") if path.is_file()}
    assert files == {*checksums, "assets.extra/manifest.json"}
    assert {"saved_model.pb", "assets.extra/tf_serving_warmup_requests", "assets.extra/MODEL_CARD.md"} < files
    for name, digest in checksums.items():
        assert hashlib.sha256((version / name).read_bytes()).hexdigest() == digest, name


def test_the_next_version_follows_the_newest(tmp_path: Path) -> None:
    for name in ("3", "0012", "tmp-99"):
        (tmp_path / name).mkdir()
    with staging_directory(tmp_path) as staging:
        (staging / "saved_model.pb").touch()
        assert rename_to_next_version(staging, tmp_path).name == "13"


def test_the_manifest_lists_every_file_with_its_checksum(models: Path) -> None:
    check_whole(models / "digits" / "1")


def test_a_version_says_where_it_comes_from(models: Path, trained: TrainedModel) -> None:
    version = describe_version(models / "digits" / "1")
    assert version.number == 1
    assert version.manifest["recipe"] == "deck"
    assert version.manifest["seed"] == 7
    assert version.manifest["settings"]["epochs"] == 2
    assert version.manifest["data_fingerprint"] == trained.record.data_fingerprint
    assert version.manifest["software"]["tensorflow"] == tf.__version__
    assert set(version.metrics) == {"held_out", "official_test"}
    extra = version.directory / "assets.extra"
    assert (extra / "labels.txt").read_text() == "".join(f"{digit}\n" for digit in range(10))
    card = (extra / "MODEL_CARD.md").read_text()
    assert "trained with Glyph's recipe `deck`" in card
    assert f"{version.metrics['official_test']['accuracy']:.2%}" in card
    elsewhere = write_card("digits", dataclasses.replace(trained.record, source="my digits"), 1)
    assert "--data-dir 'my digits' --seed 7" in elsewhere


def test_the_card_names_the_command_that_trains_the_same_again(small_folder: Path, tmp_path: Path) -> None:
    for path in small_folder.glob("[01].*.jpg"):
        shutil.copy(path, tmp_path)
    (tmp_path / "0.9999999.jpg").write_bytes(b"no image")
    images = load_images(tmp_path, DEFAULT_DIRECTORY, 0, seed=3, skip_bad=True)
    trained = train(deck.RECIPE, FitSettings(epochs=1, batch_size=20), images, seed=3)
    card = write_card("my shapes", trained.record, 1)
    command = f"--data-dir {tmp_path.name} --seed 3 --epochs 1 --batch-size 20 --skip-bad --models-dir models"
    assert f"`glyph-train run --recipe deck {command} --model-name 'my shapes'`" in card
    assert "training images (without 1 that cannot be used)" in card


def test_every_gate_is_in_the_manifest_with_its_figure(models: Path) -> None:
    gates = describe_version(models / "digits" / "1").manifest["gates"]
    assert [gate["name"] for gate in gates] == [
        "accuracy",
        "serving_default answers as trained",
        "image_bytes answers as trained",
        "classify answers as trained",
        "what does not fit is an error",
        "latency",
        "size",
    ]
    assert all(gate["passed"] for gate in gates)
    assert "at least 50.00%" in gates[0]["figure"]
    assert gates[4]["figure"] == "22 of 22 questions"


def test_the_warm_up_covers_every_signature_at_every_batch_size(models: Path) -> None:
    path = models / "digits" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    covered = set()
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        if log.HasField("classify_log"):
            request = log.classify_log.request
            covered.add((request.model_spec.signature_name, len(request.input.example_list.examples)))
        else:
            request = log.predict_log.request
            (tensor,) = request.inputs.values()
            covered.add((request.model_spec.signature_name, tensor.tensor_shape.dim[0].size))
        assert request.model_spec.name == "digits"
    signatures = ("serving_default", "image_bytes", "classify")
    assert covered == {(signature, size) for signature in signatures for size in (1, 2, 4, 8, 16, 32, 64)}


def test_versions_are_listed(glyph_train: Run, models: Path) -> None:
    done = glyph_train("versions", "--models-dir", models)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["version", "1"]
    assert "deck" in lines[1]
    assert "% held out" in lines[1]
    assert "0 min" in lines[1]


def test_versions_that_others_have_put_there_are_listed_with_what_is_known(glyph_train: Run, tmp_path: Path) -> None:
    for number, manifest, metrics in (
        (1, "", ""),
        (2, '{"recipe": "by hand", "created": "yesterday"}', '{"accuracy": 0.9, "loss": null}'),
        (3, "no JSON", '{"held_out": {"accuracy": 0.9}, "given": {"accuracy": "good"}}'),
        (4, '{"created": "2020-02-03T04:05:06+01:00"}', "[1]"),
    ):
        extra = tmp_path / "digits" / str(number) / "assets.extra"
        extra.mkdir(parents=True)
        for name, content in (("manifest.json", manifest), ("metrics.json", metrics)):
            if content:
                (extra / name).write_text(content)
    done = glyph_train("versions", "--models-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [re.split("  +", line.strip()) for line in done.stdout.splitlines()[1:]]
    assert rows[:3] == [
        ["1", "-", "-", "-", "-"],
        ["2", "-", "-", "by hand", "-"],
        ["3", "-", "-", "-", "90.00% held out"],
    ]
    assert rows[3][:2] == ["4", "2020-02-03T03:05:06+00:00"]
    assert rows[3][2].endswith(" d")


def test_no_version_is_an_error(glyph_train: Run, tmp_path: Path) -> None:
    done = glyph_train("versions", "--models-dir", tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"glyph-train: error: {tmp_path}/digits has no published version. 'glyph-train run' makes one\n"
    )


def test_unless_published_leaves_a_model_alone(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", f"--data-dir={tmp_path / 'none'}", f"--models-dir={models}", "--unless-published"]) == 0
    assert capsys.readouterr().out == "digits has version 1: nothing to do\n"


@pytest.fixture
def one_version(models: Path) -> Iterator[Path]:
    """The folder of a model with one version, which must be untouched in the end."""
    base = models / "digits"
    before = {path: path.read_bytes() for path in (base / "1").rglob("*") if path.is_file()}
    yield base
    assert before == {path: path.read_bytes() for path in (base / "1").rglob("*") if path.is_file()}
    assert [path.name for path in base.iterdir()] == ["1"]


def publish_saved(folder: Path, models: Path) -> None:
    publish(load_trained(folder), models, "digits")


def test_a_killed_publisher_leaves_at_most_a_staging_folder_and_the_next_run_clears_it(
    one_version: Path, trained_folder: Path
) -> None:
    publisher = PROCESSES.Process(target=publish_saved, args=(trained_folder, one_version.parent))
    publisher.start()
    while not any((staging / "variables").exists() for staging in one_version.glob(".staging-*")):
        assert publisher.exitcode is None
    publisher.kill()
    publisher.join()
    assert list(published_versions(one_version)) == [1]
    assert len(list(one_version.iterdir())) == 2
    check_writable(one_version)
    assert len(list(one_version.iterdir())) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_publisher_that_ends_while_the_gates_ask_leaves_nothing_of_its_own_behind(
    number: signal.Signals, one_version: Path, trained_folder: Path, tmp_path: Path
) -> None:
    command = [str(COMMAND), "publish", f"--model={trained_folder}", f"--models-dir={one_version.parent}"]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.DEVNULL) as publisher:
        while not is_probing(publisher.pid):
            assert publisher.poll() is None
        publisher.send_signal(number)
    assert publisher.returncode == (-number if number == signal.SIGKILL else 130)
    of_tensorflow = "__autograph_generated_file"  # what it removes when it ends, unless it is killed
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(of_tensorflow)]
    check_writable(one_version)


def test_a_full_disk_publishes_nothing(glyph_train: Run, one_version: Path, trained_folder: Path) -> None:
    full = limit_files_to(100_000)  # the weights are larger
    done = glyph_train("publish", "--model", trained_folder, "--models-dir", one_version.parent, preexec_fn=full)
    assert done.returncode == 1
    assert done.stderr.startswith(f"glyph-train: error: the version cannot be written below {one_version}")
    assert "Free some space and try again; nothing was published" in done.stderr


@pytest.mark.parametrize(
    ("command", "place", "size"),
    [
        (("fit", "--epochs=1", "--output=out/model"), "out", 100_000),
        (("fit", "--epochs=1", "--output=out/model", "--run-dir=run"), "run/checkpoint.npz", 100_000),
        (("dataset", "--data-dir=out/digits"), "out", 100),
    ],
)
def test_what_a_full_disk_cannot_hold_is_named_with_the_space_that_is_left(
    glyph_train: Run, small_folder: Path, tmp_path: Path, command: tuple[str, ...], place: str, size: int
) -> None:
    data = () if command[0] == "dataset" else ("--data-dir", small_folder)
    done = glyph_train(*command, *data, cwd=tmp_path, preexec_fn=limit_files_to(size))
    assert done.returncode == 1
    told = f"glyph-train: error: {tmp_path / place} cannot be written: File too large "
    assert re.match(rf"{re.escape(told)}\([\d,.]+ MB free\)\. Free some space and try again", done.stderr), done.stderr
    left = [path.name for path in tmp_path.rglob("*") if not path.name.startswith("events.out")]
    assert sorted(left) == sorted({"out", place.partition("/")[0]})


def test_a_models_folder_that_may_not_be_written_is_found_out_before_the_training(
    glyph_train: Run, small_folder: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o555)
    done = glyph_train("run", "--data-dir", small_folder, "--models-dir", tmp_path, preexec_fn=give_up_root)
    assert done.returncode == 1
    assert f"glyph-train: error: {tmp_path}" in done.stderr
    assert "Give this user access, or choose another folder" in done.stderr
    assert "Epoch" not in done.stdout


@pytest.mark.parametrize(("models", "name"), [("[1]", "m"), ("models", "a*b"), ("a?", "m"), ("a\\b", "m")])
def test_a_path_that_tensorflow_takes_for_a_pattern_is_found_out_before_the_training(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], models: str, name: str
) -> None:
    folder = tmp_path / models
    assert main(["run", f"--data-dir={small_folder}", f"--models-dir={folder}", f"--model-name={name}"]) == 1
    told = capsys.readouterr()
    assert told.err.startswith(f"glyph-train: error: {folder / name} cannot hold a model: TensorFlow takes a path")
    assert (told.out, list(tmp_path.iterdir())) == ("", [])


def test_nor_is_a_model_looked_for_in_such_a_path(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "digits", tmp_path / "digits [old]")
    with pytest.raises(ModelError, match=r"takes a path with \[ \] in it for a pattern\. Choose or rename the folder"):
        load_predictor(tmp_path / "digits [old]" / "1")


def test_a_folder_without_a_trained_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no model\.keras\. Name a folder that 'glyph-train fit' has written"):
        load_trained(tmp_path)


def test_a_damaged_trained_model_is_an_error(trained_folder: Path, tmp_path: Path) -> None:
    for path in trained_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match=f"the model in {tmp_path} is damaged .* Train it again"):
        load_trained(tmp_path)


def save_when_ready(trained_folder: Path, folder: Path, all_ready: Barrier) -> None:
    trained = load_trained(trained_folder)
    all_ready.wait(60)
    with contextlib.suppress(ModelError):
        save_trained(trained, folder)


def test_of_two_who_save_in_one_folder_the_second_is_told(trained_folder: Path, tmp_path: Path) -> None:
    all_ready = PROCESSES.Barrier(2)
    arguments = (trained_folder, tmp_path / "model", all_ready)
    savers = [PROCESSES.Process(target=save_when_ready, args=arguments) for _ in range(2)]
    for saver in savers:
        saver.start()
    for saver in savers:
        saver.join(60)
    assert [saver.exitcode for saver in savers] == [0, 0]
    assert load_trained(tmp_path / "model").record == load_trained(trained_folder).record


def test_the_record_survives_saving(trained: TrainedModel) -> None:
    assert isinstance(trained.model, keras.Model)
    assert trained.record.images == 1000
    assert len(trained.record.history) == 2
    assert json.loads(json.dumps(trained.record.metrics)) == trained.record.metrics


def test_the_stable_version_is_judged_by_the_names_of_its_classes(trained: TrainedModel, models: Path) -> None:
    version, images = models / "digits" / "1", trained.test.take(slice(200))
    right = _is_right(version, images)
    assert right.mean() > 0.5
    other_order = Dataset(images.images, len(images.names) - 1 - images.labels, images.names[::-1])
    assert np.array_equal(_is_right(version, other_order), right)


def test_what_would_be_in_the_way_is_told_before_the_training(
    glyph_train: Run, small_folder: Path, one_version: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").touch()
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "file").touch()
    training = ("--data-dir", small_folder, "--epochs", 1, "--batch-size", 50)
    for command, told in (
        (("fit", "--output", tmp_path / "busy"), "is not empty"),
        (("fit", "--output", tmp_path / "taken"), "is no folder. Choose another name"),
        (("run", "--models-dir", tmp_path / "taken"), "Not a directory, where a folder should be. Choose another name"),
        (
            ("run", "--models-dir", one_version.parent, "--config", tmp_path / "none"),
            "cannot be read as a models.config",
        ),
    ):
        done = glyph_train(*command, *training)
        assert done.returncode == 1
        assert told in done.stderr
        assert "Training" not in done.stdout


def test_a_stable_version_that_cannot_be_asked_is_a_gate_that_force_passes(
    trained: TrainedModel, tmp_path: Path
) -> None:
    (tmp_path / "digits" / "1").mkdir(parents=True)
    fitted = Fitted(Doubling(), np.ones(1, np.float32), ("twice",), {}, {})
    other = publish_example(Example("doubling", "", lambda _: fitted), fitted, tmp_path, "digits")
    for stable in (tmp_path / "digits" / "1", other):
        (failed,) = (gate for gate in publish(trained, tmp_path, "digits", stable=stable).gates if not gate.passed)
        assert failed.figure.startswith(f"{stable} cannot be compared with (")
    assert publish(trained, tmp_path, "digits", stable=other, force=True).version == tmp_path / "digits" / "3"


def test_what_others_have_put_there_is_not_compared_with(
    glyph_train: Run, trained_folder: Path, models: Path, tmp_path: Path
) -> None:
    (tmp_path / "digits" / "7").mkdir(parents=True)
    done = glyph_train("publish", "--model", trained_folder, "--models-dir", tmp_path)
    assert done.stdout.splitlines()[-1] == f"Published {tmp_path / 'digits' / '8'}", done.stderr
    config = tmp_path / "models.config"
    config.write_text(
        'model_config_list { config { name: "digits" base_path: "/models/digits" model_platform: "tensorflow" '
        'version_labels { key: "stable" value: 42 } } }'
    )
    done = glyph_train("publish", "--model", trained_folder, "--models-dir", tmp_path, "--config", config)
    assert done.returncode == 1
    assert f"{config} calls version 42 stable, which is not in {tmp_path / 'digits'}" in done.stderr
