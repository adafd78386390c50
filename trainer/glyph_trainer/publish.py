"""Publishing: a trained model becomes `<models>/<name>/<version>/`, whole or not at all."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from glyph_trainer.card import write_card, write_example_card
from glyph_trainer.data.dataset import Dataset
from glyph_trainer.errors import ModelError, PublishError
from glyph_trainer.evaluate import evaluate, load_predictor
from glyph_trainer.gates import COMPARISON, Gate, Limits, accuracy_gate, comparison_gate, export_gates
from glyph_trainer.recipes import RECIPES, Example, Fitted, Recipe, as_built
from glyph_trainer.signatures import export
from glyph_trainer.staging import flush_to_disk, free_space, staging_directory
from glyph_trainer.trained import TrainedModel, TrainingRecord, software_versions
from glyph_trainer.versions import check_loadable, rename_to_next_version
from glyph_trainer.warmup import BATCH_SIZES, FILE_NAME, write_single_warmup, write_warmup

_WARMUP_IMAGES = max(BATCH_SIZES)


@dataclasses.dataclass(frozen=True)
class Publication:
    """What became of a model that was to be published.

    Attributes:
        version: its folder, or None if it was not published.
        gates: what was demanded of it.
    """

    version: Path | None
    gates: tuple[Gate, ...]


def publish(
    trained: TrainedModel,
    models_directory: Path,
    name: str,
    limits: Limits | None = None,
    stable: Path | None = None,
    force: bool = False,
) -> Publication:
    """Publish a model as the next version, if it passes what is demanded of it.

    Any number of publishers may do this at once: each gets a version of its own.

    Args:
        trained: the model.
        models_directory: the folder of all models.
        name: of the model on the server.
        limits: what is demanded.
        stable: the folder of the version that it must not be worse than, if any.
        force: publish it even if it fails; the manifest records that.

    Returns:
        where it was published, and what was demanded.

    Raises:
        ModelError: no version could be loaded from that folder.
        OSError: the folder cannot be written, or the disk is full. Published versions are untouched.
        PublishError: the same, where TensorFlow is the one to notice.
    """
    limits = limits or Limits()
    record = trained.record
    card = write_card(name, record, trained.model.count_params())
    with _staged_version(models_directory, name) as staged:
        with staged.writing():
            export(trained.model, _answers(trained), record.labels, staged.directory)
            write_warmup(staged.extra / FILE_NAME, name, trained.test.images[:_WARMUP_IMAGES], BATCH_SIZES)
        gates = _bless(trained, staged.directory, stable, limits)
        if not force and not all(gate.passed for gate in gates):
            return Publication(None, gates)
        return Publication(staged.publish(record, card, gates), gates)


def publish_example(recipe: Example, fitted: Fitted, models_directory: Path, name: str) -> Path:
    """Publish what an example has learnt, as the next version of a model.

    Args:
        recipe: the example.
        fitted: what it has learnt.
        models_directory: the folder of all models.
        name: of the model on the server.

    Returns:
        the folder of the new version.

    Raises:
        ModelError: no version could be loaded from that folder.
        OSError: the folder cannot be written, or the disk is full. Published versions are untouched.
        PublishError: the same, where TensorFlow is the one to notice.
    """
    record = TrainingRecord(
        recipe=recipe.name,
        seed=0,
        settings=fitted.settings,
        labels=fitted.labels,
        source="",
        images=0,
        data_fingerprint="",
        history=(),
        metrics=fitted.metrics,
        software=software_versions(),
    )
    signature = fitted.module.serving_default
    with _staged_version(models_directory, name) as staged:
        with staged.writing():
            tf.saved_model.save(fitted.module, str(staged.directory), signatures=signature)
            write_single_warmup(staged.extra / FILE_NAME, name, signature, fitted.question)
        return staged.publish(record, write_example_card(name, recipe.summary, signature, record), ())


@dataclasses.dataclass(frozen=True)
class _StagedVersion:
    """A version in the making."""

    directory: Path
    base: Path

    @property
    def extra(self) -> Path:
        return self.directory / "assets.extra"

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Tell in our words what TensorFlow says when it cannot write: its errors are no OSError."""
        self.extra.mkdir()
        try:
            yield
        except tf.errors.OpError as error:
            reason = error.message.rpartition("}} ")[2].partition(" [Op:")[0]
            raise PublishError(
                f"the version cannot be written below {self.base} ({reason}; {free_space(self.base)}). Free some space "
                f"and try again; nothing was published"
            ) from error

    def publish(self, record: TrainingRecord, card: str, gates: Sequence[Gate]) -> Path:
        (self.extra / "labels.txt").write_text("".join(f"{label}\n" for label in record.labels), "utf-8")
        (self.extra / "metrics.json").write_text(_json(record.metrics))
        (self.extra / "MODEL_CARD.md").write_text(card, "utf-8")
        (self.extra / "manifest.json").write_text(_json(_manifest(self.directory, self.base.name, record, gates)))
        flush_to_disk(self.directory)
        return rename_to_next_version(self.directory, self.base)


@contextlib.contextmanager
def _staged_version(models_directory: Path, name: str) -> Iterator[_StagedVersion]:
    base = models_directory.absolute() / name
    check_loadable(base)
    with staging_directory(base) as staging:
        yield _StagedVersion(staging, base)


def _answers(trained: TrainedModel) -> Callable[[tf.Tensor], tf.Tensor]:
    """The network as it is served; as it was built, if its recipe is no longer there."""
    recipe = RECIPES.get(trained.record.recipe)
    return recipe.answers(trained.model) if isinstance(recipe, Recipe) else as_built(trained.model)


def _bless(trained: TrainedModel, staging: Path, stable: Path | None, limits: Limits) -> tuple[Gate, ...]:
    evaluation = evaluate(trained.model, trained.test)
    gates = [accuracy_gate(evaluation.is_right, limits)]
    if stable:
        try:
            gates.append(comparison_gate(evaluation.is_right, _is_right(stable, trained.test), limits))
        except (ModelError, LookupError, TypeError, ValueError, tf.errors.OpError) as error:
            reason = str(error).partition("\n")[0]
            gates.append(Gate(COMPARISON, False, f"{stable} cannot be compared with ({reason})"))
    asked, probabilities = trained.test.images[:_WARMUP_IMAGES], evaluation.probabilities[:_WARMUP_IMAGES]
    return (*gates, *export_gates(staging, asked, probabilities, limits))


def _is_right(version: Path, images: Dataset) -> NDArray[np.bool_]:
    """Whether a published version's answers are right: by the names of its classes, which may be others by now."""
    answers = evaluate(load_predictor(version), images).predictions
    labels = version / "assets.extra" / "labels.txt"
    names = labels.read_text("utf-8").splitlines() if labels.exists() else images.names
    right: NDArray[np.bool_] = np.array(names)[answers] == np.array(images.names)[images.labels]
    return right


def _manifest(staging: Path, name: str, record: TrainingRecord, gates: Sequence[Gate]) -> dict[str, Any]:
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    return {
        "model": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": record.recipe,
        "seed": record.seed,
        "settings": record.settings,
        "data_fingerprint": record.data_fingerprint,
        "training_images": record.images,
        "training_seconds": record.seconds,
        "software": record.software,
        "gates": [dataclasses.asdict(gate) for gate in gates],
        "sha256": {
            path.relative_to(staging).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
        },
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
