"""The file-system source: which versions of a model lie on disk, and which of them are aspired to."""

import re
from collections.abc import Mapping
from pathlib import Path

from glyph_serving.config import VersionPolicy

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
