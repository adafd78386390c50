"""What was promoted and rolled back: a log in the model's folder, one line of JSON a step."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from glyph_trainer.errors import PublishError
from glyph_trainer.staging import write_atomically

STABLE = "stable"
CANARY = "canary"

_LOG = ".promotions.jsonl"


@dataclass(frozen=True)
class Step:
    """A label that moved.

    Attributes:
        label: the label.
        version: where it points since; None if it is gone.
        before: where it pointed before, if anywhere.
        back: whether it was rolled back.
        config: the file in which it moved, as seen from the model's folder; None if the log does not say so, which then
            holds for every file.
    """

    label: str
    version: int | None
    before: int | None
    back: bool = False
    config: str | None = None


def read_steps(base: Path) -> list[Step]:
    """Read the log of a model.

    Args:
        base: the folder of the model.

    Returns:
        the steps, the first one first; none if no version was ever promoted.

    Raises:
        PublishError: the log is damaged.
    """
    path = base / _LOG
    steps = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
        try:
            steps.append(Step(**{name: value for name, value in json.loads(line).items() if name != "time"}))
        except (ValueError, TypeError, AttributeError) as error:
            raise PublishError(f"line {number} of {path} is damaged ({error}). Repair or remove it") from error
    return steps


def log_step(base: Path, step: Step) -> None:
    """Add a step to the log of a model.

    Args:
        base: the folder of the model.
        step: what was done, now.
    """
    path = base / _LOG
    logged = path.read_bytes() if path.exists() else b""
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(step)}
    write_atomically(path, logged + json.dumps(entry).encode() + b"\n")


def steps_in(config: str, steps: Sequence[Step]) -> list[Step]:
    """Choose the steps that were taken in one file.

    Args:
        config: the file.
        steps: those of all files.
    """
    return [step for step in steps if step.config in (config, None)]


def stable_versions(steps: Sequence[Step]) -> list[int]:
    """Follow which versions were stable, as far as they have not been rolled back.

    Args:
        steps: those of one file.

    Returns:
        the versions, the last one being stable now; a version that was promoted again is in it again.
    """
    history: list[int] = []
    for step in steps:
        if step.label != STABLE or step.version is None:
            continue
        if step.back:
            while history and history[-1] != step.version:
                history.pop()
        elif step.before is not None and history[-1:] != [step.before]:  # labelled by hand
            history.append(step.before)
        if history[-1:] != [step.version]:
            history.append(step.version)
    return history


def canary_version(steps: Sequence[Step]) -> int | None:
    """Follow which version is the canary.

    Args:
        steps: those of one file.
    """
    canary = None
    for step in steps:
        if step.label == CANARY:
            canary = step.version
        elif step.version == canary:
            canary = None
    return canary
