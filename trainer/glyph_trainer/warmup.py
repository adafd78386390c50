"""The requests that a server plays through a new version before it answers anyone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_log_pb2

from glyph_trainer.signatures import ENCODED_FEATURE

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""What a server is warmed up with: up to the largest batch that it forms (serving/config/batching.config)."""

FILE_NAME = "tf_serving_warmup_requests"


def write_warmup(path: Path, model_name: str, images: NDArray[np.uint8], batch_sizes: Sequence[int]) -> None:
    """Write a TFRecord of PredictionLog: every signature at every batch size.

    Args:
        path: the file to write.
        model_name: what the requests call the model.
        images: uint8 [N, 28, 28, 1], at least one; repeated where a batch needs more.
        batch_sizes: how many images a request has.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for size in batch_sizes:
            batch = np.resize(images, (size, *images.shape[1:]))
            encoded = [tf.io.encode_png(image).numpy() for image in batch]
            for log in (
                _predict(model_name, "serving_default", "image", tf.make_tensor_proto(batch)),
                _predict(model_name, "image_bytes", "image_bytes", tf.make_tensor_proto(encoded)),
                _classify(model_name, encoded),
            ):
                writer.write(log.SerializeToString())


def write_single_warmup(path: Path, model_name: str, signature: Any, question: NDArray[np.float32]) -> None:
    """Write a TFRecord of one PredictionLog.

    Args:
        path: the file to write.
        model_name: what the request calls the model.
        signature: the function behind `serving_default`, of one input.
        question: a batch for it.
    """
    (spec,) = signature.input_signature
    log = _predict(model_name, "serving_default", spec.name, tf.make_tensor_proto(question))
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(log.SerializeToString())


def _predict(
    model_name: str, signature: str, key: str, tensor: tensor_pb2.TensorProto
) -> prediction_log_pb2.PredictionLog:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature
    request.inputs[key].CopyFrom(tensor)
    return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))


def _classify(model_name: str, encoded: Sequence[bytes]) -> prediction_log_pb2.PredictionLog:
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = model_name
    request.model_spec.signature_name = "classify"
    for content in encoded:
        example = request.input.example_list.examples.add()
        example.features.feature[ENCODED_FEATURE].bytes_list.value.append(content)
    return prediction_log_pb2.PredictionLog(classify_log=prediction_log_pb2.ClassifyLog(request=request))
