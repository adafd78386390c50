"""The file-system source: which versions of a model lie on disk, and which of them are aspired to."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from glyph_serving.config import ModelConfig, VersionPolicy
from glyph_serving.log import LOGGER

_ARRIVED = object()  # what a version's folder is like that is no longer looked at
_VERSION = re.compile(r"-?[0-9]+")


def versions_on_disk(base_path: Path) -> dict[int, Path]:
    """The versions under a base path: children whose names are 64-bit integers.

    ``7`` and ``007`` are both 7; of two such, the last one by name counts.

    Args:
        base_path: The folder of one model.

    Returns:
        The folder of each version.

    Raises:
        OSError: The folder cannot be read.
    """
    versions: dict[int, Path] = {}
    for child in sorted(base_path.iterdir(), key=lambda path: path.name):
        if _VERSION.fullmatch(child.name) and -(2**63) <= (number := int(child.name)) < 2**63:
            versions[number] = child
    return versions


def aspired_versions(on_disk: Mapping[int, Path], policy: VersionPolicy) -> dict[int, Path]:
    """The versions that ought to be served.

    Args:
        on_disk: The versions that exist.
        policy: Which of them are wanted.

    Returns:
        The folders of the wanted versions, newest first.
    """
    newest_first = sorted(on_disk, reverse=True)
    if policy.specific is not None:
        wanted = [version for version in newest_first if version in policy.specific]
    elif policy.latest:
        wanted = newest_first[: policy.latest]
    else:
        wanted = newest_first
    return {version: on_disk[version] for version in wanted}


def fingerprint(path: Path) -> object:
    """Changes when anything in a version's folder does."""
    try:
        files = [(str(file), file.lstat()) for file in path.rglob("*")]  # a link may lead nowhere
        return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)
    except PermissionError as error:  # it stands still, and loading it will say so
        return str(error)
    except OSError:
        return time.monotonic()


@dataclass(frozen=True)
class Look:
    """What the policy of a model wants of what lies on disk.

    Attributes:
        here: The versions that have arrived.
        awaited: Whether there are others, which are still being copied.
    """

    here: Mapping[int, Path]
    awaited: bool


class Source:
    """Looks at the models' folders, and waits for what is still being copied.

    Args:
        poll_seconds: How often they will be looked at; 0: once.
        changed_since_it_failed: Whether a model's version could not be loaded from its folder, which has changed since.
    """

    def __init__(self, poll_seconds: float, changed_since_it_failed: Callable[[str, int, Path], bool]) -> None:
        self._poll_seconds = poll_seconds
        self._changed_since_it_failed = changed_since_it_failed
        # what new folders were like, and since when; by model and base path
        self._arrivals: dict[tuple[str, Path], dict[int, tuple[object, float]]] = {}
        self._problems: dict[str, str] = {}

    def look(self, models: Mapping[str, ModelConfig]) -> dict[str, Look]:
        """The aspired versions of every model whose folder can be read."""
        self._problems = {name: text for name, text in self._problems.items() if name in models}
        looks = {name: self._look(model) for name, model in models.items()}
        return {name: look for name, look in looks.items() if look is not None}

    def _look(self, model: ModelConfig) -> Look | None:
        path = model.base_path
        problem = ""
        look = None
        try:
            on_disk = versions_on_disk(path)
            here = aspired_versions(self._arrived(model, on_disk), model.policy)
            wanted = aspired_versions(on_disk, model.policy)
            look = Look(here, not wanted.keys() <= here.keys())
            if not wanted:
                problem = (
                    f"No versions of servable {model.name} found under base path {path}. Did you forget to name your "
                    "leaf directory as a number (eg. '/1/')?"
                )
        except OSError as error:
            self._arrivals[model.name, path] = {}
            problem = (
                f"Could not find base path {path} for servable {model.name} with error NOT_FOUND: {error.strerror}"
            )
        if problem and self._problems.get(model.name) != problem:
            LOGGER.warning(f"{problem} Looking again every {self._poll_seconds:g} s" if self._poll_seconds else problem)
        self._problems[model.name] = problem
        return look

    def _arrived(self, model: ModelConfig, on_disk: Mapping[int, Path]) -> dict[int, Path]:
        """The versions that are no longer being copied: those that were there at the first look, or stood still.

        One that was there, failed and has changed since was being copied after all.
        """
        now = time.monotonic()
        place = model.name, model.base_path
        known = self._arrivals.get(place)
        arrivals: dict[int, tuple[object, float]] = {}
        for version, path in on_disk.items():
            seen, since = known.get(version, (None, now)) if known is not None else (_ARRIVED, now)
            if self._changed_since_it_failed(model.name, version, path):
                seen = None
            if seen is not _ARRIVED and self._poll_seconds:
                mark = fingerprint(path)
                if mark != seen:
                    seen, since = mark, now
                elif now - since >= self._poll_seconds / 2:  # a look may come early
                    seen = _ARRIVED
            else:
                seen = _ARRIVED
            arrivals[version] = seen, since
        self._arrivals[place] = arrivals
        return {version: path for version, path in on_disk.items() if arrivals[version][0] is _ARRIVED}
