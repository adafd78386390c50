"""The folder of a training: what it takes to go on after an interruption, and what it has brought so far.

| file               | content                                                               |
|--------------------|-----------------------------------------------------------------------|
| `checkpoint.npz`   | every variable after the last whole epoch; replaced at once, never torn |
| `metrics.jsonl`    | one line of JSON for each epoch                                       |
| `events.out.*`     | the same for TensorBoard                                              |
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from glyph_trainer.errors import TrainerError
from glyph_trainer.fit import EpochReport, State
from glyph_trainer.staging import free_space, locked, write_atomically

_CHECKPOINT = "checkpoint.npz"
_METRICS = "metrics.jsonl"


@contextmanager
def only_run(directory: Path) -> Iterator[None]:
    """Keep other trainings out of a folder.

    Args:
        directory: the folder; made if missing.

    Raises:
        TrainerError: another process is training there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(locked(directory, wait=False))
        except BlockingIOError:
            raise TrainerError(
                f"another glyph-train is training in {directory}. Wait for its end, or choose another folder"
            ) from None
        yield


class Run:
    """The folder of a training.

    Args:
        directory: the folder.
        identity: what makes this training the same as the one that was interrupted: recipe, settings, seed, data.
        resume: whether to go on from the checkpoint, if there is one.

    Raises:
        TrainerError: the folder has a checkpoint and `resume` is not set, or it is another training's, or damaged.
    """

    def __init__(self, directory: Path, identity: dict[str, Any], resume: bool) -> None:
        self._directory = directory
        self._identity = json.loads(json.dumps(identity))
        self._path = directory / _CHECKPOINT
        self._saved = self._load() if self._path.exists() else None
        if self._saved and not resume:
            raise TrainerError(
                f"{directory} holds a training of {len(self._saved[0])} epochs. Go on with --resume, or choose another "
                f"folder"
            )
        self._events = tf.summary.create_file_writer(str(directory))

    def restore(self, variables: Sequence[keras.Variable]) -> State:
        """Set all variables to what they were after the last whole epoch.

        Args:
            variables: of the training, in the same order as when they were saved.

        Returns:
            how far the training had come; nowhere if there is no checkpoint.
        """
        if not self._saved:
            return State()
        history, values, best = self._saved
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return State(history, best)

    def save(self, state: State, variables: Sequence[keras.Variable]) -> None:
        """Save how far a training has come.

        Args:
            state: after an epoch.
            variables: of the training.

        Raises:
            OSError: the folder cannot be written, or the disk is full. The checkpoint before is still there.
            TrainerError: the same, where TensorFlow is the one to notice.
        """
        lines = [json.dumps(dataclasses.asdict(report)) for report in state.history]
        about = np.array(json.dumps({"identity": self._identity, "history": lines}))
        values = {f"variable_{index}": np.asarray(variable) for index, variable in enumerate(variables)}
        best = {f"best_{index}": weight for index, weight in enumerate(state.best)}
        content = io.BytesIO()
        np.savez(content, about=about, **values, **best)  # type: ignore[arg-type]  # numpy takes about for a flag of its own
        write_atomically(self._path, content.getvalue())
        write_atomically(self._directory / _METRICS, "".join(f"{line}\n" for line in lines).encode())
        last = dataclasses.asdict(state.history[-1])
        try:
            with self._events.as_default(step=last.pop("epoch")):
                for name, value in last.items():
                    if value is not None:
                        tf.summary.scalar(name, value)
            self._events.flush()
        except tf.errors.OpError as error:  # TensorFlow's errors are no OSError
            reason = error.message.rpartition("}} ")[2].partition("\n")[0]
            raise TrainerError(
                f"the TensorBoard events cannot be written ({reason}; {free_space(self._directory)}). Free some space "
                "and go on with --resume"
            ) from error

    def _load(self) -> tuple[list[EpochReport], list[Any], list[Any]]:
        try:
            with np.load(io.BytesIO(self._path.read_bytes()), allow_pickle=False) as saved:
                about = json.loads(str(saved["about"]))
                history = [EpochReport(**json.loads(line)) for line in about["history"]]
                values, best = (
                    [saved[f"{kind}_{index}"] for index in range(sum(name.startswith(kind) for name in saved))]
                    for kind in ("variable", "best")
                )
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise TrainerError(f"{self._path} is damaged ({error}). Remove it and train again") from error
        other = {key: value for key, value in about["identity"].items() if self._identity.get(key) != value}
        if other:
            differing = ", ".join(f"{key} {value!r}, not {self._identity.get(key)!r}" for key, value in other.items())
            raise TrainerError(f"{self._path} belongs to another training: {differing}. Choose another folder")
        return history, values, best
