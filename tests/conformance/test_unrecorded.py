"""What no recording of REST shows, and the genuine server's source says."""

import base64
import gzip
import http.client
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
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


@pytest.mark.parametrize(
    "path", ["/v1/models/a|b", "/v1/models/{name}", '/v1/models/%22"', "/v1/models/a\\b", "/a^b", "/a?%zz"]
)
def test_characters_that_no_uri_may_have_are_refused(server: Server, path: str) -> None:
    status, answer = ask(server, "GET", path)
    assert (status, answer[: len(BAD_REQUEST)]) == (400, BAD_REQUEST)
    assert ask(server, "TRACE", path)[0] == 501


def test_a_large_body_for_nothing_is_answered(server: Server) -> None:
    assert ask(server, "POST", "/foo", bytes(20_000_000))[0] == 404


def test_metrics_have_no_query(server: Server) -> None:
    path = "/monitoring/prometheus/metrics"
    status, answer = ask(server, "GET", f"{path}?x=1")
    assert (status, answer.decode()) == (400, f"Unexpected path: {path}?x=1. Should be {path}")
    assert ask(server, "OPTIONS", path)[0] == 200
    assert ask(server, "OPTIONS", "/foo")[0] == 404


def test_a_version_that_is_too_large_comes_before_a_missing_name(server: Server) -> None:
    for version in ("99999999999999999999", "9" * 5000):
        assert ask(server, "GET", f"/v1/models/versions/{version}") == (400, b"")
    assert ask(server, "GET", f"{HALF_PLUS_TWO}/versions/{'0' * 5000}1") == ask(
        server, "GET", f"{HALF_PLUS_TWO}/versions/1"
    )
    assert b"Missing model name" in ask(server, "GET", "/v1/models/versions/1")[1]


def test_a_second_gzip_member_is_not_taken(server: Server) -> None:
    body = gzip.compress(b'{"instances": ') + gzip.compress(b"[[1.0]]}")
    status, answer = ask(server, "POST", f"{HALF_PLUS_TWO}:predict", body, "gzip")
    assert (status, error(answer)) == (400, "JSON Parse error: The document is empty")


def error(answer: bytes) -> Any:
    return json.loads(answer.decode("utf-8", "surrogateescape"))["error"]


def predict(server: Server, body: bytes) -> tuple[int, Any]:
    """Status, and predictions, outputs or the error."""
    status, answer = ask(server, "POST", f"{HALF_PLUS_TWO}:predict", body)
    return status, next(iter(json.loads(answer.decode("utf-8", "surrogateescape")).values()))


def raw(server: Server, request: str) -> str:
    """The answer, headers and all, to what is sent as it stands."""
    host, _, port = server.rest.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request.encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        return f"HTTP/1.1 {response.status}\n{response.read().decode()}"


def strings(*instances: str) -> bytes:
    return f'{{"signature_name": "strs", "instances": [{", ".join(instances)}]}}'.encode()


NO_INPUTS = "Failed to get input map for signature: __saved_model_init_op"
B64 = '{"b64": "aGVsbG8=", "x": 1}'
NO_B64 = 'JSON Value: {\n    "b64": "aGVsbG8=",\n    "x": 1\n} not formatted correctly for base64 data'
TOO_BIG = "JSON Parse error: Number too big to be stored in double."
ELEMENT = "Failed to process element: 0 key: %s of 'instances' list. Error: INVALID_ARGUMENT: %s"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (strings(f'{{"s": {B64}}}'), ELEMENT % ("s", NO_B64)),
        (strings('"a"', B64), "Expecting value/list but got object at item 1 of input list"),
        (strings(B64), ELEMENT % ("b64", "JSON object: does not have named input: b64")),
        (f'{{"signature_name": "strs", "inputs": {{"s": {B64}}}}}'.encode(), NO_B64),
        (b'{"signature_name": "__saved_model_init_op", "instances": [1.0]}', NO_INPUTS),
        (b"[1, NaN, 2]", "JSON Value: [1,  Is not object"),
        (b"[1, Infinity]", "JSON Value: [1,  Is not object"),
        (('["' + "ä" * 200 + '"]').encode(), f'JSON Value: ["{"ä" * 127} Is not object'),
        (b'{"instances": ' + b"[" * 1000, "JSON Parse error: Invalid value. at offset: 1014"),
        (b'{"instances": ' + b"[" * 1000 + b"1.0" + b"]" * 1000 + b"}", "tensor parsing error: x"),
        (b'{"instances": [[%s], [%s]]}' % ((b"[" * 400 + b"1.0" + b"]" * 400,) * 2), "tensor parsing error: x"),
        (b"[" * 100_000, "JSON Parse error: Nested deeper than 10000 levels. at offset: 10001"),
        (b'{"instances": [[%s]]}' % (b"1" * 5000), f"{TOO_BIG} at offset: 16"),
        (b'{"instances": [[1e309]]}', f"{TOO_BIG} at offset: 16"),
        (
            b'{"signature_name": "strs", "inputs": ' + b"[" * 33 + b'"x"' + b"]" * 33 + b"}",
            "input s holds strings, which can have at most 32 dimensions. Received: 33",
        ),
        (b"\xef\xbb\xbf", "JSON Parse error: The document is empty. at offset: 3"),
        (b"\0{}", "JSON Parse error: The document is empty. at offset: 0"),
        (b" ]", "JSON Parse error: The document is empty. at offset: 1"),
        (b"?]", "JSON Parse error: Invalid value. at offset: 0"),
        (b'{"instances": [[Inf.]]}', "JSON Parse error: Miss fraction part in number. at offset: 20"),
        (b'{"instances": [[NaNe]]}', "JSON Parse error: Miss exponent in number. at offset: 20"),
        (b"\xbb", "JSON Parse error: The document is empty. at offset: 1"),
        (b'{"instances": ["a\x01"]}', "JSON Parse error: Invalid escape character in string. at offset: 17"),
    ],
)
def test_what_is_wrong_with_a_body_is_said(server: Server, body: bytes, message: str) -> None:
    assert predict(server, body) == (400, message)


@pytest.mark.parametrize("number", [b"2e308", b"1.8e308", b"1.0e309", b"Infinity", b"NInf"])
def test_what_only_its_last_step_makes_too_large_is_infinite(server: Server, number: bytes) -> None:
    assert predict(server, b'{"instances": [[%s], [-1e5]]}' % number) == (200, [[float("inf")], [-49998.0]])


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "foo", ""])
@pytest.mark.parametrize("body", [b"", b'{"instances": [[1.0]]}'])
def test_another_protocol_is_not_changed_to(server: Server, protocol: str, body: bytes) -> None:
    connection = http.client.HTTPConnection(server.rest.removeprefix("http://"), timeout=30)
    try:
        path = f"{HALF_PLUS_TWO}:predict" if body else HALF_PLUS_TWO
        connection.request("POST" if body else "GET", path, body, {"Connection": "Upgrade", "Upgrade": protocol})
        assert connection.getresponse().status == 200
    finally:
        connection.close()


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"\xef", b"\xbb\xbf"])
def test_a_byte_order_mark_is_skipped_and_any_part_of_it(server: Server, mark: bytes) -> None:
    assert predict(server, mark + b'{"instances": [[1.0]]}') == (200, [[2.5]])


def test_a_number_goes_on_after_a_word_that_then_counts_as_0(server: Server) -> None:
    body = b'{"instances": [[Infinity.5], [-Inf.5], [NaNe5]]}'
    assert predict(server, body) == (200, [[2.25], [1.75], [2.0]])


def test_a_whole_number_becomes_a_float_by_way_of_a_double(server: Server) -> None:
    assert predict(server, b'{"instances": [[1152921573326323713]]}') == (200, [[5.76460752e17]])


# What RapidJSON 1.1.0 writes of them; the last digit is not always the nearest.
NUMBERS = {
    "18446744073709551616": "18446744073709553000.0",
    "36893488147419103232": "36893488147419107000.0",
    "-13239423838840553618": "-13239423838840554000.0",
    "1e19": "10000000000000000000.0",
    "1e23": "9.999999999999999e22",
    "1e300": "1e300",
    "0.30000000000000004": "0.30000000000000007",
    "1.0000000000000002": "1.0000000000000003",
    "1e-45": "1.0000000000000002e-45",
    "0.000001": "0.000001",
    "1234.5": "1234.5",
    "-0.0": "-0.0",
    "4503599627370496.5": "4503599627370497.0",
}


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_in_messages_are_written_as_rapidjson_does(server: Server, number: str) -> None:
    body = f'{{"signature_name": "strs", "inputs": {number}}}'.encode()
    message = f"JSON Value: {NUMBERS[number]} Type: Number is not of expected type: string"
    assert predict(server, body) == (400, message)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("OPTIONS * HTTP/1.1\r\nHost: x", "404 Not Found"),
        ("GET /v1/models/digits HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip", "501 Not Implemented"),
        (f"GET /v1 HTTP/1.1\r\nHost: x\r\nX: {'x' * 70_000}", "431 Request Header Fields Too Large"),
    ],
)
def test_what_never_reaches_the_api_is_answered_with_a_page(server: Server, head: str, status: str) -> None:
    answer = raw(server, f"{head}\r\n\r\n")
    assert f"<TITLE>{status}</TITLE>" in answer


def test_of_a_length_and_chunks_the_chunks_count(server: Server) -> None:
    head = f"POST {HALF_PLUS_TWO}:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3"
    answer = raw(server, f'{head}\r\n\r\n13\r\n{{"instances":[[1]]}}\r\n0\r\n\r\n')
    assert answer.startswith("HTTP/1.1 200")
    assert "[2.5]" in answer


def test_an_input_named_twice_in_a_row_counts_the_first_time(server: Server) -> None:
    body = b'{"instances": [{"x": [1.0], "x": [2.0]}, {"x": [3.0]}]}'
    assert predict(server, body) == (200, [[2.5], [3.0]])


def test_a_low_surrogate_alone_is_taken(server: Server) -> None:
    status, rows = predict(server, strings('"\\udc00"'))
    assert (status, rows[0]["len"]) == (200, 3)
    assert base64.b64decode(rows[0]["image_bytes"]["b64"]) == b"\xed\xb0\x80"


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (b'{"x": [1.0, 18446744073709551615]}', "Unexpected element type in feature: x expecting type: float"),
        (b'{"x": [1.0, {"b64": "!"}]}', "Unexpected element type in feature: x expecting type: float"),
        (b'{"x": [1, 18446744073709551615]}', "Feature: x has uint64_t element. Only int64_t is supported."),
        (b'{"x": [{"b64": "!"}]}', "Unable to base64 decode"),
    ],
)
def test_the_kind_of_a_feature_comes_before_its_value(server: Server, example: bytes, message: str) -> None:
    body = b'{"signature_name": "regress_x_to_y", "examples": [%s]}' % example
    status, answer = ask(server, "POST", f"{HALF_PLUS_TWO}:regress", body)
    assert (status, error(answer)) == (400, message)


def test_names_that_are_no_text_are_none_that_a_model_knows(server: Server) -> None:
    body = b'{"signature_name": "regress_x_to_y", "examples": [{"x\\u0000y": 1.0, "\xff": 2.0}]}'
    status, answer = ask(server, "POST", f"{HALF_PLUS_TWO}:regress", body)
    assert (status, json.loads(answer)) == (200, {"results": [2.5]})
    body = b'{"signature_name": "\xff", "examples": [{"x": 1.0}]}'
    status, answer = ask(server, "POST", f"{HALF_PLUS_TWO}:regress", body)
    assert (status, error(answer)) == (400, "No signature was found with the name: \udcff")
    assert ask(server, "POST", "/v1/models/nope:regress", body)[0] == 404


@pytest.mark.parametrize(
    ("text", "fine"), [("aGVsbG8.", True), ("aGVsbA=.", True), ("aGVsbA.", False), ("aGVs.", False)]
)
def test_a_dot_will_do_as_padding(server: Server, text: str, fine: bool) -> None:
    assert (predict(server, strings(f'{{"b64": "{text}"}}'))[0] == 200) == fine


@pytest.mark.parametrize("end", [b"1]}", b"?"])
def test_a_long_text_holds_up_no_other_request(server: Server, end: bytes) -> None:
    body = b'{"instances": [' + b"1e1," * 400_000 + end
    with ThreadPoolExecutor(1) as caller:
        asked = caller.submit(ask, server, "POST", f"{HALF_PLUS_TWO}:predict", body)
        others = 0
        while not asked.done():
            assert ask(server, "GET", "/healthz") == (200, b"alive\n")
            others += 1
        asked.result()
    assert others > 5
