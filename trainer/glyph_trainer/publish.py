"""Publishing: a trained model becomes `<models>/<name>/<version>/`, whole or not at all."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tensorflow as tf

from glyph_trainer.card import write_card
from glyph_trainer.errors import PublishError
from glyph_trainer.evaluate import evaluate, load_predictor
from glyph_trainer.gates import Gate, Limits, accuracy_gate, comparison_gate, export_gates
from glyph_trainer.signatures import export
from glyph_trainer.staging import flush_to_disk, staging_directory
from glyph_trainer.trained import TrainedModel, TrainingRecord
from glyph_trainer.versions import rename_to_next_version
from glyph_trainer.warmup import BATCH_SIZES, FILE_NAME, write_warmup


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
        OSError: the folder cannot be written, or the disk is full. Published versions are untouched.
        PublishError: the same, where TensorFlow is the one to notice.
    """
    limits = limits or Limits()
    base = models_directory.absolute() / name
    record = trained.record
    with staging_directory(base) as staging:
        extra = staging / "assets.extra"
        try:
            export(trained.model, record.labels, staging)
            extra.mkdir()
            write_warmup(extra / FILE_NAME, name, trained.test.images[: max(BATCH_SIZES)], BATCH_SIZES)
        except tf.errors.OpError as error:  # TensorFlow's way to say OSError
            raise PublishError(
                f"the version cannot be written below {base} ({error.message}). Free some space and try again; "
                f"nothing was published"
            ) from error
        gates = _bless(trained, staging, stable, limits)
        if not force and not all(gate.passed for gate in gates):
            return Publication(None, gates)
        (extra / "labels.txt").write_text("".join(f"{label}\n" for label in record.labels))
        (extra / "metrics.json").write_text(_json(record.metrics))
        (extra / "MODEL_CARD.md").write_text(write_card(name, record, trained.model.count_params()))
        (extra / "manifest.json").write_text(_json(_manifest(staging, name, record, gates)))
        flush_to_disk(staging)
        return Publication(rename_to_next_version(staging, base), gates)


def _bless(trained: TrainedModel, staging: Path, stable: Path | None, limits: Limits) -> tuple[Gate, ...]:
    evaluation = evaluate(trained.model, trained.test)
    gates = [accuracy_gate(evaluation.is_right, limits)]
    if stable:
        of_stable = evaluate(load_predictor(stable), trained.test)
        gates.append(comparison_gate(evaluation.is_right, of_stable.is_right, limits))
    return (*gates, *export_gates(staging, trained.test, evaluation.probabilities, limits))


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
