"""Requests, serialised beforehand, and what their answers say."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from glyph_loadtest.channel import Channel, printable
from glyph_loadtest.digits import Digits, as_jpeg, known_digits
from glyph_loadtest.grpc_channel import GrpcChannel
from glyph_loadtest.http1 import RestChannel, post
from glyph_loadtest.protos import predict_pb2
from glyph_loadtest.target import PayloadKind, Target

_PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclass(frozen=True)
class Payload:
    """One request: its bytes, and the true labels of the images in it."""

    request: bytes
    labels: tuple[str, ...]


class AnswerError(ValueError):
    """An answer that arrived but cannot be read as labels."""


def open_channel(target: Target) -> Channel:
    """The channel of a target; it connects with the first request."""
    if target.rest:
        return RestChannel(target.address, target.timeout)
    return GrpcChannel(target.address, _PREDICT, target.timeout, target.api_key)


def payloads(target: Target, digits: Digits | None = None) -> list[Payload]:
    """Serialises one request for each known digit: that one and the `target.batch - 1` that follow it, in a circle."""
    digits = digits or known_digits()
    build = _rest_request if target.rest else _grpc_request
    count = len(digits.labels)
    chosen = [[(first + k) % count for k in range(target.batch)] for first in range(count)]
    return [Payload(build(target, digits.images[rows]), tuple(digits.labels[row] for row in rows)) for rows in chosen]


def _grpc_request(target: Target, images: npt.NDArray[np.uint8]) -> bytes:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = target.model
    if target.payload is PayloadKind.JPEG:
        request.model_spec.signature_name = "image_bytes"
        tensor = request.inputs["image_bytes"]
        tensor.dtype = predict_pb2.DT_STRING
        tensor.tensor_shape.dim.add(size=len(images))
        tensor.string_val.extend(as_jpeg(image) for image in images)
        return request.SerializeToString()
    request.model_spec.signature_name = "serving_default"
    tensor = request.inputs["image"]
    for size in images.shape:
        tensor.tensor_shape.dim.add(size=size)
    if target.payload is PayloadKind.FLOAT:
        tensor.dtype = predict_pb2.DT_FLOAT
        tensor.tensor_content = (images / np.float32(255)).astype("<f4").tobytes()
    else:
        tensor.dtype = predict_pb2.DT_UINT8
        tensor.tensor_content = images.tobytes()
    return request.SerializeToString()


def _rest_request(target: Target, images: npt.NDArray[np.uint8]) -> bytes:
    instances: object
    signature = "serving_default"
    if target.payload is PayloadKind.JPEG:
        signature = "image_bytes"
        instances = [{"b64": base64.b64encode(as_jpeg(image)).decode()} for image in images]
    elif target.payload is PayloadKind.FLOAT:
        instances = np.round(images / 255, 4).tolist()
    else:
        instances = images.tolist()
    body = json.dumps({"signature_name": signature, "instances": instances}, separators=(",", ":")).encode()
    return post(target.address, f"/v1/models/{target.model}:predict", body, target.api_key)


def answered_labels(rest: bool, body: bytes, count: int) -> list[str]:
    """The labels in an answer: its output `label`, or else the place of the greatest value of its only float output.

    Args:
        rest: whether the answer came over REST; otherwise it is a PredictResponse.
        body: the bytes of the answer.
        count: how many labels there must be.

    Raises:
        AnswerError: the answer holds neither, or not as many.
    """
    try:
        labels = _rest_labels(body) if rest else _grpc_labels(body)
        if len(labels) != count:
            raise ValueError(f"{count} images were asked about, {len(labels)} labels came back")
        return labels
    except (DecodeError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        reason = printable(f"{type(error).__name__}: {error}")
        raise AnswerError(f"no labels in the answer ({reason}): {body[:100]!r}") from error


def _grpc_labels(body: bytes) -> list[str]:
    outputs = predict_pb2.PredictResponse.FromString(body).outputs
    if "label" in outputs:
        return [value.decode() for value in outputs["label"].string_val]
    (scores,) = (tensor for tensor in outputs.values() if tensor.dtype == predict_pb2.DT_FLOAT)
    rows, classes = (dim.size for dim in scores.tensor_shape.dim)
    values = np.frombuffer(scores.tensor_content, "<f4") if scores.tensor_content else np.array(scores.float_val)
    return [str(place) for place in values.reshape(rows, classes).argmax(axis=1)]


def _rest_labels(body: bytes) -> list[str]:
    return [_rest_label(prediction) for prediction in json.loads(body)["predictions"]]


def _rest_label(prediction: object) -> str:
    if isinstance(prediction, dict):
        if "label" in prediction:
            return str(prediction["label"])
        (prediction,) = islice((value for value in prediction.values() if isinstance(value, list)), 2)
    if isinstance(prediction, str):  # so it is written when a model has no other output
        return prediction
    if not isinstance(prediction, Sequence):
        raise AnswerError(f"neither a label nor scores: {prediction!r}")
    return str(int(np.argmax(prediction)))
