"""A model to be evaluated, wherever it lies: saved by `fit`, or published."""

from dataclasses import dataclass
from pathlib import Path

from glyph_trainer.errors import ModelError
from glyph_trainer.evaluate import Predictor, load_predictor
from glyph_trainer.fit import DECK_SHARE
from glyph_trainer.trained import load_trained
from glyph_trainer.versions import describe_version


@dataclass(frozen=True)
class Subject:
    """A model to be evaluated.

    Attributes:
        name: what to call it.
        predictor: the model.
        labels: the names of its classes.
        seed: of its training.
        data_fingerprint: of the images that it was trained with.
        training_share: how much of those it was trained with; the rest was held out.
    """

    name: str
    predictor: Predictor
    labels: tuple[str, ...]
    seed: int
    data_fingerprint: str
    training_share: float


def load_subject(directory: Path) -> Subject:
    """Load a model.

    Args:
        directory: what `fit` has saved, or a published version.

    Returns:
        the model.

    Raises:
        ModelError: there is none, it is damaged, or `glyph-train` did not publish it.
    """
    if not (directory / "saved_model.pb").exists():
        trained = load_trained(directory)
        record = trained.record
        return Subject(
            name=record.recipe,
            predictor=trained.model,
            labels=record.labels,
            seed=record.seed,
            data_fingerprint=record.data_fingerprint,
            training_share=record.settings.get("training_share", DECK_SHARE),
        )
    version = describe_version(directory)
    missing = [key for key in ("model", "seed", "data_fingerprint", "settings") if key not in version.manifest]
    if missing:
        raise ModelError(
            f"{directory} does not describe itself as a published version does: its manifest.json has no "
            f"{', '.join(missing)}. Name a folder that 'glyph-train publish' has written"
        )
    return Subject(
        name=f"{version.manifest['model']} version {version.number}",
        predictor=load_predictor(directory),
        labels=tuple((directory / "assets.extra" / "labels.txt").read_text("utf-8").splitlines()),
        seed=version.manifest["seed"],
        data_fingerprint=version.manifest["data_fingerprint"],
        training_share=version.manifest["settings"].get("training_share", DECK_SHARE),
    )
