"""Which versions a server offers, and under which labels: its models.config, rewritten at once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from glyph_trainer.errors import PublishError
from glyph_trainer.models_config import replace_versions
from glyph_trainer.staging import locked, write_atomically
from glyph_trainer.versions import published_versions

STABLE = "stable"
CANARY = "canary"
LABELS = (STABLE, CANARY)

_LOG = ".promotions.jsonl"


def has_promotions(base: Path) -> bool:
    """Find out whether any version of a model was ever promoted.

    Args:
        base: the folder of the model.
    """
    return (base / _LOG).exists()


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
        """Read which versions the server is to have loaded: those with a label, and what a rollback returns to.

        Raises:
            PublishError: the file cannot be read, or has no such model.
        """
        _, _, model = self._read()
        labels = dict(model.version_labels)
        in_use = {*labels.values(), *model.model_version_policy.specific.versions}
        earlier = self._stable_before(labels.get(STABLE))
        return in_use if earlier is None else {*in_use, earlier}

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
        with locked(self.base):
            labels = self.labels()
            before = labels.get(label)
            labels[label] = version
            if label == STABLE and labels.get(CANARY) == version:
                del labels[CANARY]
            if before == version:  # said twice, a promotion is still one step to take back
                self._write(labels, self._stable_before(labels.get(STABLE)))
                return
            # The log comes last: a step that was not taken must not be there to be taken back.
            self._write(labels, before if label == STABLE else self._stable_before(labels.get(STABLE)))
            self._log(label, version, before)

    def rollback(self) -> tuple[str, int | None]:
        """Take the last step back: drop the canary, or else make the stable version before this one stable again.

        Returns:
            the label that moved, and where it points now; None if it is gone.

        Raises:
            PublishError: there is nothing to go back to, or the file cannot be used.
        """
        if not self.base.is_dir():
            raise PublishError(f"there is no {self.base}: nothing to go back to")
        with locked(self.base):
            return self._take_back()

    def _take_back(self) -> tuple[str, int | None]:
        labels = self.labels()
        if CANARY in labels:
            before = labels.pop(CANARY)
            self._write(labels, self._stable_before(labels.get(STABLE)))
            self._log(CANARY, None, before, back=True)
            return CANARY, None
        if STABLE not in labels:
            raise PublishError(f"{self.config} labels no version: there is nothing to roll back")
        earlier = self._stable_before(labels[STABLE])
        if earlier is None:
            raise PublishError(f"no version was {STABLE} before {labels[STABLE]}: promote one by its number")
        before, labels[STABLE] = labels[STABLE], earlier
        self._write(labels, self._stable_before(earlier))
        self._log(STABLE, earlier, before, back=True)
        return STABLE, earlier

    def _stable_before(self, version: int | None) -> int | None:
        """Follow the log back from a stable version: what it replaced when it was promoted, if that is still there."""
        path = self.base / _LOG
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        for entry in reversed(entries):
            if entry["label"] == STABLE and entry["version"] == version and not entry["back"]:
                earlier = entry["before"]
                return earlier if earlier in published_versions(self.base) else None
        return None

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

    def _write(self, labels: Mapping[str, int], stable_before: int | None) -> None:
        text, position, _ = self._read()
        served = "latest { num_versions: 1 }"
        if labels:
            # A server moves a label only to a version that it has loaded: what was stable before stays for a rollback.
            versions = set(labels.values())
            if stable_before is not None and stable_before in published_versions(self.base):
                versions.add(stable_before)
            served = f"specific {{ {' '.join(f'versions: {version}' for version in sorted(versions))} }}"
        fields = [f"model_version_policy {{ {served} }}"]
        for label in sorted(labels):
            labelled = model_server_config_pb2.ModelConfig(version_labels={label: labels[label]})
            fields.append(text_format.MessageToString(labelled, as_one_line=True).strip())
        write_atomically(self.config, replace_versions(text, position, fields).encode())

    def _log(self, label: str, version: int | None, before: int | None, back: bool = False) -> None:
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "label": label,
            "version": version,
            "before": before,
            "back": back,
        }
        path = self.base / _LOG
        logged = path.read_bytes() if path.exists() else b""
        write_atomically(path, logged + json.dumps(entry).encode() + b"\n")
