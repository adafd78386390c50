"""Every recorded gRPC exchange of the genuine server, replayed."""

import re
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from tests.conformance.compare import same_message, same_text
from tests.conformance.conftest import MODELS, recordings
from tests.conftest import Server

TYPES: dict[str, tuple[type[Message], type[Message]]] = {
    "Predict": (predict_pb2.PredictRequest, predict_pb2.PredictResponse),
    "Classify": (classification_pb2.ClassificationRequest, classification_pb2.ClassificationResponse),
    "Regress": (regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
    "MultiInference": (inference_pb2.MultiInferenceRequest, inference_pb2.MultiInferenceResponse),
    "GetModelMetadata": (
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
    ),
    "GetModelStatus": (get_model_status_pb2.GetModelStatusRequest, get_model_status_pb2.GetModelStatusResponse),
    "HandleReloadConfigRequest": (
        model_management_pb2.ReloadConfigRequest,
        model_management_pb2.ReloadConfigResponse,
    ),
}
ALL = recordings("grpc")
# What comes after a reload is replayed in an order of its own below.
AFTER_RELOAD = [
    case
    for case in ALL
    if "after removal" in case["name"] or "removed model" in case["name"] or case["group"] == "Reload"
]
INDEPENDENT = [case for case in ALL if case not in AFTER_RELOAD]


def complete(text: str, name: str) -> str:
    """A request whose text was cut in its last tensor's content, or in its shape, completed."""
    if "[cut]" not in text:
        return text
    if "tensor_content" not in text:
        dims = "dim { size: 1 }" * 255
        return f"{text[: text.index('tensor_shape')]} tensor_shape {{ {dims} }} float_val: 1 }} }}"
    head = text[: text.rindex("tensor_content:")]
    sizes = [int(size) for size in re.findall(r"size: (\d+)", head)]
    dtype = np.dtype({"FLOAT": "f4", "DOUBLE": "f8", "UINT8": "u1"}[re.findall(r"DT_(\w+)", head)[-1]])
    content = np.full(sizes, np.nan if "NaN" in name else 0, dtype).tobytes()
    octal = "".join(f"\\{byte:03o}" for byte in content)
    return f'{head} tensor_content: "{octal}" }} }}'


def ask(server: Server, case: dict[str, Any]) -> tuple[str, str, Message | None]:
    """The code, the details and the response of a recorded request."""
    request_type, response_type = TYPES.get(case["method"].rpartition("/")[2], (None, None))
    if "request_raw_hex" in case or request_type is None:
        payload = bytes.fromhex(case.get("request_raw_hex", ""))
    else:
        text = complete(case["request_text"], case["name"]).replace("$MODELS", str(MODELS))
        payload = text_format.Parse(text, request_type()).SerializeToString()
    with grpc.insecure_channel(server.grpc) as channel:
        try:
            call: Any = channel.unary_unary(case["method"])
            answer: bytes = call(payload, timeout=30)
        except grpc.RpcError as error:
            return error.code().name, error.details() or "", None
    return "OK", "", response_type.FromString(answer) if response_type else None


def check(server: Server, case: dict[str, Any]) -> None:
    code, details, response = ask(server, case)
    assert (code, details) == (case["code"], details)
    assert same_message(details, case.get("details", "")), details
    if case["code"] == "OK" and "[cut]" not in case["response_text"]:
        assert response is not None
        recorded = text_format.Parse(case["response_text"], type(response)())
        assert same_text(text_format.MessageToString(response), text_format.MessageToString(recorded))


@pytest.mark.parametrize("case", INDEPENDENT, ids=lambda case: f"{case['group']}: {case['name']}")
def test_answers_as_recorded(servers: dict[str, Server], case: dict[str, Any]) -> None:
    check(servers["plain" if "ONEDNN" in case["group"] else "default"], case)


def reload(name: str) -> dict[str, Any]:
    return next(case for case in AFTER_RELOAD if case["name"] == name)


def test_reloads_and_answers_afterwards_as_recorded(servers: dict[str, Server]) -> None:
    server = servers["plain"]
    try:
        for name in ("empty", "relative path", "duplicate name", "same config again"):
            check(server, reload(name))
        check(server, reload("only digits (removes half_plus_two)"))
        check(server, reload("half_plus_two after removal"))
        check(server, AFTER_RELOAD[[case["name"] for case in AFTER_RELOAD].index("Predict on removed model")])
        check(server, reload("same config again"))
        check(server, reload("empty model_config_list"))
        check(server, reload("digits after removal"))
        check(server, [case for case in AFTER_RELOAD if case["name"] == "Predict on removed model"][1])
        check(server, reload("same config again"))
        check(server, reload("label to unloaded version"))
        check(server, reload("all versions policy"))
    finally:
        check(server, reload("same config again"))
