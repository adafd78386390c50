"""Who is let in: over both protocols, with which key, to what; and what the gateway keeps to itself."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from glyph_client import AccessDenied, CallError, Client, ModelConfig, Retry

from tests.stack.engine import SAMPLES, Gateway, compose, execute, inspect, output

PREDICT = {"signature_name": "image_bytes", "instances": []}
REST_OF_CLIENTS = [
    ("POST", "/v1/models/digits:predict"),
    ("POST", "/v1/models/digits/versions/1:predict"),
    ("POST", "/v1/models/digits/labels/stable:predict"),
    ("POST", "/v1/models/digits:classify"),
    ("POST", "/v1/models/digits:regress"),
    ("GET", "/v1/models/digits/metadata"),
]
REST_OF_OPERATORS = [
    ("GET", "/v1/models/digits"),
    ("GET", "/v1/models/digits/versions/1"),
    ("GET", "/monitoring/prometheus/metrics"),
]
GRPC_OF_CLIENTS: dict[str, Callable[[Client], object]] = {
    "Predict": lambda client: client.predict(SAMPLES[0]),
    "Classify": lambda client: client.classify([{"image/encoded": SAMPLES[0].read_bytes()}], signature="classify"),
    "GetModelMetadata": lambda client: client.metadata(),
}
GRPC_OF_OPERATORS: dict[str, Callable[[Client], object]] = {
    "GetModelStatus": lambda client: client.status(),
    "HandleReloadConfigRequest": lambda client: client.reload_config([ModelConfig("digits", "/models/digits")]),
}
ONCE = Retry(attempts=1)


@pytest.fixture(scope="module")
def revoked(gateway: Gateway) -> str:
    """A key that was good until it was revoked."""
    key = execute("gateway", "keys", "add", "operator", "gone")
    with gateway.client(key, ONCE) as client:
        client.status()
    execute("gateway", "keys", "revoke", "gone")
    return key


@pytest.fixture(params=["none", "empty", "made up", "almost", "revoked"])
def bad_key(request: pytest.FixtureRequest, gateway: Gateway, revoked: str) -> str | None:
    almost = gateway.operator_key[:-1] + ("a" if gateway.operator_key[-1] != "a" else "b")
    return {"none": None, "empty": "", "made up": "x" * 60, "almost": almost, "revoked": revoked}[request.param]


def headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"x-api-key": key}


def test_every_rest_route_refuses_a_bad_key(gateway: Gateway, bad_key: str | None) -> None:
    for method, path in [*REST_OF_CLIENTS, *REST_OF_OPERATORS, ("GET", "/"), ("GET", "/healthz"), ("PUT", "/v1/x")]:
        status, answer = gateway.ask(method, path, PREDICT, headers(bad_key))
        assert (status, answer["error"][:16]) == (401, "no valid API key")


def test_every_grpc_method_refuses_a_bad_key(gateway: Gateway, bad_key: str | None) -> None:
    with gateway.client(bad_key, ONCE) as client:
        for call in [*GRPC_OF_CLIENTS.values(), *GRPC_OF_OPERATORS.values()]:
            with pytest.raises(AccessDenied, match="UNAUTHENTICATED: no valid API key: send one as x-api-key"):
                call(client)


@pytest.mark.parametrize("header", ["x-api-key", "bearer"])
def test_a_key_is_taken_from_either_header(gateway: Gateway, header: str) -> None:
    named = {"bearer": {"authorization": f"Bearer {gateway.operator_key}"}, "x-api-key": headers(gateway.operator_key)}
    assert gateway.ask("GET", "/v1/models/digits", headers=named[header])[0] == 200


def test_a_clients_key_opens_what_is_for_clients(gateway: Gateway) -> None:
    for method, path in REST_OF_CLIENTS:
        status, _ = gateway.ask(method, path, PREDICT, headers(gateway.client_key))
        assert status in (200, 400)  # 400: the model server itself found no instances
    with gateway.client(gateway.client_key) as client:
        for call in GRPC_OF_CLIENTS.values():
            call(client)


def test_a_clients_key_does_not_open_what_is_for_operators(gateway: Gateway) -> None:
    for method, path in REST_OF_OPERATORS:
        assert gateway.ask(method, path, headers=headers(gateway.client_key))[0] == 403
    with gateway.client(gateway.client_key, ONCE) as client:
        for call in GRPC_OF_OPERATORS.values():
            with pytest.raises(AccessDenied, match="PERMISSION_DENIED: this takes an operator's API key"):
                call(client)


def test_an_operators_key_opens_all(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/v1/models/digits", headers=headers(gateway.operator_key))[0] == 200
    with gateway.client(gateway.operator_key) as client:
        for call in [*GRPC_OF_CLIENTS.values(), *GRPC_OF_OPERATORS.values()]:
            call(client)


def test_what_there_is_not_is_said(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/nothing", headers=headers(gateway.operator_key)) == (404, {"error": "no such method"})


def test_without_tls_the_same_keys_are_asked_for(gateway: Gateway) -> None:
    for protocol in ("http", "grpc"):
        with pytest.raises(AccessDenied), Client(f"{protocol}://{gateway.plain}", retry=ONCE) as client:
            client.predict(SAMPLES[0])
        with Client(f"{protocol}://{gateway.plain}", api_key=gateway.client_key) as client:
            assert client.predict(SAMPLES[0]).label == "0"


def test_a_stranger_does_not_trust_the_gateways_own_ca(gateway: Gateway) -> None:
    with pytest.raises(CallError), Client(f"https://{gateway.tls}", api_key=gateway.client_key, retry=ONCE) as client:
        client.predict(SAMPLES[0])


def test_keys_are_neither_kept_nor_logged(gateway: Gateway, revoked: str) -> None:
    logs = output("logs", "--no-log-prefix")
    kept = execute("gateway", "cat", "/gateway/keys")
    for key in (gateway.client_key, gateway.operator_key, revoked):
        assert key not in logs
        assert key not in kept
    asked = [json.loads(line) for line in logs.splitlines() if '"handled request"' in line]
    assert {entry.get("key") for entry in asked} >= {"stack", "tester", "chief", "gone"}
    assert execute("gateway", "stat", "--format=%a %u", "/gateway/keys") == "600 10001"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "client", "Anna B"], "a name is made of a-z, 0-9 and -, a letter first. Received: Anna B"),
        (["add", "client", "anna\nbob"], "a name is made of a-z, 0-9 and -, a letter first. Received: anna\nbob"),
        (["add", "client", "tester"], "there is a key of the name tester: revoke it first, or take another name"),
        (["add", "owner", "anna"], "usage: keys add client NAME"),
        (["revoke", "nobody"], "there is no key of the name nobody"),
        (["revoke", "test.*"], "a name is made of a-z, 0-9 and -, a letter first. Received: test.*"),
        (["revoke", "tester\nchief"], "a name is made of a-z, 0-9 and -, a letter first. Received: tester\nchief"),
    ],
)
def test_keys_are_not_mistaken(gateway: Gateway, arguments: list[str], message: str) -> None:
    before = execute("gateway", "keys", "list")
    done = compose("exec", "--no-TTY", "gateway", "keys", *arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert execute("gateway", "keys", "list") == before


@pytest.fixture
def kept(gateway: Gateway) -> Iterator[str]:
    """What the gateway keeps of the keys, which is in force again after the test."""
    before = execute("gateway", "cat", "/gateway/keys")
    yield before
    execute("gateway", "sh", "-c", 'printf "%s\\n" "$1" > /gateway/keys', "sh", before)
    execute("gateway", "caddy", "reload", "--config=/etc/caddy/Caddyfile", "--address=unix//tmp/admin.sock")


def is_good(gateway: Gateway, key: str) -> bool:
    return gateway.ask("GET", "/v1/models/digits/metadata", headers=headers(key))[0] == 200


def test_changes_that_are_made_at_once_are_all_made(gateway: Gateway, kept: str) -> None:
    names = [f"many-{i}" for i in range(6)]
    with ThreadPoolExecutor(len(names)) as pool:
        keys = list(pool.map(lambda name: execute("gateway", "keys", "add", "client", name), names))
        assert all(is_good(gateway, key) for key in keys)
        list(pool.map(lambda name: execute("gateway", "keys", "revoke", name), names))
    assert not any(is_good(gateway, key) for key in keys)
    assert execute("gateway", "cat", "/gateway/keys") == kept


@pytest.mark.parametrize("name", ["key", "stranger", "infinity", "inf", "nan"])
def test_a_name_that_means_something_to_caddy_or_awk_is_a_name(gateway: Gateway, kept: str, name: str) -> None:
    """Names of the Caddyfile's matchers, and numbers that are the same or not even themselves."""
    other = execute("gateway", "keys", "add", "client", "infinity" if name == "inf" else "other")
    key = execute("gateway", "keys", "add", "client", name)
    assert is_good(gateway, key)
    execute("gateway", "keys", "revoke", name)
    assert [is_good(gateway, each) for each in (key, other)] == [False, True]


@pytest.mark.parametrize("end", ["", "\r\n"], ids=["no end of the last line", "ends of lines as on Windows"])
def test_a_file_of_keys_that_somebody_edited_is_understood(gateway: Gateway, kept: str, end: str) -> None:
    edited = kept.replace("\n", end or "\n") + end
    execute("gateway", "sh", "-c", 'printf %s "$1" > /gateway/keys', "sh", edited)
    key = execute("gateway", "keys", "add", "client", "late")
    assert is_good(gateway, key)
    assert is_good(gateway, gateway.operator_key)
    execute("gateway", "keys", "revoke", "late")
    assert not is_good(gateway, key)
    assert is_good(gateway, gateway.operator_key)


def test_a_change_that_the_gateway_does_not_take_changes_nothing(gateway: Gateway, kept: str) -> None:
    execute("gateway", "sh", "-c", "echo nonsense >> /gateway/keys")
    for change in (["add", "client", "late"], ["revoke", "tester"]):
        done = compose("exec", "--no-TTY", "gateway", "keys", *change)
        assert done.returncode != 0
        assert "the gateway does not take this change of /gateway/keys: nothing is changed" in done.stderr
        assert execute("gateway", "cat", "/gateway/keys") == f"{kept}\nnonsense"
        assert is_good(gateway, gateway.client_key)


def test_the_model_server_is_published_nowhere(gateway: Gateway) -> None:
    (serving,) = inspect("serving")
    assert not any(serving["NetworkSettings"]["Ports"].values())
    (edge,) = inspect("gateway")
    published = edge["NetworkSettings"]["Ports"]
    assert {port for port, bindings in published.items() if bindings} == {"443/tcp", "8080/tcp"}
    assert all(b["HostIp"] == "127.0.0.1" for bindings in published.values() for b in bindings or [])


def test_the_model_server_is_out_of_reach_from_another_network(gateway: Gateway) -> None:
    (serving,) = inspect("serving")
    (network,) = serving["NetworkSettings"]["Networks"].values()
    reach = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"
    for port in ("8500", "8501"):
        run = ["docker", "run", "--rm", "--entrypoint=python", serving["Config"]["Image"], "-c", reach]
        done = subprocess.run([*run, network["IPAddress"], port], capture_output=True, text=True, timeout=60)
        assert done.returncode != 0
        assert re.search(r"timed out|unreachable|refused", done.stderr)
