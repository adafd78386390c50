"""What the client does, without doing it.

Both clients share this core. It is written as generators, *flows*: they yield what is to be done (an `Attempt` to
send, a `Pause` to keep) and are handed what came of it. So retries, deadlines, checks and decoding stand here once,
and know nothing of threads or event loops.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, cast

from glyph_client import _contract
from glyph_client._errors import (
    AccessDenied,
    CallError,
    ClientClosed,
    DeadlineExceeded,
    GlyphError,
    InputError,
    InvalidRequest,
    Overloaded,
    PictureError,
    Unavailable,
)
from glyph_client._pictures import Group, Picture, read_bytes
from glyph_client._preprocess import explain as explain_picture
from glyph_client._preprocess import preprocess_many
from glyph_client._retry import Budget, Deadline, Replicas, Retry, is_worth_retrying
from glyph_client._signatures import choose, fit
from glyph_client._transports.base import AsyncTransport, Transport
from glyph_client._types import (
    MetadataRequest,
    MetadataResponse,
    Model,
    ModelSpec,
    Prediction,
    PredictRequest,
    PredictResponse,
    Request,
    Response,
    StatusRequest,
    StatusResponse,
    VersionStatus,
)

T = TypeVar("T")
TransportT = TypeVar("TransportT", Transport, AsyncTransport)


@dataclass(slots=True)
class Attempt(Generic[TransportT]):
    """One attempt of a call, as interceptors see it.

    Attributes:
        request: what is asked.
        transport: who carries it; its `target` is the address.
        number: 1 for the first attempt of a call.
        timeout: seconds left for it.
        headers: sent with it; an interceptor may add to these.
        response: the answer, once it is there; an interceptor that swallows an error must set one.
    """

    request: Request
    transport: TransportT
    number: int
    timeout: float
    headers: dict[str, str] = field(default_factory=dict)
    response: Response | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds to let pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """Something to compute, long enough to keep an event loop waiting."""

    function: Callable[[], Any]


Flow = Generator[Attempt[Any] | Pause | Work, Any, T]
Interceptor = Callable[[Attempt[Any]], AbstractContextManager[object]]
Outcome = Prediction | GlyphError


class Flows(Generic[TransportT]):
    """The core of a client that asks one model on one or several replicas."""

    def __init__(self, transports: Sequence[TransportT], spec: ModelSpec, retry: Retry) -> None:
        self.spec = spec
        self.replicas: Replicas[TransportT] = Replicas(transports)
        self._retry = retry
        self._budget = Budget(retry.budget)
        self._metadata: dict[tuple[str, int | None, str | None], MetadataResponse] = {}

    def choose(
        self, model: str | None, version: int | None, label: str | None, signature: str | None = None
    ) -> ModelSpec:
        """The client's own model where nothing else is asked for."""
        if model is None and version is None and label is None:
            return self.spec if signature is None else replace(self.spec, signature=signature)
        return ModelSpec(self.spec.name if model is None else model, version, label, signature)

    def exchange(self, request: Request, deadline: Deadline) -> Flow[Response]:
        """Sends a request until it is answered or its time, its attempts or the budget are spent."""
        failures, rounds = 0, 0
        tried: list[TransportT] = []
        while True:
            replica = self.replicas.pick(tried)
            try:
                response = yield Attempt(request, replica, failures + 1, max(deadline.left(), 0.001))
            except CallError as error:
                failures += 1
                model = getattr(getattr(request, "spec", None), "name", None)
                final = error.after(failures, model=model, target=replica.target)
                if isinstance(error, DeadlineExceeded | Overloaded | Unavailable):
                    self.replicas.failed(replica)
                else:  # Whatever the server said, it is there.
                    self.replicas.answered(replica)
                if not is_worth_retrying(error):
                    raise final from error
                tried.append(replica)
                if len(tried) < len(self.replicas.all):
                    continue  # Each replica is tried once, at once, and only then all of them after a pause.
                tried, rounds = [], rounds + 1
                seconds = self._retry.wait(rounds, error)
                if rounds >= self._retry.attempts or seconds >= deadline.left() or not self._budget.spend():
                    raise final from error
                yield Pause(seconds)
            else:
                if response is None:
                    raise InputError(
                        "an interceptor has swallowed an error and put no response in its place. "
                        "Let the error pass, or set attempt.response."
                    )
                self._budget.refill()
                self.replicas.answered(replica)
                return cast("Response", response)

    def metadata(self, spec: ModelSpec, deadline: Deadline) -> Flow[MetadataResponse]:
        """The model's signatures as they are now, which are then remembered."""
        key = (spec.name, spec.version, spec.label)
        metadata = cast("MetadataResponse", (yield from self.exchange(MetadataRequest(ModelSpec(*key)), deadline)))
        self._metadata[key] = metadata
        return metadata

    def call(
        self, inputs: Mapping[str, Any], spec: ModelSpec, output_filter: Sequence[str], deadline: Deadline
    ) -> Flow[PredictResponse]:
        """Checks the inputs against the signature and asks."""
        metadata = self._metadata.get((spec.name, spec.version, spec.label))
        if metadata is None:
            metadata = yield from self.metadata(spec, deadline)
        try:
            signature = choose(metadata, spec.signature)
            arrays = fit(inputs, output_filter, signature)
        except InputError:
            # A version published since may take what the remembered one does not.
            metadata = yield from self.metadata(spec, deadline)
            signature = choose(metadata, spec.signature)
            arrays = fit(inputs, output_filter, signature)
        request = PredictRequest(spec, arrays, output_filter, signature)
        try:
            response = cast("PredictResponse", (yield from self.exchange(request, deadline)))
        except CallError:
            self._metadata.clear()
            raise
        if response.spec.version != metadata.spec.version:
            self._metadata.clear()
        return response

    def predict(
        self, picture: Picture, spec: ModelSpec, deadline: Deadline, *, server_side: bool, explain: bool
    ) -> Flow[Prediction]:
        """One picture."""
        files = [(yield Work(lambda: read_bytes(picture)))] if server_side else []
        source = files[0] if files and hasattr(picture, "read") else picture  # An open file can be read only once.
        explanation = (yield Work(lambda: explain_picture(source))) if explain else None
        if files:
            request = _contract.files_request(spec, files)
        elif explanation is not None:
            request = _contract.images_request(spec, explanation.result[None, ..., None])
        else:
            images, errors = yield Work(lambda: preprocess_many([picture]))
            if errors:
                raise errors[0]
            request = _contract.images_request(spec, images)
        response = cast("PredictResponse", (yield from self.exchange(request, deadline)))
        (prediction,) = _contract.predictions(response, spec.name, 1)
        return replace(prediction, explanation=explanation)

    def predict_group(
        self, pictures: Group, spec: ModelSpec, timeout: float, *, server_side: bool
    ) -> Flow[list[Outcome]]:
        """Several pictures in one request; what is wrong with one of them is its outcome."""
        if server_side:
            return (yield from self._predict_files(pictures, spec, timeout))
        images, errors = yield Work(lambda: preprocess_many(pictures))
        answers: list[Prediction] = []
        if len(images):
            request = _contract.images_request(spec, images)
            response = cast("PredictResponse", (yield from self.exchange(request, Deadline(timeout))))
            answers = _contract.predictions(response, spec.name, len(images))
        if not errors:
            return list[Outcome](answers)
        good = iter(answers)
        return [errors[index] if index in errors else next(good) for index in range(len(pictures))]

    def _predict_files(self, pictures: Group, spec: ModelSpec, timeout: float) -> Flow[list[Outcome]]:
        read: dict[int, bytes | PictureError] = yield Work(lambda: dict(enumerate(map(_try_read, pictures))))
        outcomes: dict[int, Outcome] = {i: each for i, each in read.items() if isinstance(each, PictureError)}
        files = {i: each for i, each in read.items() if isinstance(each, bytes)}
        outcomes |= yield from self._ask_files(files, spec, timeout)
        return [outcomes[index] for index in range(len(pictures))]

    def _ask_files(self, files: dict[int, bytes], spec: ModelSpec, timeout: float) -> Flow[dict[int, Outcome]]:
        if not files:
            return {}
        try:
            request = _contract.files_request(spec, list(files.values()))
            response = cast("PredictResponse", (yield from self.exchange(request, Deadline(timeout))))
        except InvalidRequest as error:
            if error.code != "INVALID_ARGUMENT" or not (yield from self._reads_files(spec, Deadline(timeout))):
                raise
            if len(files) == 1:
                return dict.fromkeys(files, error)
            # The server refuses all for one: halves find which.
            items = list(files.items())
            middle = len(items) // 2
            first = yield from self._ask_files(dict(items[:middle]), spec, timeout)
            return first | (yield from self._ask_files(dict(items[middle:]), spec, timeout))
        return dict(zip(files, _contract.predictions(response, spec.name, len(files)), strict=True))

    def _reads_files(self, spec: ModelSpec, deadline: Deadline) -> Flow[bool]:
        """Whether the model can be asked about files at all, so that a refusal may be a picture's fault."""
        metadata = self._metadata.get((spec.name, spec.version, spec.label))
        if metadata is None or not _contract.reads_files(metadata):
            metadata = yield from self.metadata(spec, deadline)
        return _contract.reads_files(metadata)

    def status(self, spec: ModelSpec, deadline: Deadline) -> Flow[list[VersionStatus]]:
        """The model's versions, newest first."""
        response = cast("StatusResponse", (yield from self.exchange(StatusRequest(spec), deadline)))
        return sorted(response.versions, key=lambda each: -each.version)

    def models(self, names: Sequence[str], deadline: Deadline) -> Flow[list[Model]]:
        """Those models with their versions and signatures."""
        models = []
        for name in names:
            spec = ModelSpec(name)
            versions = yield from self.status(spec, deadline)
            signatures = {}
            if any(each.state == "AVAILABLE" for each in versions):
                signatures = (yield from self.metadata(spec, deadline)).signatures
            models.append(Model(name, versions, signatures))
        return models

    def wait_until_available(self, spec: ModelSpec, deadline: Deadline) -> Flow[list[VersionStatus]]:
        """Asks until the version, the version of that label, or any version, is available."""
        seen = ""
        pause = 0.05
        while True:
            try:
                versions = yield from self.status(replace(spec, label=None), deadline)
                seen = ", ".join(
                    f"version {each.version} {each.state} {each.error_message}".strip() for each in versions
                )
                if any(each.state == "AVAILABLE" for each in versions):
                    if spec.label is not None:  # A status knows no labels: the signatures are found by them.
                        yield from self.metadata(spec, deadline)
                    return versions
            except (AccessDenied, ClientClosed):  # which no waiting changes
                raise
            except CallError as error:
                if not seen or not isinstance(error, DeadlineExceeded):  # That may only be this wait's own end.
                    seen = f"{error.code}: {error.server_message}"
            if deadline.left() <= pause:
                raise DeadlineExceeded(
                    "DEADLINE_EXCEEDED", f"not available in time; last seen: {seen}", model=spec.name
                )
            yield Pause(pause)
            pause = min(2 * pause, 1.0)


def _try_read(picture: Picture) -> bytes | PictureError:
    try:
        return read_bytes(picture)
    except PictureError as error:
        return error
