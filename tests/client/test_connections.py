"""The way to a server: addresses, certificates, secrets, parameters, sizes, and whoever watches."""

from __future__ import annotations

import gzip
import io
import re
import socket
import ssl
import threading
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from glyph_client import (
    TLS,
    AsyncClient,
    CallError,
    Client,
    InputError,
    MockTransport,
    Retry,
    StatusResponse,
    TargetError,
    Unavailable,
    opentelemetry,
)
from glyph_client._transports import split_targets
from glyph_client.protos import serving_pb2 as pb
from PIL import Image

from tests.client.peers import answers_in_json, ask, listening
from tests.client.stand_ins import AVAILABLE, FAST, REST_STATUS, STATUS, Failing, answered, refused, status_at
from tests.conftest import Certificates


@pytest.mark.parametrize(
    "target",
    [
        "",
        "nohost",
        "ftp://a:1",
        "grpc://a",
        ":8500",
        "a:b",
        "dns:///name",
        "dns://1.1.1.1/a:1",
        "a:1/b",
        "http://",
        "a:0",
        "http://a:0",
        "http://a:1?b=c",
        "http://a:1/b#c",
        "http://a\0b:1",
        "http://a:1/\ud800",
        "a:8500,,b:1",
        [],
    ],
)
def test_an_address_that_cannot_be_used_is_told_what_they_look_like(target: Any) -> None:
    with pytest.raises(TargetError, match=r"no address of a server.*Received: .*Give host:port"):
        Client(target)


def test_addresses_of_every_kind_are_taken() -> None:
    targets = "a:1,grpc://a:1,grpcs://a:1,http://a,https://a:2,dns:///a:1,[::1]:8500"
    taken = split_targets(targets)
    assert [each.text for each in taken] == targets.split(",")
    assert [each.scheme for each in taken] == ["grpc", "grpc", "grpcs", "http", "https", "dns", "grpc"]
    assert [(each.host, each.port) for each in taken] == [("a", 1)] * 3 + [("a", 0), ("a", 2), ("a", 1), ("::1", 8500)]


@pytest.mark.parametrize("target", ["http://[fe80::1%lo]:1/a", "http://[fe80::1%25lo]:1/a"])
def test_a_zone_is_for_this_machine_alone(target: str) -> None:
    (taken,) = split_targets(target)
    assert (taken.host, taken.server_name, taken.authority) == ("fe80::1%lo", "fe80::1", "[fe80::1]:1")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_login_is_in_no_message(asynchronous: bool) -> None:
    for target in ("me:s3cret@a:1", "grpcs://me:s3cret@a:1", "http://me:s3cret@a:99999"):
        with pytest.raises(TargetError, match=r"Received: '(http://|grpcs://|)a:\d+'"):
            status_at(target, asynchronous=asynchronous)
    with pytest.raises(Unavailable, match=r"at http://127\.0\.0\.1:1/a@b\)"):
        status_at("http://me:s3cret@127.0.0.1:1/a@b", asynchronous=asynchronous, retry=Retry(1))


def test_grpc_takes_no_login() -> None:
    with pytest.raises(TargetError, match="gRPC has api_key, token and headers"):
        Client("me:s3cret@a:1")


def test_a_name_of_other_letters_is_written_in_ascii() -> None:
    (taken,) = split_targets("http://bücher.example:8501")
    assert taken.authority == "xn--bcher-kva.example:8501"


def test_secrets_and_headers_travel_with_every_request(grpc_stub: Any, rest_stub: Any) -> None:
    for stub in (grpc_stub(answered), rest_stub(lambda *_: (200, REST_STATUS, {}))):
        with Client(stub.target, api_key="k", token="t", headers={"X-Team": "a"}) as client:
            client.status()
        headers = stub.asked[0][2]
        assert (headers["x-api-key"], headers["authorization"], headers["x-team"]) == ("k", "Bearer t", "a")


def test_a_user_agent_of_the_users_own_takes_the_others_place(grpc_stub: Any, rest_stub: Any) -> None:
    for stub in (grpc_stub(answered), rest_stub(lambda *_: (200, REST_STATUS, {}))):
        for headers in ({}, {"User-Agent": "mine"}):
            status_at(stub.target, asynchronous=False, headers=headers)
        assert [asked[2]["user-agent"].split(",")[0] for asked in stub.asked] == ["glyph-client", "mine"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_tls_is_checked_both_ways(grpc_stub: Any, certificates: Any, asynchronous: bool) -> None:
    pair = (certificates.key.read_bytes(), certificates.certificate.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], certificates.authority.read_bytes(), require_client_auth=True)
    stub = grpc_stub(answered, credentials)
    mutual = TLS(certificates.authority, certificates.certificate, certificates.key)

    def run(tls: TLS | None) -> Any:
        return status_at(stub.target, asynchronous=asynchronous, tls=tls, retry=Retry(1))

    assert run(mutual) == AVAILABLE
    for tls in (None, TLS(certificates.authority)):
        with pytest.raises(Unavailable):
            run(tls)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_what_tls_misses_is_said_with_what_to_do(certificates: Certificates, scheme: str, asynchronous: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)

    def shakes_hands(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(65_536)

    trusting = TLS(certificates.authority)
    with listening(shakes_hands) as address:
        port = address.partition(":")[2]
        for host, tls, remedy in [
            ("localhost", None, r"name the authority to trust, TLS\(ca=\.\.\.\)"),
            ("127.1", trusting, "give a name that the certificate has"),
        ]:
            (error,) = ask(f"{scheme}://{host}:{port}", asynchronous=asynchronous, tls=tls)
            assert re.search(rf"UNAVAILABLE: no connection: .*certificate verify failed: .*; {remedy}", str(error))
    with listening(answers_in_json) as address:
        (error,) = ask(f"{scheme}://{address}", asynchronous=asynchronous, tls=trusting)
    assert "; if the server has no TLS, give http:// or grpc://" in str(error)


def test_a_server_that_asks_for_a_certificate_is_told_apart(certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    context.load_verify_locations(certificates.authority)
    context.verify_mode = ssl.CERT_REQUIRED

    def refuses(connection: socket.socket) -> None:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(connection, server_side=True)
        while connection.recv(65_536):
            pass

    with listening(refuses) as address:
        (error,) = ask(f"https://{address}", asynchronous=False, tls=TLS(certificates.authority))
    assert "; give the client's, TLS(certificate=..., key=...)" in str(error)


def test_https_is_checked_both_ways(certificates: Any) -> None:
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(REST_STATUS)))
            self.end_headers()
            self.wfile.write(REST_STATUS)

        def log_message(self, *_: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    context.load_verify_locations(certificates.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    target = f"https://localhost:{server.server_port}"
    mutual = TLS(certificates.authority, certificates.certificate, certificates.key)
    try:
        with Client(target, tls=mutual) as client:
            assert client.status() == AVAILABLE
        with Client(target, retry=Retry(1)) as client, pytest.raises(Unavailable, match="certificate"):
            client.status()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_a_certificate_that_is_not_there_is_named(scheme: str) -> None:
    with pytest.raises(TargetError, match=r"missing\.pem|cannot be read"):
        Client(f"{scheme}://localhost:1", tls=TLS("missing.pem"))


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, r"^timeout is seconds above 0, 2,000,000 at most. Received: 0\.$"),
        ({"timeout": float("nan")}, "timeout is seconds above 0.*Received: nan"),
        ({"timeout": None}, "timeout is seconds above 0.*Received: None"),
        ({"hedge_after": -1.0}, "hedge_after is seconds above 0.*Received: -1"),
        ({"hedge_after": float("inf")}, "hedge_after is seconds above 0.*Received: inf"),
        ({"version": 1, "label": "stable"}, "by version or by label, not by both. Received: 1 and 'stable'"),
        ({"headers": {"x team": "a"}}, "a header's name is letters, digits, - and _. Received: 'x team'"),
        (
            {"headers": {"x-team": "é"}},
            "a header's value is printable ASCII without spaces around it. Received: something else for 'x-team'",
        ),
        ({"headers": {"x-team": "a "}}, "a header's value is printable ASCII without spaces around it. Received"),
        (
            {"headers": {"Content-Length": "5"}},
            "a header that the protocol itself needs .*: 'Content-Length'. Leave it",
        ),
        (
            {"token": "secret\n"},
            "a header's value is printable ASCII without .* Received: something else for 'authorization'",
        ),
    ],
)
def test_a_parameter_that_cannot_be_is_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        kind(**options)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf"), 1e300, "5"])
def test_a_time_that_cannot_be_waited_for_is_refused(timeout: Any) -> None:
    mock = MockTransport(Failing())
    with Client(transport=mock) as client:
        for ask in (
            client.status,
            lambda timeout: client.predict_many([], timeout=timeout),
            client.wait_until_available,
        ):
            with pytest.raises(InputError, match=r"^timeout is seconds above 0") as error:
                ask(timeout=timeout)
            assert str(error.value).endswith(f"Received: {timeout}.")
    assert not mock.requests


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("name", ["batch_size", "concurrency"])
def test_a_number_of_pictures_is_from_one(kind: Any, name: str) -> None:
    mock: Any = MockTransport(Failing())
    with pytest.raises(InputError, match=f"^{name} is a number from 1. Received: 0"):
        kind(transport=mock).predict_many([], **{name: 0})


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("picture", ["7.png", Path("7.png"), b"\x89PNG", io.BytesIO(), Image.new("L", (28, 28))])
def test_one_picture_is_not_many(kind: Any, picture: Any) -> None:
    mock: Any = MockTransport(Failing())
    with pytest.raises(InputError, match=r"predict_many takes a list of pictures. Received: one, .*Give \[picture\]"):
        kind(transport=mock).predict_many(picture)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_answer_may_be_larger_than_four_megabytes(grpc_stub: Any, asynchronous: bool) -> None:
    status = pb.StatusProto(error_message="m" * 5_000_000)
    answer = pb.GetModelStatusResponse(model_version_status=[pb.ModelVersionStatus(version=3, status=status)])
    stub = grpc_stub(lambda *_: answer.SerializeToString())
    (version,) = status_at(stub.target, asynchronous=asynchronous, timeout=60)
    assert len(version.error_message) == 5_000_000


def test_what_is_compressed_is_sent_smaller(rest_stub: Any) -> None:
    stub = rest_stub(lambda *_: (200, b'{"results": [1.5]}', {}))
    with Client(stub.target, compression=True) as client:
        assert client.regress([{"x": "a" * 10_000}]).tolist() == [1.5]
    ((_, body, headers),) = stub.asked
    assert headers["content-encoding"] == "gzip"
    assert len(body) < 200
    assert len(gzip.decompress(body)) > 10_000


def test_interceptors_surround_each_attempt_and_may_add_headers(grpc_stub: Any) -> None:
    seen: list[Any] = []

    @contextmanager
    def interceptor(attempt: Any) -> Any:
        attempt.headers["x-attempt"] = str(attempt.number)
        try:
            yield
        except CallError as error:
            seen.append(error.code)
            raise
        seen.append(attempt.response)

    def once(method: str, message: bytes, context: grpc.ServicerContext) -> bytes:
        return refused(method, message, context) if len(stub.asked) == 1 else STATUS

    stub = grpc_stub(once)
    with Client(stub.target, interceptors=[interceptor], retry=FAST) as client:
        client.status()
    assert seen == ["UNAVAILABLE", StatusResponse(AVAILABLE)]
    assert [headers["x-attempt"] for _, _, headers in stub.asked] == ["1", "2"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_interceptor_that_swallows_an_error_answers_itself(free_ports: Any, asynchronous: bool) -> None:
    @contextmanager
    def interceptor(attempt: Any) -> Any:
        with suppress(CallError):
            yield
        attempt.response = own

    for own in (StatusResponse(AVAILABLE), None):
        expected = (
            pytest.raises(InputError, match="interceptor has swallowed an error") if own is None else nullcontext()
        )
        with expected:
            target = f"127.0.0.1:{free_ports(1)[0]}"
            assert status_at(target, asynchronous=asynchronous, interceptors=[interceptor]) == AVAILABLE


@pytest.mark.parametrize("kind", ["grpc", "rest"])
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("header", [("x-team", "☃"), ("x-team", "a\nb"), ("x team", "a"), ("te", "gzip")])
def test_a_header_of_an_interceptor_that_cannot_be_sent_is_refused(
    grpc_stub: Any, rest_stub: Any, kind: str, header: tuple[str, str], asynchronous: bool
) -> None:
    seen: list[Any] = []

    @contextmanager
    def witness(attempt: Any) -> Any:
        try:
            yield
        except InputError as error:
            seen.append(error)
            raise

    @contextmanager
    def interceptor(attempt: Any) -> Any:
        attempt.headers.update([header])
        yield

    stub = grpc_stub(answered) if kind == "grpc" else rest_stub(lambda *_: (200, REST_STATUS, {}))
    with pytest.raises(InputError, match="a header") as error:
        status_at(stub.target, asynchronous=asynchronous, interceptors=[witness, interceptor])
    assert seen == [error.value]
    assert stub.asked == []


def test_opentelemetry_gets_a_span_for_each_attempt_and_the_server_is_told_of_it(grpc_stub: Any) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    def once(method: str, message: bytes, context: grpc.ServicerContext) -> bytes:
        return refused(method, message, context) if len(stub.asked) == 1 else STATUS

    stub = grpc_stub(once)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with Client(stub.target, interceptors=[opentelemetry(provider)], retry=FAST) as client:
        client.status()
    first, second = exporter.get_finished_spans()
    for number, span in enumerate((first, second), 1):
        assert (span.name, span.kind.name) == ("glyph Status", "CLIENT")
        assert span.attributes == {"server.address": stub.target, "glyph.model": "digits", "glyph.attempt": number}
    assert (first.status.status_code.name, second.status.status_code.name) == ("ERROR", "UNSET")
    told = [headers["traceparent"].split("-")[1:3] for _, _, headers in stub.asked]
    assert told == [[f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"] for span in (first, second)]
