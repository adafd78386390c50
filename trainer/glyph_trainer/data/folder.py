"""Folders of images: decoded once, then read from a packed cache."""

import contextlib
import hashlib
import io
import json
import time
import zipfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from glyph_trainer import preprocess
from glyph_trainer.data import decode as decoding
from glyph_trainer.data import listing as listings
from glyph_trainer.data.dataset import Dataset
from glyph_trainer.data.decode import decode
from glyph_trainer.data.listing import Listing, list_folder, read_labels
from glyph_trainer.data.validation import UnusableFile
from glyph_trainer.errors import UnusableFilesError
from glyph_trainer.staging import write_atomically

CACHE = ".glyph-cache.npz"
"""The name of the cache, in the folder that it is the cache of."""

_NO_LABEL = "its name has no label: it should look like 7.123.jpg (label.index.jpg)"
_SETTLED = 50_000_000  # ns; several ticks of the clock that files are stamped with


@dataclass(frozen=True)
class Folder:
    """A folder of images, read.

    Attributes:
        dataset: the images that can be used, by index, or by name in class folders; the classes in the order of their
            names, numbers by value.
        resized: how many of them were not 28 x 28, white on black.
        unlabelled: files whose names do not say what they show.
        unreadable: files that cannot be decoded.
        cached: whether they come from the cache.
    """

    dataset: Dataset
    resized: int
    unlabelled: tuple[UnusableFile, ...]
    unreadable: tuple[UnusableFile, ...]
    cached: bool = False


def read_folder(directory: Path) -> Folder:
    """Read a folder of images, from its cache if nothing has changed since it was written.

    Args:
        directory: files called `label.index.ext`, or one folder of files for each class.

    Returns:
        the images.

    Raises:
        DataError: there is no such folder, or nothing in it.
        UnusableFilesError: nothing in it can be used.
    """
    started = time.time_ns()
    listing = list_folder(directory)
    key = _key(listing)
    folder = _load(directory / CACHE, key)
    if folder is None:
        folder = _decode(listing)
        # A file that was written within the last tick could be written again and bear the same time.
        if started - listing.changed > _SETTLED:
            _store(directory / CACHE, key, folder)
    return folder


def _decode(listing: Listing) -> Folder:
    labelled, unlabelled = read_labels(listing)
    decoded = decode([listing.directory / file.name for file in labelled])
    without_label = tuple(UnusableFile(name, _NO_LABEL) for name in unlabelled)
    unreadable = tuple(UnusableFile(labelled[index].name, why) for index, why in sorted(decoded.unusable.items()))
    usable = np.array([index for index in range(len(labelled)) if index not in decoded.unusable], np.int64)
    if not len(usable):
        raise UnusableFilesError(
            str(listing.directory), [(file.name, file.reason) for file in without_label + unreadable]
        )
    texts = [labelled[index].label for index in usable]
    names = tuple(sorted(set(texts), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))
    position = {name: index for index, name in enumerate(names)}
    return Folder(
        dataset=Dataset(decoded.images[usable], np.array([position[text] for text in texts], np.int32), names),
        resized=len(decoded.resized),
        unlabelled=without_label,
        unreadable=unreadable,
    )


def _key(listing: Listing) -> str:
    """Name the pixels: by the files, and by all that makes pixels of them."""
    digest = hashlib.sha256(listing.fingerprint.encode())
    for module in (listings, decoding, preprocess):
        digest.update(Path(str(module.__file__)).read_bytes())
    for package in ("pillow", "tensorflow", "glyph-trainer"):
        digest.update(version(package).encode())
    return digest.hexdigest()


def _load(path: Path, key: str) -> Folder | None:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as packed:
            about = json.loads(str(packed["about"]))
            if about["key"] != key:
                return None
            return Folder(
                dataset=Dataset(packed["images"], packed["labels"], tuple(about["names"])),
                resized=about["resized"],
                unlabelled=tuple(UnusableFile(**file) for file in about["unlabelled"]),
                unreadable=tuple(UnusableFile(**file) for file in about["unreadable"]),
                cached=True,
            )
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):  # none, another, damaged
        return None


def _store(path: Path, key: str, folder: Folder) -> None:
    about = {
        "key": key,
        "names": folder.dataset.names,
        "resized": folder.resized,
        "unlabelled": [asdict(file) for file in folder.unlabelled],
        "unreadable": [asdict(file) for file in folder.unreadable],
    }
    packed = io.BytesIO()
    np.savez(packed, about=np.array(json.dumps(about)), images=folder.dataset.images, labels=folder.dataset.labels)
    # A folder that may only be read, or a full disk: reading it again takes longer, nothing else.
    with contextlib.suppress(OSError):
        write_atomically(path, packed.getvalue())
