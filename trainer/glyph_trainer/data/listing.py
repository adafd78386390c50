"""Which files of a folder are images, and what each of them shows."""

import hashlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glyph_trainer.errors import DataError

_NAME = re.compile(r"([^.]+)\.(\d+)\.\w+")


@dataclass(frozen=True)
class Listing:
    """The files of a folder of images.

    Attributes:
        directory: the folder.
        names: the paths of its files in the folder, in no order.
        fingerprint: SHA-256 over the name, size, inode and time of the last change of state of every file. No change of
            a file's content keeps that time, and nobody can set it.
        changed: when a file was last changed, in nanoseconds since 1970.
    """

    directory: Path
    names: tuple[str, ...]
    fingerprint: str
    changed: int


@dataclass(frozen=True)
class Labelled:
    """A file whose name says what it shows.

    Attributes:
        name: its path in the folder.
        label: what it shows.
    """

    name: str
    label: str


def list_folder(directory: Path) -> Listing:
    """List a folder of images, and the folders in it. Names that begin with a dot are left alone.

    Args:
        directory: the folder.

    Returns:
        its files.

    Raises:
        DataError: there is no such folder, or nothing in it.
    """
    if not directory.is_dir():
        raise DataError(f"{directory} is no folder. It should hold images called label.index.jpg, or class folders")
    names: list[str] = []
    for item in os.scandir(directory):
        if item.name.startswith("."):
            continue
        if item.is_dir():
            names += (f"{item.name}/{image.name}" for image in os.scandir(item) if not image.name.startswith("."))
        else:
            names.append(item.name)
    if not names:
        raise DataError(f"{directory} holds no images. It should hold images called label.index.jpg, or class folders")
    names.sort()
    # Tens of thousands of files: what is done for each of them counts, and keeping their states would count too.
    stamps: list[int] = []
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in names:
            try:
                state = os.stat(name, dir_fd=opened)
            except OSError:  # a link to nowhere, which is told when it is to be decoded
                state = os.stat(name, dir_fd=opened, follow_symlinks=False)
            stamps += (state.st_size, state.st_ino, state.st_ctime_ns)
    finally:
        os.close(opened)
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8" and (foreign := next((name for name in names if not name.isascii()), None)):
        raise DataError(
            f"{directory} holds {os.fsencode(foreign)!r}, and this locale reads names as {encoding}. Set PYTHONUTF8=1"
        )
    try:
        digest = hashlib.sha256("\n".join(names).encode())
    except UnicodeEncodeError:
        odd = next(os.fsencode(name) for name in names if any("\udc80" <= letter <= "\udcff" for letter in name))
        raise DataError(f"{directory} holds a file whose name is not UTF-8: {odd!r}. Rename it") from None
    digest.update(np.array(stamps, np.int64).tobytes())
    return Listing(directory, tuple(names), digest.hexdigest(), max(stamps[2::3]))


def read_labels(listing: Listing) -> tuple[list[Labelled], list[str]]:
    """Find out from the names what the files show.

    Args:
        listing: files called `label.index.ext`, or in one folder for each class.

    Returns:
        the files with a label, by index, or by name in class folders; and the names of those without.

    Raises:
        DataError: the name of a class has a line break, which a list of labels could not hold.
    """
    found, unlabelled = [], []
    for name in listing.names:
        label, _, image = name.rpartition("/")
        match = None if label else _NAME.fullmatch(image)
        if label:
            found.append((0, name, label))
        elif match:
            found.append((int(match[2]), name, match[1]))
        else:
            unlabelled.append(name)
    if broken := next((label for _, _, label in found if len(label.splitlines()) != 1), None):
        raise DataError(f"{listing.directory}: the name of the class {broken!r} has a line break. Rename it")
    found.sort()
    return [Labelled(name, label) for _, name, label in found], unlabelled
