"""The manager: brings the aspired versions up and the others down, and knows the state of each.

In TensorFlow Serving's terms: every version is a servable with a state; a version is unloaded only once an aspired one
is available (the availability-preserving policy); a failed load is tried again.
"""

import contextlib
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from glyph_serving.config import LoggingConfig, ModelConfig
from glyph_serving.errors import Code, ServingError, invalid_argument
from glyph_serving.harness import Failure, Harness, Loaded, Loader, RetryPolicy, State, VersionStatus
from glyph_serving.log import LOGGER
from glyph_serving.servable import release_memory
from glyph_serving.source import Look, Source, aspired_versions, fingerprint, versions_on_disk


@dataclass(frozen=True)
class _Routes:
    """The available versions of one model."""

    versions: Mapping[int, Loaded]
    latest: Loaded


class Manager:
    """Keeps the served versions in line with what the models' folders hold.

    Args:
        models: What to serve.
        load: Loads a version.
        retry: What to do about a failed load.
        load_threads: How many versions may load at once.
        poll_seconds: How often the folders are looked at; 0: once.
        allow_unavailable_labels: Whether a label may be given to a version that is not available.
        in_effect: Whether others serve these models already, so that their labels are not judged.
    """

    def __init__(
        self,
        models: Mapping[str, ModelConfig],
        load: Loader,
        retry: RetryPolicy,
        load_threads: int,
        poll_seconds: float,
        allow_unavailable_labels: bool,
        in_effect: bool = False,
    ) -> None:
        self._load = load
        self._retry = retry
        self._poll_seconds = poll_seconds
        self._source = Source(poll_seconds, self._changed_since_it_failed)
        self._allow_unavailable_labels = allow_unavailable_labels
        self._pool = ThreadPoolExecutor(load_threads, thread_name_prefix="load")
        self._changed = threading.Condition()
        self._models: Mapping[str, ModelConfig] = {}
        self._harnesses: dict[tuple[str, int], Harness] = {}
        self._routes: Mapping[str, _Routes] = {}
        self._labels: dict[str, Mapping[str, int]] = {}
        self._awaiting: set[str] = set()  # the models of which wanted versions are still being copied
        self._generation = 0  # of the list of models
        self._reconciled = 0  # the generation that the harnesses reflect
        self._wake = threading.Event()
        self._stopping = False
        self._set_models(models, check_labels=not in_effect)
        self._thread = threading.Thread(target=self._watch, name="source", daemon=True)
        self._thread.start()

    def get(self, name: str, version: int | None = None, label: str | None = None) -> Loaded:
        """The servable for a request.

        Args:
            name: The model.
            version: A version; None: the newest available one.
            label: A label; takes precedence over the version.

        Raises:
            ServingError: NOT_FOUND for a model or version that is not available, INVALID_ARGUMENT for a label that
                does not exist.
        """
        routes = self._routes.get(name)
        if label is not None:
            version = self._labels.get(name, {}).get(label)
            if version is None:
                raise invalid_argument(f"Unrecognized servable version label: {label}")
        if version is None:
            if routes is None:
                raise ServingError(Code.NOT_FOUND, f"Servable not found for request: Latest({name})")
            return routes.latest
        loaded = routes.versions.get(version) if routes else None
        if loaded is None:
            raise ServingError(Code.NOT_FOUND, f"Servable not found for request: Specific({name}, {version})")
        return loaded

    def status(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """The state of every version of a model that has been aspired to since the start, newest first.

        Raises:
            ServingError: NOT_FOUND if there is none.
        """
        with self._changed:
            found = [
                VersionStatus(harness.version, harness.state, harness.error)
                for (model, number), harness in self._harnesses.items()
                if model == name and version in (None, number)
            ]
        if not found:
            if version is None:
                raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
            raise ServingError(Code.NOT_FOUND, f"Could not find version {version} of model {name}")
        return sorted(found, key=lambda status: status.version, reverse=True)

    def available(self) -> dict[str, list[int]]:
        """The available versions of every model, newest first."""
        return {name: sorted(routes.versions, reverse=True) for name, routes in self._routes.items()}

    def loaded(self) -> list[Loaded]:
        """Everything that can answer at this moment."""
        return [loaded for routes in self._routes.values() for loaded in routes.versions.values()]

    def logging(self, name: str) -> LoggingConfig | None:
        """How a model's requests are to be logged; None if they are not."""
        model = self._models.get(name)
        return model.logging if model is not None else None

    @property
    def model_names(self) -> list[str]:
        """The configured models."""
        return list(self._models)

    def _set_models(self, models: Mapping[str, ModelConfig], *, check_labels: bool) -> None:
        with self._changed:
            for name, model in models.items() if check_labels else ():
                self._check_labels(name, model.labels)
            self._models = dict(models)
            self._labels = {name: dict(model.labels) for name, model in models.items()}
            self._generation += 1
        self._wake.set()

    def replace(self, models: Mapping[str, ModelConfig]) -> list[str]:
        """Replaces the list of models.

        Returns:
            Those that are new.

        Raises:
            ServingError: INVALID_ARGUMENT for a new model without versions on disk, FAILED_PRECONDITION for a label of
                a version that is not available; nothing changes in either case.
        """
        new = [model for name, model in models.items() if name not in self._models]
        for model in new:
            if not _has_versions(model):
                raise invalid_argument(
                    f"Could not find versions of model {model.name} under base path {model.base_path}. Publish one "
                    "there, or correct the path"
                )
        self._set_models(models, check_labels=True)
        return [model.name for model in new]

    def wait_until_settled(self, names: Iterable[str]) -> list[Failure]:
        """Waits until the list of models is in effect and each of these models is available or will not be.

        Every other version has been tried by then, too; one that failed may be tried again later.

        Args:
            names: Configured models.

        Returns:
            For each of the models that will not be available, its newest version.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._settled(names))
            aspired = [harness for name in names for harness in self._aspired(name)[:1] if name not in self._routes]
            return [Failure(one.name, one.version, one.error) for one in aspired if one.error is not None]

    def stop(self) -> None:
        """Stops watching and loading. What is available goes on answering."""
        with self._changed:
            self._stopping = True
            for harness in self._harnesses.values():
                if harness.retry is not None:
                    harness.retry.cancel()
            self._changed.notify_all()
        self._wake.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _check_labels(self, name: str, labels: Mapping[str, int]) -> None:
        routes = self._routes.get(name)
        current = self._labels.get(name, {})
        for label, version in sorted(labels.items()):
            if routes and version in routes.versions:
                continue
            if self._allow_unavailable_labels and current.get(label, version) == version:
                continue
            raise ServingError(
                Code.FAILED_PRECONDITION,
                f"Request to assign label to version {version} of model {name}, which is not currently available for "
                "inference",
            )

    def _settled(self, names: Iterable[str]) -> bool:
        return (
            self._reconciled == self._generation
            and all(harness.settled for harness in self._harnesses.values())
            and all(self._decided(name) for name in names if name in self._models)
        )

    def _decided(self, name: str) -> bool:
        """Whether a model is available, or has versions none of which will be."""
        aspired = self._aspired(name)
        return name in self._routes or (bool(aspired) and all(harness.failed for harness in aspired))

    def _aspired(self, name: str) -> list[Harness]:
        """The wanted versions of a model, newest first."""
        found = [harness for harness in self._harnesses.values() if harness.aspired and harness.name == name]
        return sorted(found, key=lambda harness: harness.version, reverse=True)

    def _watch(self) -> None:
        while not self._stopping:
            self._wake.clear()
            with self._changed:
                generation, models = self._generation, self._models
            self._reconcile(generation, self._source.look(models))
            self._wake.wait(self._poll_seconds or None)

    def _changed_since_it_failed(self, name: str, version: int, path: Path) -> bool:
        harness = self._harnesses.get((name, version))
        return (
            harness is not None
            and harness.aspired
            and (harness.failed or harness.retry is not None)
            and harness.path == path
            and harness.fingerprint != fingerprint(path)
        )

    def _reconcile(self, generation: int, looks: Mapping[str, Look]) -> None:
        with self._changed:
            if self._stopping or generation != self._generation:
                return
            self._reconciled = generation
            self._awaiting = {
                name for name in self._models if (looks[name].awaited if name in looks else name in self._awaiting)
            }
            for name, look in looks.items():
                for version, path in look.here.items():
                    self._aspire(name, version, path)
            for harness in self._harnesses.values():
                removed = harness.name not in self._models
                harness.aspired = not removed and (
                    harness.version in looks[harness.name].here if harness.name in looks else harness.aspired
                )
                if harness.retry is not None and not harness.aspired:
                    harness.retry.cancel()
                    harness.retry, harness.state = None, State.END
            self._unload_superseded()
            self._changed.notify_all()

    def _aspire(self, name: str, version: int, path: Path) -> None:
        harness = self._harnesses.get((name, version))
        if harness is not None:
            if harness.path != path:
                _leave_for(path, harness)
            if harness.state is not State.END:
                return
            if harness.error and harness.aspired and harness.fingerprint == fingerprint(path):
                return  # it failed, and nothing has changed since
        harness = self._harnesses[name, version] = Harness(name, version, path)
        self._pool.submit(self._bring_up, harness)

    def _unload_superseded(self) -> None:
        for harness in list(self._harnesses.values()):
            if harness.aspired or harness.state is not State.AVAILABLE:
                continue
            replaced = any(
                other.aspired and other.state is State.AVAILABLE and other.name == harness.name
                for other in self._harnesses.values()
            )
            wanted = any(other.aspired and other.name == harness.name for other in self._harnesses.values())
            if replaced or not (wanted or harness.name in self._awaiting):
                harness.state = State.UNLOADING
                self._publish()
                self._pool.submit(self._take_down, harness)

    def _bring_up(self, harness: Harness) -> None:
        with self._changed:
            harness.retry = None
            if not harness.aspired or self._stopping:
                harness.state = State.END
                self._changed.notify_all()
                return
            harness.state = State.LOADING
        before = fingerprint(harness.path)
        try:
            loaded = self._load(harness.name, harness.version, harness.path)
        except ServingError as error:
            problem = error
        except Exception as error:  # noqa: BLE001 (whatever a model does, the server goes on)
            problem = ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
        else:
            with self._changed:
                harness.loaded, harness.state, harness.error = loaded, State.AVAILABLE, None
                self._publish()
                self._unload_superseded()
                self._changed.notify_all()
            return
        with self._changed:
            harness.tries += 1
            harness.error, harness.fingerprint = problem, before
            again = harness.tries <= self._retry.retries and harness.aspired and not self._stopping
            if again:
                harness.retry = threading.Timer(self._retry.interval, self._try_again, [harness])
                harness.retry.daemon = True
                harness.retry.start()
            else:
                harness.state = State.END
            self._changed.notify_all()
        LOGGER.warning(
            f"{harness.name} version {harness.version} ({harness.path}) failed to load, try {harness.tries} of "
            f"{self._retry.retries + 1}: {problem.in_full}"
            + (f". Next try in {self._retry.interval:g} s" if again else "")
        )

    def _try_again(self, harness: Harness) -> None:
        with contextlib.suppress(RuntimeError):  # the server has been stopped meanwhile
            self._pool.submit(self._bring_up, harness)

    def _take_down(self, harness: Harness) -> None:
        loaded = harness.loaded
        if loaded is not None:
            for batcher in loaded.batchers.values():
                batcher.close()
            loaded.servable.close()
        del loaded
        with self._changed:
            harness.loaded = None
            harness.state = State.END
            self._changed.notify_all()
        release_memory()
        self._wake.set()

    def _publish(self) -> None:
        """Rebuilds the routes, which requests read without a lock."""
        versions: dict[str, dict[int, Loaded]] = {}
        for harness in self._harnesses.values():
            if harness.state is State.AVAILABLE and harness.loaded is not None:
                versions.setdefault(harness.name, {})[harness.version] = harness.loaded
        self._routes = {name: _Routes(found, found[max(found)]) for name, found in versions.items()}


def _leave_for(path: Path, harness: Harness) -> None:
    """Gives up what has failed in another folder than the version is in now; what is served from there stays."""
    if harness.retry is not None:
        harness.retry.cancel()
        harness.aspired, harness.state, harness.error = False, State.END, None
    elif harness.state is State.AVAILABLE and harness.elsewhere != path:
        harness.elsewhere = path
        LOGGER.warning(
            f"{harness.name} version {harness.version} goes on being served from {harness.path}, not {path}: what a "
            "number stands for does not change. Publish under another one"
        )


def _has_versions(model: ModelConfig) -> bool:
    try:
        return bool(aspired_versions(versions_on_disk(model.base_path), model.policy))
    except OSError:
        return False
