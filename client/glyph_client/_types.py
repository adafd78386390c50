"""What goes to a transport, what comes back, and what the user gets: plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from glyph_client._errors import Code, InputError
from glyph_client._preprocess import Explanation

Array = NDArray[Any]
FeatureValue = bytes | str | float | int | Sequence[bytes] | Sequence[str] | Sequence[float] | Sequence[int] | Array
Example = Mapping[str, FeatureValue]
State = Literal["UNKNOWN", "START", "LOADING", "AVAILABLE", "UNLOADING", "END"]
INT64: Final = np.iinfo(np.int64)
"""The integers that the protocol has room for."""


def utf8(text: str) -> bytes:
    """A text as it is sent.

    Raises:
        InputError: UTF-8 has no bytes for it.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"a text cannot be sent: it holds half a surrogate pair. Received: {text!r:.100}") from error


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model is asked: at most one of `version` and `label`; neither means the newest version.

    Attributes:
        name: the model's name.
        version: the number of a version; in an answer, the version that answered, None where the protocol does not say.
        label: a version label such as "stable".
        signature: the name of a signature; None means `serving_default`.
    """

    name: str
    version: int | None = None
    label: str | None = None
    signature: str | None = None

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            received = f"{self.version} and {self.label!r}"
            raise InputError(f"a model is asked by version or by label, not by both. Received: {received}.")
        if self.version is not None and not INT64.min <= self.version <= INT64.max:
            raise InputError(f"a version is a number of 64 bits. Received: {self.version}.")
        for text in (self.name, self.label, self.signature):
            utf8(text or "")


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """Any inputs for any signature.

    Attributes:
        spec: whom to ask.
        inputs: arrays by input name.
        output_filter: the outputs wanted, none means all.
        signature: the signature as the server describes it; REST needs it to type the answer.
    """

    spec: ModelSpec
    inputs: Mapping[str, Array]
    output_filter: Sequence[str] = ()
    signature: "Signature | None" = None


@dataclass(frozen=True, slots=True)
class ClassifyRequest:
    """Examples for a signature whose method is classify; `context` holds features common to all."""

    spec: ModelSpec
    examples: Sequence[Example]
    context: Example | None = None


@dataclass(frozen=True, slots=True)
class RegressRequest:
    """Examples for a signature whose method is regress; `context` holds features common to all."""

    spec: ModelSpec
    examples: Sequence[Example]
    context: Example | None = None


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """The state of a model's versions."""

    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class MetadataRequest:
    """The signatures of a model."""

    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model of a server's configuration.

    Attributes:
        name: the model's name.
        base_path: the folder on the server, absolute, that holds the versions.
        versions: "latest" (the newest only), "all", an integer n (the n newest) or the numbers of the versions wanted.
        labels: version labels.
    """

    name: str
    base_path: str
    versions: Literal["latest", "all"] | int | Sequence[int] = "latest"
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReloadRequest:
    """The server's new list of models, in place of the old."""

    models: Sequence[ModelConfig]


@dataclass(frozen=True, slots=True)
class PredictResponse:
    """Outputs by name, and the model that answered."""

    outputs: dict[str, Array]
    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class Class:
    """One class and its score."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class ClassifyResponse:
    """For each example its classes, in the model's order."""

    results: list[list[Class]]
    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class RegressResponse:
    """For each example its value: float32 [N]."""

    values: NDArray[np.float32]
    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """The state of one version; `error_code` is "OK" and `error_message` empty where nothing went wrong."""

    version: int
    state: State
    error_code: Code | Literal["OK"] = "OK"
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class StatusResponse:
    """The state of every version that the server knows."""

    versions: list[VersionStatus]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of a signature.

    Attributes:
        name: the tensor's name inside the graph.
        dtype: TensorFlow's name of the type, such as "float32" or "string".
        shape: its sizes, None for any size; None as a whole for any rank.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of any shape"
        return f"{self.dtype} [{', '.join('N' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """One endpoint of a model."""

    name: str
    method: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


@dataclass(frozen=True, slots=True)
class MetadataResponse:
    """The signatures of a model, by name."""

    signatures: dict[str, Signature]
    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class ReloadResponse:
    """The server took the new configuration."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the server presents it; without signatures while no version is available."""

    name: str
    versions: list[VersionStatus]
    signatures: dict[str, Signature]


Request = PredictRequest | ClassifyRequest | RegressRequest | StatusRequest | MetadataRequest | ReloadRequest
Response = PredictResponse | ClassifyResponse | RegressResponse | StatusResponse | MetadataResponse | ReloadResponse


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The answer for one picture.

    Attributes:
        label: the most probable class.
        confidence: its probability.
        model: the model that answered.
        version: its version; None over REST, which does not say.
        probabilities: float32 [classes], by class number.
        explanation: the stages of preprocessing, if they were asked for.
    """

    label: str
    confidence: float
    model: str
    version: int | None
    probabilities: NDArray[np.float32] = field(repr=False)
    explanation: Explanation | None = field(default=None, repr=False)

    def top(self, count: int) -> list[tuple[str, float]]:
        """The most probable classes and their probabilities, best first.

        The protocol names the best class only. The others are named by their number if that is the name of the best
        one too, as with digits, and else by their number behind a #: "#11".
        """
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        sign = "" if len(order) and self.label == str(order[0]) else "#"
        others = [(f"{sign}{index}", float(self.probabilities[index])) for index in order[1:]]
        return [(self.label, self.confidence), *others][:count]
