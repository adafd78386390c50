"""A version and where it stands, in TensorFlow Serving's terms: a servable in its harness, with a state."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from glyph_serving.batching import Batcher
from glyph_serving.errors import Code, ServingError
from glyph_serving.servable import Servable


class State(IntEnum):
    """The states of a version, numbered as in get_model_status.proto."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class Loaded:
    """A servable that can answer, with a queue in front of each of its signatures."""

    servable: Servable
    batchers: Mapping[str, Batcher]


@dataclass(frozen=True)
class VersionStatus:
    """What is known of one version; ``error`` says why it has ended, if it failed."""

    version: int
    state: State
    error: ServingError | None


@dataclass(frozen=True)
class Failure:
    """A version that could not be loaded."""

    name: str
    version: int
    error: ServingError


class Loader(Protocol):
    """Loads one version, warm-up included; raises ServingError."""

    def __call__(self, name: str, version: int, path: Path) -> Loaded:
        """Loads it."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often a failed load is tried again, and after how many seconds."""

    retries: int
    interval: float


@dataclass
class Harness:
    """A version and where it stands.

    Attributes:
        name: The model.
        version: The version.
        path: Its folder.
        state: Where it stands.
        error: Why it failed, if it did; while it is tried again, why it did the last time.
        loaded: What answers, while it is available.
        aspired: Whether it is wanted.
        fingerprint: What the folder was like when it failed.
        tries: How often loading it has failed so far.
        retry: What will try again, while it waits for that.
        elsewhere: Another folder that has come to hold this version, once that has been said.
    """

    name: str
    version: int
    path: Path
    state: State = State.START
    error: ServingError | None = None
    loaded: Loaded | None = None
    aspired: bool = True
    fingerprint: object = None
    tries: int = 0
    retry: threading.Timer | None = None
    elsewhere: Path | None = None

    @property
    def settled(self) -> bool:
        """Whether it is where it is wanted, will not get there, or has failed to at least once."""
        if self.aspired:
            return self.state is State.AVAILABLE or self.failed or self.tries > 0
        return self.state in (State.AVAILABLE, State.END)  # the one stays until another takes its place

    @property
    def failed(self) -> bool:
        """Whether it could not be loaded and will not be tried again."""
        return self.state is State.END and self.error is not None


def failure_error(what: str, failures: Sequence[Failure]) -> ServingError:
    """The error for versions that could not be loaded, as the genuine server words it.

    Args:
        what: What it calls them.
        failures: The versions.
    """
    reasons = "".join(
        f"{{{{name: {failure.name} version: {failure.version}}} due to error: {failure.error}}}, "
        for failure in failures
    )
    return ServingError(Code.UNKNOWN, f"{len(failures)} {what}(s) did not become available: {{{reasons}}}")
