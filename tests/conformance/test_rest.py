"""Every recorded REST exchange of the genuine server, replayed."""

import base64
import http.client
import json
import re
import socket
from typing import Any

import pytest

from tests.conformance.compare import same_json
from tests.conformance.conftest import recordings
from tests.conftest import Server


def image(height: int, width: int, pixel: list[Any]) -> list[Any]:
    return [[pixel] * width] * height


# Bodies that were recorded by size and beginning only.
BODIES: dict[str, Any] = {
    "digits zeros": {"instances": [image(28, 28, [0.0])]},
    "gzip accepted large": {"instances": [[float(i)] for i in range(1000)]},
    "digits wrong shape 27": {"instances": [image(28, 27, [0.0])]},
    "digits 3 channels": {"instances": [image(28, 28, [0.0] * 3)]},
    "digits wrong input name": {"inputs": {"img": [image(28, 28, [0.0])]}},
    "digits strings": {"instances": [image(28, 28, ["0"])]},
}


def body_of(case: dict[str, Any]) -> bytes:
    if note := case.get("body_note"):
        body = json.dumps(BODIES[case["name"]]).encode()
        match = re.match(r"(\d+) bytes", note)
        assert match is not None
        assert len(body) == int(match.group(1))
        return body
    text: str = case.get("body", "")
    return base64.b64decode(text) if case.get("body_encoding") == "base64" else text.encode()


def address(server: Server) -> tuple[str, int]:
    host, _, port = server.rest.removeprefix("http://").partition(":")
    return host, int(port)


def ask(server: Server, case: dict[str, Any]) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(server.rest.removeprefix("http://"), timeout=30)
    try:
        chunked = case["request_headers"].get("Transfer-Encoding") == "chunked"
        body: Any = body_of(case) if case["method"] in ("POST", "PUT", "PATCH") else None
        connection.request(
            case["method"],
            case["path"],
            body=iter([body]) if chunked else body,
            headers=case["request_headers"],
            encode_chunked=chunked,
        )
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


# Envoy refuses the first two with 400, as RFC 9112 asks, where libevent lets them pass; and takes the third, a version
# of HTTP that does not exist, for HTTP/1.0.
REFUSED = {"GET /v1/models/digits#frag", "no host http/1.1", "bad version"}
EXCHANGES = [case for case in recordings("rest") if case["group"] != "raw" and case["name"] not in REFUSED]
RAW = [case for case in recordings("rest") if case["group"] == "raw" and case["name"] not in REFUSED]


@pytest.mark.parametrize("case", EXCHANGES, ids=lambda case: f"{case['group']}: {case['name']}")
def test_answers_as_recorded(servers: dict[str, Server], case: dict[str, Any]) -> None:
    server = servers["plain" if "ONEDNN" in case["group"] else "default"]
    response, body = ask(server, case)
    if case.get("server_process_died"):
        assert response.status == 400
        assert b"must have shape [?,28,28,1]" in body
        return
    assert response.status == case["status"]
    recorded_type = next((value for name, value in case["response_headers"] if name == "Content-Type"), None)
    assert response.headers["Content-Type"] == recorded_type
    recorded = case["response_body"]
    if "[cut]" in recorded:
        if case["name"].endswith("metadata"):
            assert b'"signature_def"' in body
        elif case["name"] == "metrics POST":
            assert body.startswith(b"# TYPE :")
        else:
            assert len(json.loads(body)["predictions"]) == 1000
    elif recorded_type == "application/json" and recorded:
        expected = base64.b64decode(recorded) if case["response_encoding"] == "base64" else recorded.encode()
        assert same_json(body, expected), body.decode(errors="replace")
    elif case["method"] != "HEAD":
        assert body.decode() == recorded


@pytest.mark.parametrize("case", RAW, ids=lambda case: str(case["name"]))
def test_answers_raw_requests_as_recorded(servers: dict[str, Server], case: dict[str, Any]) -> None:
    head, _, recorded_body = case["raw_response"].partition("\r\n\r\n")
    with socket.create_connection(address(servers["default"]), timeout=30) as connection:
        connection.sendall(case["raw_request"].encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        body = response.read()
        assert f"{response.status}" == head.split()[1]
        if '"' in recorded_body:
            assert response.headers["Content-Type"] == "application/json"
            assert same_json(body, recorded_body.encode())
        if case["closed_by_server"]:
            assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "head",
    ["GET /v1/models/digits#frag HTTP/1.1\r\nHost: x", "GET /v1/models/digits HTTP/1.1"],
    ids=["fragment", "no host"],
)
def test_refuses_what_http_forbids(servers: dict[str, Server], head: str) -> None:
    with socket.create_connection(address(servers["default"]), timeout=30) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 400


def test_an_unknown_version_of_http_counts_as_1_0(servers: dict[str, Server]) -> None:
    with socket.create_connection(address(servers["default"]), timeout=30) as connection:
        connection.sendall(b"GET /v1/models/digits HTTP/9.9\r\nHost: x\r\n\r\n")
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 200
        response.read()
        assert connection.recv(1) == b""  # as after any answer in 1.0
