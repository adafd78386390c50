"""What a model that reads digits promises: its signatures, and what their answers mean."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from glyph_client._errors import InputError
from glyph_client._preprocess import SIZE
from glyph_client._types import (
    Array,
    MetadataResponse,
    ModelSpec,
    Prediction,
    PredictRequest,
    PredictResponse,
    Signature,
    TensorSpec,
)

_OUTPUTS: Final = {
    "label": TensorSpec("", "string", (None,)),
    "probabilities": TensorSpec("", "float32", (None, None)),
}
_METHOD: Final = "tensorflow/serving/predict"
_IMAGE: Final = Signature(
    "serving_default", _METHOD, {"image": TensorSpec("", "uint8", (None, SIZE, SIZE, 1))}, _OUTPUTS
)
_IMAGE_BYTES: Final = Signature("image_bytes", _METHOD, {"image_bytes": TensorSpec("", "string", (None,))}, _OUTPUTS)


def images_request(spec: ModelSpec, images: NDArray[np.uint8]) -> PredictRequest:
    """Asks about preprocessed images, uint8 [N, 28, 28, 1]."""
    return PredictRequest(spec, {"image": images}, signature=_IMAGE)


def files_request(spec: ModelSpec, files: Sequence[bytes]) -> PredictRequest:
    """Asks about image files as they are, preprocessed by the server."""
    strings = np.empty(len(files), object)
    strings[:] = files
    with_signature = ModelSpec(spec.name, spec.version, spec.label, _IMAGE_BYTES.name)
    return PredictRequest(with_signature, {"image_bytes": strings}, signature=_IMAGE_BYTES)


def reads_files(metadata: MetadataResponse) -> bool:
    """Whether the model preprocesses image files itself."""
    return _IMAGE_BYTES.name in metadata.signatures


def predictions(response: PredictResponse, model: str, count: int) -> list[Prediction]:
    """The answer, image by image.

    Raises:
        InputError: the model does not keep the contract.
    """
    probabilities, labels = response.outputs.get("probabilities"), response.outputs.get("label")
    if probabilities is None or labels is None or not _are_answers(probabilities, labels, count):
        got = {name: f"{array.dtype} {list(array.shape)}" for name, array in response.outputs.items()}
        raise InputError(
            f"model {model} is none that predict can ask: it must answer label, strings [N], and probabilities, "
            f"floats [N, classes]. Received: {got} for N = {count}. Ask it with call()."
        )
    confidences = probabilities.max(axis=1).tolist()
    return [
        Prediction(label.decode(errors="replace"), confidence, model, response.spec.version, row)
        for label, confidence, row in zip(labels, confidences, probabilities, strict=True)
    ]


def _are_answers(probabilities: Array, labels: Array, count: int) -> bool:
    are_probabilities = probabilities.dtype.kind == "f" and probabilities.ndim == 2 and probabilities.size > 0
    are_labels = labels.shape == (count,) and all(isinstance(label, bytes) for label in labels)
    return are_probabilities and are_labels and len(probabilities) == count
