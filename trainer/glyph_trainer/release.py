"""Which versions a server offers, and under which labels: its models.config, rewritten at once."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from glyph_trainer import promotions
from glyph_trainer.errors import PublishError
from glyph_trainer.models_config import replace_versions
from glyph_trainer.promotions import CANARY, STABLE, Step
from glyph_trainer.staging import locked, write_atomically
from glyph_trainer.versions import published_versions

LABELS = (STABLE, CANARY)

_STEPS_BACK = 2
"""How many of the versions that were stable before stay loaded. A server moves a label only to a version that it has
loaded, and refuses the whole file else: so many rollbacks may follow one another before it has read the first."""


@dataclass(frozen=True)
class Release:
    """The models.config of a server, for one model.

    Attributes:
        config: the file.
        name: of the model on the server.
        base: the folder of its versions, as this process sees it; the server may see it under another path.
    """

    config: Path
    name: str
    base: Path

    def labels(self) -> dict[str, int]:
        """Read the version that each label points to.

        Raises:
            PublishError: the file cannot be read, or has no such model.
        """
        _, _, model = self._read()
        return dict(model.version_labels)

    def versions_in_use(self) -> set[int]:
        """Find the versions that must stay: those with a label, those loaded, and those that rollbacks return to.

        Servers may share the model's folder: what the log tells of other files counts too.

        Raises:
            PublishError: the file cannot be read, or has no such model.
        """
        _, _, model = self._read()
        steps = promotions.read_steps(self.base)
        in_use = {*model.model_version_policy.specific.versions, *self._needed(dict(model.version_labels), steps)}
        for config in {step.config for step in steps} - {self._name_in_log, None}:
            theirs = promotions.steps_in(str(config), steps)
            canary = promotions.canary_version(theirs)
            in_use.update(promotions.stable_versions(theirs)[-1 - _STEPS_BACK :], () if canary is None else (canary,))
        return in_use

    def can_follow(self, version: int, label: str) -> bool:
        """Find out whether a server that runs can move a label: only to a version that the file has had it load.

        Args:
            version: where to.
            label: one of `LABELS`. One that is not in use may point to any version.

        Raises:
            PublishError: the file cannot be read, or has no such model.
        """
        _, _, model = self._read()
        policy = model.model_version_policy
        moves = model.version_labels.get(label, version) != version
        return not moves or not policy.HasField("specific") or version in policy.specific.versions

    def promote(self, version: int, label: str) -> None:
        """Point a label to a version, and have the server load all versions in use.

        Args:
            version: a published version.
            label: one of `LABELS`. A canary that becomes stable is no canary any longer.

        Raises:
            PublishError: there is no such version, or the file cannot be used.
        """
        published = published_versions(self.base)
        if version not in published:
            listed = ", ".join(map(str, published)) or "none"
            raise PublishError(f"{self.base} has no version {version}. Published are: {listed}")
        with self._turn():
            labels = self.labels()
            before = labels.get(label)
            labels[label] = version
            if label == STABLE and labels.get(CANARY) == version:
                del labels[CANARY]
            # Said twice, a promotion is still one step to take back.
            self._take([Step(label, version, before, config=self._name_in_log)] if before != version else [], labels)

    def rollback(self) -> tuple[str, int | None]:
        """Take the last step back: drop the canary, or else make the stable version before this one stable again.

        Returns:
            the label that moved, and where it points now; None if it is gone.

        Raises:
            PublishError: there is nothing to go back to, or the file cannot be used.
        """
        if not self.base.is_dir():
            raise PublishError(f"there is no {self.base}: nothing to go back to")
        with self._turn():
            labels = self.labels()
            label = CANARY if CANARY in labels else STABLE
            if label not in labels:
                raise PublishError(f"{self.config} labels no version: there is nothing to roll back")
            before, earlier = labels.pop(label), None
            if label == STABLE:
                earlier = next(iter(self._stable_before(before, promotions.read_steps(self.base))), None)
                if earlier is None:
                    raise PublishError(f"no version was {STABLE} before {before}: promote one by its number")
                labels[label] = earlier
            self._take([Step(label, earlier, before, back=True, config=self._name_in_log)], labels)
            return label, earlier

    @property
    def _name_in_log(self) -> str:
        """The file as seen from the model's folder, which may lie elsewhere for another process, and both with it."""
        return os.path.relpath(self.config.resolve(), self.base.resolve())

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Let one process at a time change the file, where other models are too, and the log, where other files are."""
        self._read()  # what is wrong with the file is told first
        with ExitStack() as held:
            for directory in sorted({self.base.resolve(), self.config.resolve().parent}):
                held.enter_context(locked(directory))
            yield

    def _take(self, new: Sequence[Step], labels: Mapping[str, int]) -> None:
        steps = [*promotions.read_steps(self.base), *new]
        text = self.config.read_bytes()
        self._write(labels, self._needed(labels, steps))
        try:
            for step in new:  # the log comes last: a step that was not taken must not be there to be taken back
                promotions.log_step(self.base, step)
        except BaseException:
            write_atomically(self.config, text)  # nor may one be taken that is not there
            raise

    def _needed(self, labels: Mapping[str, int], steps: Sequence[Step]) -> set[int]:
        """Which versions a server is to have loaded, for these labels and for rollbacks."""
        return {*labels.values(), *self._stable_before(labels.get(STABLE), steps)[:_STEPS_BACK]}

    def _stable_before(self, version: int | None, steps: Sequence[Step]) -> list[int]:
        """Which versions were stable before this one and are still there, the last one first."""
        history = promotions.stable_versions(promotions.steps_in(self._name_in_log, steps))
        while history and history.pop() != version:
            pass
        published = published_versions(self.base)
        return [earlier for earlier in reversed(history) if earlier in published and earlier != version]

    def _read(self) -> tuple[str, int, model_server_config_pb2.ModelConfig]:
        """Read the text, the position of the model in it, and what it says of the model."""
        try:
            text = self.config.read_bytes().decode()
            parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
        except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
            raise PublishError(f"{self.config} cannot be read as a models.config: {error}") from error
        for position, model in enumerate(parsed.model_config_list.config):
            if model.name == self.name:
                return text, position, model
        raise PublishError(f"{self.config} has no model called {self.name!r}")

    def _write(self, labels: Mapping[str, int], versions: Collection[int]) -> None:
        text, position, _ = self._read()
        served = "latest { num_versions: 1 }"
        if labels:
            served = f"specific {{ {' '.join(f'versions: {version}' for version in sorted(versions))} }}"
        fields = [f"model_version_policy {{ {served} }}"]
        for label in sorted(labels):
            labelled = model_server_config_pb2.ModelConfig(version_labels={label: labels[label]})
            fields.append(text_format.MessageToString(labelled, as_one_line=True).strip())
        write_atomically(self.config, replace_versions(text, position, fields).encode())
