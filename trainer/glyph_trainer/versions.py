"""The versions of a model that have been published."""

import errno
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from glyph_trainer.errors import ModelError
from glyph_trainer.staging import check_deletable, flush_entry, staging_directory

_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class PublishedVersion:
    """A published version.

    Attributes:
        number: of the version; the server prefers the highest.
        directory: where it lies.
        manifest: the content of its `manifest.json`; empty if `glyph-train` did not publish it.
        metrics: the content of its `metrics.json`; likewise.
    """

    number: int
    directory: Path
    manifest: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def created(self) -> datetime | None:
        """When it was published, in UTC, if its manifest says so."""
        try:
            return datetime.fromisoformat(self.manifest["created"]).astimezone(UTC)
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def accuracies(self) -> dict[str, float]:
        """The share of right answers, 0 to 1, by the name of the set of images, as far as its metrics say so."""
        summaries = {name: summary for name, summary in self.metrics.items() if isinstance(summary, dict)}
        found = {name: summary.get("accuracy") for name, summary in summaries.items()}
        return {name: float(accuracy) for name, accuracy in found.items() if isinstance(accuracy, int | float)}

    @property
    def age(self) -> str | None:
        """How long ago it was published, in the largest unit that fits: `3 d`, `5 h`, `12 min`; None if unknown."""
        if not self.created:
            return None
        minutes = max(0, int((datetime.now(UTC) - self.created).total_seconds() // 60))  # clocks differ
        for unit, length in (("d", 24 * 60), ("h", 60)):
            if minutes >= length:
                return f"{minutes // length} {unit}"
        return f"{minutes} min"


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
    by_name = sorted(base.iterdir(), key=lambda path: path.name)  # of 7 and 007 the last counts, as on the server
    found = {int(path.name): path for path in by_name if _NUMBER.fullmatch(path.name) and int(path.name) < 2**63}
    return dict(sorted(found.items()))


def describe_version(directory: Path) -> PublishedVersion:
    """Read what a version says about itself.

    Args:
        directory: the folder of the version.

    Returns:
        its description, without what a version that others have put there does not say.

    Raises:
        ModelError: the name of the folder is no number.
    """
    if not _NUMBER.fullmatch(directory.name):
        raise ModelError(f"{directory} is no version of a model: its name is no number. Name a folder like digits/1")
    extra = directory / "assets.extra"
    return PublishedVersion(
        int(directory.name), directory, _read_object(extra / "manifest.json"), _read_object(extra / "metrics.json")
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def rename_to_next_version(staging: Path, base: Path) -> Path:
    """Make a finished staging directory the newest version.

    Any number of processes may do this at once: each gets a number of its own.

    Args:
        staging: the directory, on the same file system as `base`, not empty.
        base: the folder of the model.

    Returns:
        where it lies now: under the first free number after the newest version.
    """
    while True:
        version = base / str(max(published_versions(base), default=0) + 1)
        try:
            staging.rename(version)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster
                raise
        else:
            flush_entry(base)
            return version


def check_loadable(directory: Path) -> None:
    """Find out whether TensorFlow, and so a server too, could load a model from a place.

    Args:
        directory: what holds the model, as it is named to TensorFlow.

    Raises:
        ModelError: it takes the path for a pattern, which fits other files or none.
    """
    if signs := sorted(set(str(directory)) & set("[]*?\\")):
        raise ModelError(
            f"{directory} cannot hold a model: TensorFlow takes a path with {' '.join(signs)} in it for a pattern. "
            "Choose or rename the folder"
        )


def check_writable(base: Path) -> None:
    """Find out, before a long training, whether a version could be written after it.

    Args:
        base: the folder of the model; made if missing.

    Raises:
        ModelError: no version could be loaded from there.
        OSError: the folder cannot be made or written.
    """
    check_loadable(base.absolute())
    with staging_directory(base):
        pass


def prune(base: Path, keep: int, in_use: Collection[int]) -> tuple[list[int], dict[int, str]]:
    """Delete old versions that `glyph-train` has published. Each disappears at once.

    Those of others stay, and do not count: they may be broken, and the ones that work must not go for them.

    Args:
        base: the folder of the model.
        keep: how many of the newest versions stay, at least 1.
        in_use: versions that stay whatever their age.

    Returns:
        the deleted versions; and those that could not be deleted and are whole, each with the reason.

    Raises:
        OSError: the folder of the model cannot be written.
    """
    versions = {n: path for n, path in published_versions(base).items() if describe_version(path).manifest}
    old = [number for number in list(versions)[:-keep] if number not in in_use]
    refused: dict[int, str] = {}
    if old:
        with staging_directory(base) as staging:
            for number in old:
                try:
                    check_deletable(versions[number])
                    versions[number].rename(staging / str(number))
                except OSError as error:
                    refused[number] = f"{error.filename}: {error.strerror}"
            flush_entry(base)
    return [number for number in old if number not in refused], refused
