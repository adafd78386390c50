"""What surrounds the answers: TLS, CORS, gzip, limits, logs of requests."""

import contextlib
import gzip
import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

from tests.conftest import Certificates, Server, running_server
from tests.serving.conftest import RECORDED_MODELS
from tests.serving.test_lifecycle import wait_until

PREDICT = "/v1/models/half_plus_two:predict"
MAX_BYTES = 20_000
PAGE = "https://digits.example"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("front")


@pytest.fixture(scope="module")
def server(folder: Path, certificates: Certificates) -> Iterator[Server]:
    def quoted(file: Path) -> str:
        return json.dumps(file.read_text())

    pair = f"server_key: {quoted(certificates.key)} server_cert: {quoted(certificates.certificate)}"
    (folder / "rest.config").write_text(pair)
    (folder / "grpc.config").write_text(f"{pair} custom_ca: {quoted(certificates.authority)} client_verify: true")
    (folder / "models.config").write_text(
        f'model_config_list {{ config {{ name: "half_plus_two" base_path: "{RECORDED_MODELS / "half_plus_two"}" '
        'model_platform: "tensorflow" '
        f'logging_config {{ log_collector_config {{ type: "tfrecord" filename_prefix: "{folder / "requests"}" }} '
        "sampling_config { sampling_rate: 1 } } } }"
    )
    with running_server(
        f"--model_config_file={folder / 'models.config'}",
        f"--ssl_config_file={folder / 'grpc.config'}",
        f"--rest_ssl_config_file={folder / 'rest.config'}",
        "--rest_api_enable_cors_support",
        f"--rest_api_cors_origins=https://other.example, {PAGE}/",
        "--rest_api_enable_gzip",
        f"--max_message_bytes={MAX_BYTES}",
        "--max_concurrent_requests=2",
        "--enable_grpc_healthcheck_service",
        "--rest_api_timeout_in_ms=2000",
        f"--access_log_file={folder / 'access.log'}",
        "--request_log_file_bytes=2000",
        "--request_log_files=3",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def trust(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificates.authority))


def ask(
    server: Server, trust: ssl.SSLContext, body: bytes | None = None, method: str = "POST", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPSConnection(server.rest.removeprefix("http://"), timeout=30, context=trust)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, PREDICT, body, named)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def instances(count: int) -> bytes:
    return json.dumps({"instances": [[1.0]] * count}).encode()


def predict(channel: grpc.Channel, values: list[float], **options: Any) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half_plus_two"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([[value] for value in values], dtype=tf.float32))
    return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30, **options)


@pytest.fixture(scope="module")
def channel(server: Server, certificates: Certificates) -> Iterator[grpc.Channel]:
    credentials = grpc.ssl_channel_credentials(
        certificates.authority.read_bytes(), certificates.key.read_bytes(), certificates.certificate.read_bytes()
    )
    with grpc.secure_channel(server.grpc, credentials) as channel:
        yield channel


def test_rest_speaks_tls(server: Server, trust: ssl.SSLContext) -> None:
    response, body = ask(server, trust, instances(1))
    assert (response.status, json.loads(body)) == (200, {"predictions": [[2.5]]})


def test_grpc_speaks_tls_with_callers_that_have_a_certificate(channel: grpc.Channel) -> None:
    assert predict(channel, [1.0]).model_spec.version.value == 3


def test_grpc_refuses_callers_without_a_certificate(server: Server, certificates: Certificates) -> None:
    credentials = grpc.ssl_channel_credentials(certificates.authority.read_bytes())
    with grpc.secure_channel(server.grpc, credentials) as channel, pytest.raises(grpc.RpcError) as error:
        predict(channel, [1.0])
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_private_keys_are_not_on_the_command_line(server: Server) -> None:
    assert "PRIVATE KEY" not in Path(f"/proc/{server.running.process.pid}/cmdline").read_text()


def test_pages_on_the_list_may_read_answers(server: Server, trust: ssl.SSLContext) -> None:
    response, _ = ask(server, trust, instances(1), origin=PAGE)
    assert response.headers["Access-Control-Allow-Origin"] == PAGE
    response, _ = ask(server, trust, method="OPTIONS", origin=PAGE)
    assert (response.status, response.headers["Access-Control-Allow-Headers"]) == (200, "Content-Type")


def test_pages_that_are_not_on_the_list_may_not(server: Server, trust: ssl.SSLContext) -> None:
    response, _ = ask(server, trust, instances(1), origin="https://evil.example")
    assert response.headers["Access-Control-Allow-Origin"] is None


def test_large_answers_are_zipped_for_those_who_accept_it(server: Server, trust: ssl.SSLContext) -> None:
    response, body = ask(server, trust, instances(500), accept_encoding="gzip")
    assert response.headers["Content-Encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(body))["predictions"]) == 500
    response, _ = ask(server, trust, instances(1), accept_encoding="gzip")
    assert response.headers["Content-Encoding"] is None


def test_zipped_requests_are_read(server: Server, trust: ssl.SSLContext) -> None:
    response, body = ask(server, trust, gzip.compress(instances(3)), content_encoding="gzip")
    assert (response.status, json.loads(body)) == (200, {"predictions": [[2.5]] * 3})


def test_who_zips_a_call_gets_a_zipped_answer(channel: grpc.Channel) -> None:
    response = predict(channel, [1.0] * 1000, compression=grpc.Compression.Gzip)
    assert tf.make_ndarray(response.outputs["y"]).shape == (1000, 1)


def test_a_request_beyond_the_limit_is_refused(server: Server, trust: ssl.SSLContext, channel: grpc.Channel) -> None:
    for count in (3000, 3_000_000):
        response, body = ask(server, trust, instances(count))
        assert response.status == 413
        assert f"vs. {MAX_BYTES}); --max_message_bytes sets the limit" in json.loads(body)["error"]
    with pytest.raises(grpc.RpcError) as error:
        predict(channel, [1.0] * 10_000)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "Received message larger than max" in (error.value.details() or "")


def test_a_small_request_that_unzips_beyond_the_limit_is_refused(
    server: Server, trust: ssl.SSLContext, channel: grpc.Channel
) -> None:
    response, _ = ask(server, trust, gzip.compress(instances(3000)), content_encoding="gzip")
    assert response.status == 413
    with pytest.raises(grpc.RpcError) as error:
        predict(channel, [1.0] * 10_000, compression=grpc.Compression.Gzip)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def unfinished(server: Server, trust: ssl.SSLContext) -> Iterator[list[http.client.HTTPSConnection]]:
    """As many requests as may be made at once, of each of which all but five bytes are still to come."""
    body = instances(1)
    with contextlib.ExitStack() as stack:
        begun = []
        for _ in range(2):
            connection = http.client.HTTPSConnection(server.rest.removeprefix("http://"), timeout=30, context=trust)
            stack.callback(connection.close)
            connection.putrequest("POST", PREDICT)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body[:5])
            begun.append(connection)
        for _ in range(300):
            response, text = ask(server, trust, body)
            if response.status == 429:  # both have been seen by now
                break
        assert "as many as --max_concurrent_requests allows" in json.loads(text)["error"]
        yield begun


def test_more_requests_at_once_than_are_allowed_are_refused(unfinished: list[http.client.HTTPSConnection]) -> None:
    for connection in unfinished:
        connection.send(instances(1)[5:])
        assert connection.getresponse().status == 200


def test_a_body_that_does_not_come_is_not_waited_for(
    server: Server, trust: ssl.SSLContext, unfinished: list[http.client.HTTPSConnection]
) -> None:
    for connection in unfinished:
        response = connection.getresponse()
        late = "The request's body did not come within --rest_api_timeout_in_ms"
        assert (response.status, json.loads(response.read())) == (408, {"error": late})
    assert any(ask(server, trust, instances(1))[0].status == 200 for _ in range(300))  # once the server has heard of it


def test_a_message_of_a_stream_beyond_the_limit_is_refused(channel: grpc.Channel) -> None:
    answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        iter(
            [
                reflection_pb2.ServerReflectionRequest(file_by_filename=size * "a")
                for size in (MAX_BYTES // 2, MAX_BYTES)
            ]
        ),
        timeout=30,
    )
    assert next(answers).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    with pytest.raises(grpc.RpcError, match="Received message larger than max") as error:
        next(answers)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_more_streams_at_once_than_are_allowed_are_refused_and_take_no_place_of_a_request(
    channel: grpc.Channel,
) -> None:
    def watch() -> Any:
        return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)

    watches = [watch(), watch()]
    assert [next(one).status for one in watches] == [1, 1]
    with pytest.raises(grpc.RpcError, match="2 streams are open, as many as --max_concurrent_requests") as error:
        next(watch())
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert predict(channel, [1.0]).model_spec.version.value == 3
    for one in watches:
        one.cancel()
    for _ in range(1000):  # until the server has heard of it
        again = watch()
        with contextlib.suppress(grpc.RpcError):
            assert next(again).status == 1
            again.cancel()
            break
    else:
        pytest.fail("streams that have ended still count")


def test_json_that_is_nested_too_deep_is_refused(server: Server, trust: ssl.SSLContext) -> None:
    response, body = ask(server, trust, b'{"instances": ' + b"[" * 10_010)
    assert (response.status, "Nested deeper than 10000 levels" in json.loads(body)["error"]) == (400, True)


def test_every_request_is_logged_with_its_id(server: Server, trust: ssl.SSLContext, folder: Path) -> None:
    response, _ = ask(server, trust, instances(1), x_request_id="the-one")
    assert response.headers["X-Request-Id"]
    server_log = folder / "access.log"

    def entries() -> list[dict[str, Any]]:
        return [json.loads(line) for line in server_log.read_text().splitlines() if line.endswith("}")]

    for _ in range(300):  # Envoy writes its log every second or so
        found = [entry for entry in entries() if entry["request_id"] == response.headers["X-Request-Id"]]
        if found:
            break
        ask(server, trust, instances(1))
    assert (found[0]["method"], found[0]["path"], found[0]["status"]) == ("POST", PREDICT, 200)


def test_requests_are_logged_as_records_that_a_warm_up_replays(
    server: Server, trust: ssl.SSLContext, channel: grpc.Channel, folder: Path, tmp_path: Path
) -> None:
    for _ in range(20):
        predict(channel, [7.0])
        ask(server, trust, instances(1))

    def oldest_record() -> bytes | None:
        files = sorted(folder.glob("requests-*.tfrecord"))
        assert 1 <= len(files) <= 3 + 1  # one that has just been begun besides
        with contextlib.suppress(tf.errors.NotFoundError):  # gone since, for the last requests are still being written
            found: bytes | None = next(iter(tf.data.TFRecordDataset([str(files[0])]).as_numpy_iterator()), None)
            return found
        return None

    record = next(filter(None, (oldest_record() for _ in range(40))))  # each request begins one file at the most
    log = prediction_log_pb2.PredictionLog.FromString(record)
    asked = tf.make_ndarray(log.predict_log.request.inputs["x"])
    assert tf.make_ndarray(log.predict_log.response.outputs["y"]).tolist() == (asked / 2 + 2).tolist()
    assert log.log_metadata.model_spec.version.value == 3
    assert log.log_metadata.sampling_config.sampling_rate == 1
    wait_until(lambda: len([*folder.glob("requests-*.tfrecord")]) == 3)  # the oldest are gone
