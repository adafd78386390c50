"""Warm-up: the recorded requests in assets.extra, replayed before a version becomes available."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tensorflow.python.framework import errors_impl
from tensorflow.python.lib.io import tf_record
from tensorflow_serving.apis import classification_pb2, prediction_log_pb2, regression_pb2

from glyph_serving import classify, inference
from glyph_serving.errors import Code, ServingError
from glyph_serving.servable import CLASSIFY_METHOD, REGRESS_METHOD, Array, Arrays, Servable, Signature

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file.

    Args:
        path: The file.

    Raises:
        ServingError: DATA_LOSS for a file that is damaged or of another kind.
    """
    try:
        yield from tf_record.tf_record_iterator(str(path))
    except errors_impl.DataLossError as error:
        raise ServingError(
            Code.DATA_LOSS, f"{error.message}. Please verify your warmup data is in TFRecord format."
        ) from None


def replay(servable: Servable, log: prediction_log_pb2.PredictionLog) -> None:
    """Runs a recorded request, and makes its answer. A record of no request, or of a streamed one, is passed over.

    Raises:
        ServingError: It fails, or is of a kind that cannot be replayed.
    """
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        _run(*inference.prepare(servable, log.predict_log.request))
    elif kind == "classify_log":
        _replay_task(servable, log.classify_log.request, CLASSIFY_METHOD)
    elif kind == "regress_log":
        _replay_task(servable, log.regress_log.request, REGRESS_METHOD)
    elif kind == "multi_inference_log":
        request = log.multi_inference_log.request
        for task, (signature, examples) in zip(request.tasks, classify.prepare_tasks(servable, request), strict=True):
            _infer(signature, task.method_name, examples)
    elif kind == "session_run_log":
        number = log.DESCRIPTOR.fields_by_name[kind].number
        raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")


def _replay_task(
    servable: Servable,
    request: classification_pb2.ClassificationRequest | regression_pb2.RegressionRequest,
    method: str,
) -> None:
    signature, examples = classify.prepare(servable, request.model_spec, method, request.input)
    _infer(signature, method, examples)


def _infer(signature: Signature, method: str, examples: Array) -> None:
    classify.result(signature, method, _run(signature, [examples]), len(examples))


def _run(signature: Signature, arrays: Sequence[Array]) -> Arrays:
    if not signature.fits(arrays):
        signature.check(arrays)
    return signature.run(arrays)
