"""The versions of a model that have been published."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glyph_trainer.errors import ModelError


@dataclass(frozen=True)
class PublishedVersion:
    """A published version.

    Attributes:
        number: of the version; the server prefers the highest.
        directory: where it lies.
        manifest: the content of its `manifest.json`.
        metrics: the content of its `metrics.json`.
    """

    number: int
    directory: Path
    manifest: dict[str, Any]
    metrics: dict[str, Any]


def published_versions(base: Path) -> dict[int, Path]:
    """Find the versions of a model.

    Args:
        base: the folder of the model, `<models>/<name>`. It need not exist.

    Returns:
        the folder of each version by its number, in ascending order. Whatever a server would not take for a version, a
        name that is no number above all, is left out.
    """
    if not base.is_dir():
        return {}
    found = {int(path.name): path for path in base.iterdir() if re.fullmatch(r"[0-9]+", path.name)}
    return dict(sorted(found.items()))


def describe_version(directory: Path) -> PublishedVersion:
    """Read what a version says about itself.

    Args:
        directory: the folder of the version.

    Returns:
        its description.

    Raises:
        ModelError: the version was not published by `glyph-train`, or is damaged.
    """
    extra = directory / "assets.extra"
    try:
        manifest, metrics = (json.loads((extra / name).read_text()) for name in ("manifest.json", "metrics.json"))
        return PublishedVersion(int(directory.name), directory, manifest, metrics)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{directory} does not describe itself as a published version does ({error}). "
            f"Name a folder that 'glyph-train publish' has written"
        ) from error
