"""Warm-up: the recorded requests in assets.extra, replayed before a version becomes available."""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from tensorflow_serving.apis import prediction_log_pb2

from glyph_serving import classify, inference
from glyph_serving.errors import Code, ServingError
from glyph_serving.servable import CLASSIFY_METHOD, REGRESS_METHOD, Array, Servable, Signature

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file.

    Args:
        path: The file.

    Raises:
        ServingError: DATA_LOSS for a file that is cut short.
    """
    with path.open("rb") as file:
        while header := file.read(12):
            if len(header) < 12:
                raise ServingError(Code.DATA_LOSS, f"truncated record in {path}")
            (length,) = struct.unpack("<Q", header[:8])
            record = file.read(length)
            if len(record) < length or len(file.read(4)) < 4:
                raise ServingError(Code.DATA_LOSS, f"truncated record in {path}")
            yield record


def replay(servable: Servable, log: prediction_log_pb2.PredictionLog) -> None:
    """Runs a recorded request.

    Raises:
        ServingError: It fails, or is of a kind that cannot be replayed.
    """
    for signature, arrays in _runs(servable, log):
        if not signature.fits(arrays):
            signature.check(arrays)
        signature.run(arrays)


def _runs(servable: Servable, log: prediction_log_pb2.PredictionLog) -> list[tuple[Signature, Sequence[Array]]]:
    """What a recorded request runs: signatures and their inputs."""
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        return [inference.prepare(servable, log.predict_log.request)]
    if kind == "classify_log":
        tasks = [(log.classify_log.request.model_spec, CLASSIFY_METHOD, log.classify_log.request.input)]
    elif kind == "regress_log":
        tasks = [(log.regress_log.request.model_spec, REGRESS_METHOD, log.regress_log.request.input)]
    elif kind == "multi_inference_log":
        request = log.multi_inference_log.request
        tasks = [(task.model_spec, task.method_name, request.input) for task in request.tasks]
    else:
        raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
    prepared = [classify.prepare(servable, spec, method, given) for spec, method, given in tasks]
    return [(signature, [examples]) for signature, examples in prepared]
