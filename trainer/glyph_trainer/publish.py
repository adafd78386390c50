"""Publishing: a trained model becomes `<models>/<name>/<version>/`, whole or not at all."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tensorflow as tf

from glyph_trainer.card import write_card
from glyph_trainer.errors import PublishError
from glyph_trainer.signatures import export
from glyph_trainer.staging import flush_to_disk, staging_directory
from glyph_trainer.trained import TrainedModel, TrainingRecord
from glyph_trainer.versions import rename_to_next_version
from glyph_trainer.warmup import BATCH_SIZES, FILE_NAME, write_warmup


def publish(trained: TrainedModel, models_directory: Path, name: str, batch_sizes: Sequence[int] = BATCH_SIZES) -> Path:
    """Publish a model as the next version.

    Any number of publishers may do this at once: each gets a version of its own.

    Args:
        trained: the model.
        models_directory: the folder of all models.
        name: of the model on the server.
        batch_sizes: that the server forms.

    Returns:
        the folder of the new version.

    Raises:
        OSError: the folder cannot be written, or the disk is full. Published versions are untouched.
        PublishError: the same, where TensorFlow is the one to notice.
    """
    base = models_directory.absolute() / name
    record = trained.record
    with staging_directory(base) as staging:
        extra = staging / "assets.extra"
        try:
            export(trained.model, record.labels, staging)
            extra.mkdir()
            write_warmup(extra / FILE_NAME, name, trained.examples, batch_sizes)
        except tf.errors.OpError as error:  # TensorFlow's way to say OSError
            raise PublishError(
                f"the version cannot be written below {base} ({error.message}). Free some space and try again; "
                f"nothing was published"
            ) from error
        (extra / "labels.txt").write_text("".join(f"{label}\n" for label in record.labels))
        (extra / "metrics.json").write_text(_json(record.metrics))
        (extra / "MODEL_CARD.md").write_text(write_card(name, record, trained.model.count_params()))
        (extra / "manifest.json").write_text(_json(_manifest(staging, name, record)))
        flush_to_disk(staging)
        return rename_to_next_version(staging, base)


def _manifest(staging: Path, name: str, record: TrainingRecord) -> dict[str, Any]:
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
        "sha256": {
            path.relative_to(staging).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
        },
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
