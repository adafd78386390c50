"""Directories that appear whole or not at all.

A directory is filled under a staging name beside its final one (hence on the same file system), everything in it is
flushed to the disk, and one `rename()` makes it visible. Whatever stops the process before leaves at most the staging
directory, which the next run clears. A staging directory in use is recognised by the lock that its owner holds on it:
the kernel lets go of it when the owner ends, however it ends.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = ".staging-"
"""How staging names begin: not a number, so that no server takes one for a version."""

_NAME = re.compile(rf"{re.escape(PREFIX)}[0-9a-f]{{16}}")


@contextmanager
def locked(directory: Path, wait: bool = True) -> Iterator[None]:
    """Let one process at a time do what follows.

    Args:
        directory: what it is done to; those who name the same one take turns.
        wait: whether to wait for one's turn.

    Raises:
        BlockingIOError: it is another one's turn, and there is no waiting for it.
    """
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


@contextmanager
def named(place: Path) -> Iterator[None]:
    """Name the place in an error that does not say where it happened, as that of a write to a full disk.

    Args:
        place: what is being written.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(place)
        raise


def free_space(place: Path) -> str:
    """Say how much space is left: `3.2 MB free`.

    Args:
        place: what could not be written. It need not exist.
    """
    existing = next(path for path in (place, *place.absolute().parents) if path.exists())
    return f"{shutil.disk_usage(existing).free / 1e6:,.1f} MB free"


@contextmanager
def staging_directory(parent: Path) -> Iterator[Path]:
    """Make a directory to fill, clear it away afterwards if it is still there.

    Args:
        parent: where the finished directory will go; made if missing. Dead staging directories in it are cleared.

    Yields:
        the staging directory, locked by this process. The caller renames it when it is whole.
    """
    parent.mkdir(parents=True, exist_ok=True)
    clear_dead(parent)
    staging, lock = _make_locked(parent)
    try:
        with named(parent):
            yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def clear_dead(parent: Path) -> list[Path]:
    """Delete the staging directories whose owners no longer live.

    Args:
        parent: the directory to look in.

    Returns:
        what was deleted.
    """
    cleared = []
    for candidate in sorted(parent.glob(f"{PREFIX}*")):
        if not _NAME.fullmatch(candidate.name):  # it may be anybody's: the parent can be a home directory
            continue
        try:
            lock = os.open(candidate, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # gone in the meantime, or somebody else's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(candidate, ignore_errors=True)
            cleared.append(candidate)
        except BlockingIOError:  # its owner lives
            pass
        finally:
            os.close(lock)
    return cleared


def check_deletable(directory: Path) -> None:
    """Find out, before a directory goes, whether all that is in it can go too.

    Args:
        directory: the root of the tree.

    Raises:
        PermissionError: a directory in it belongs to somebody who does not let this process write it.
    """
    for folder, _, _ in os.walk(directory):
        if not os.access(folder, os.W_OK | os.X_OK):
            owner = Path(folder).stat().st_uid  # it may have no name here
            raise PermissionError(errno.EACCES, f"{os.strerror(errno.EACCES)} (it belongs to user {owner})", folder)


def flush_to_disk(directory: Path) -> None:
    """Force a directory, and all that is in it, onto the disk.

    Args:
        directory: the root of the tree.

    Raises:
        OSError: the disk is full or failing.
    """
    for folder, _, files in os.walk(directory):
        for name in files:
            _fsync(Path(folder, name), os.O_RDONLY)
        _fsync(Path(folder), os.O_RDONLY | os.O_DIRECTORY)


def flush_entry(directory: Path) -> None:
    """Force the names in a directory onto the disk, after a rename into it.

    Args:
        directory: where something was renamed to.
    """
    _fsync(directory, os.O_RDONLY | os.O_DIRECTORY)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is never seen half. Writers of the same file take turns.

    Args:
        path: the file; what was there before is replaced, and whoever may read or write it still may. A link stays one.
        content: what to write.
    """
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.writing")
    descriptor = _open_locked(temporary)
    try:
        with named(path), os.fdopen(descriptor, "wb") as file:
            file.truncate()  # what a writer that was killed has left
            with suppress(FileNotFoundError):
                before = path.stat()
                os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
                with suppress(PermissionError):  # only root gives files away
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_entry(path.parent)


def _open_locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        os.close(descriptor)  # the writer before has just renamed it


def _make_locked(parent: Path) -> tuple[Path, int]:
    while True:
        staging = parent / f"{PREFIX}{secrets.token_hex(8)}"
        staging.mkdir(mode=0o755)
        try:
            lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # another run's clearing was faster than we were
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if staging.exists():
            return staging, lock
        os.close(lock)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
