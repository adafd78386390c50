"""What no recording shows, and the genuine server's source says."""

import gzip
import http.client
import re
from typing import Any

import grpc
import pytest
import tensorflow as tf
from glyph_serving.envoy import UTF_8_PATH
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.conftest import Server

HALF_PLUS_TWO = "/v1/models/half_plus_two"
BAD_REQUEST = b"<HTML><HEAD>\n<TITLE>400 Bad Request</TITLE>"


@pytest.fixture(scope="module")
def server(servers: dict[str, Server]) -> Server:
    return servers["default"]


def ask(server: Server, method: str, path: str, body: bytes = b"", encoding: str = "") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(server.rest.removeprefix("http://"), timeout=30)
    try:
        connection.request(method, path, body or None, {"Content-Encoding": encoding} if encoding else {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_a_string_of_rank_0_is_answered_over_rest(server: Server) -> None:
    status, answer = ask(server, "POST", f"{HALF_PLUS_TWO}:predict", b'{"signature_name": "strs", "inputs": "abc"}')
    assert (status, b"".join(answer.split())) == (200, b'{"outputs":{"image_bytes":{"b64":"YWJj"},"len":3}}')


def test_a_string_of_rank_0_is_answered_over_grpc(server: Server) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "half_plus_two", "strs"
    request.inputs["s"].CopyFrom(tf.make_tensor_proto("abc"))
    with grpc.insecure_channel(server.grpc) as channel:
        outputs = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30).outputs
    assert {name: tf.make_ndarray(tensor).item() for name, tensor in outputs.items()} == {
        "image_bytes": b"abc",
        "len": 3,
    }


@pytest.mark.parametrize("word", ["METADATA", "Metadata"])
def test_metadata_in_another_case_is_the_status(server: Server, word: str) -> None:
    status, answer = ask(server, "GET", f"{HALF_PLUS_TWO}/{word}")
    assert (status, answer) == ask(server, "GET", HALF_PLUS_TWO)
    assert b"model_version_status" in answer
    assert b"signature_def" in ask(server, "GET", f"{HALF_PLUS_TWO}/metadata")[1]


@pytest.mark.parametrize(("word", "status"), [("gzip", 200), ("GZIP", 400)])
def test_gzip_is_written_small(server: Server, word: str, status: int) -> None:
    body = gzip.compress(b'{"instances": [[1.0]]}')
    assert ask(server, "POST", f"{HALF_PLUS_TWO}:predict", body, word)[0] == status


@pytest.mark.parametrize(
    "path",
    ["/v1/models/%ff", "/v1/models/%FF%FE/metadata", "/v1/models/%c3", "/v1/models/%ED%A0%80", "/%z", "/v1/models/%"],
)
def test_a_path_that_is_no_text_is_refused(server: Server, path: str) -> None:
    status, answer = ask(server, "GET", path)
    assert status == 400
    assert answer.startswith(BAD_REQUEST)


@pytest.mark.parametrize("name", ["%C3%A9", "%e2%82%ac", "%F0%9F%98%80", "a%2Db%20c"])
def test_a_path_that_is_text_is_answered(server: Server, name: str) -> None:
    status, answer = ask(server, "GET", f"/v1/models/{name}")
    assert status == 404
    assert b"Could not find any versions of model" in answer


def test_a_method_that_is_no_text_is_not_implemented(server: Server) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        call: Any = channel.unary_unary("/tensorflow.serving.PredictionService/%ff")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=30)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_pattern_of_readable_paths_knows_utf_8() -> None:
    for first in range(0x80, 0x100):
        for second in range(0x80, 0xC0):
            for rest in (b"", b"\x80", b"\xbf\x80"):
                data = bytes((first, second)) + rest
                path = "".join(f"%{byte:02X}" for byte in data)
                assert bool(re.fullmatch(UTF_8_PATH, path)) == (data.decode("utf-8", "ignore").encode() == data), path
