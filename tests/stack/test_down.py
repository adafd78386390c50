"""Going down loses nothing: neither what is in flight, nor models, keys and certificates."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
from glyph_client import _wire
from glyph_client._types import ModelSpec, PredictRequest, PredictResponse

from tests.stack.engine import (
    COMPOSE,
    REPOSITORY,
    SAMPLES,
    UP_WITHIN,
    Gateway,
    execute,
    inspect,
    metric,
    output,
    published_at,
    wait_until,
)

DOWN_WITHIN = 15.0  # seconds
PICTURE = SAMPLES[0].read_bytes()
OPERATIONS = (REPOSITORY / "docs/operations.md").read_text()


def over_rest(gateway: Gateway, key: str, finish: threading.Event) -> None:
    """A prediction of which the second half is sent when it is time to finish; fails if there is no answer."""
    instance = {"image_bytes": {"b64": base64.b64encode(PICTURE).decode()}}
    body = json.dumps({"signature_name": "image_bytes", "instances": [instance]}).encode()
    head = (
        f"POST /v1/models/digits:predict HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\nContent-Length: {len(body)}"
    )
    with gateway.connect() as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + body[:100])
        finish.wait(30)
        connection.sendall(body[100:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")


def over_grpc(gateway: Gateway, key: str, finish: threading.Event) -> None:
    """The same: a request whose headers are sent now, and whose message is sent when it is time to finish."""
    request = PredictRequest(ModelSpec("digits", signature="image_bytes"), {"image_bytes": np.array([PICTURE], object)})

    def messages() -> Iterator[bytes]:
        finish.wait(30)
        yield _wire.encode(request)

    credentials = grpc.ssl_channel_credentials(gateway.ca.read_bytes())
    with grpc.secure_channel(gateway.tls, credentials) as channel:
        call: Any = channel.stream_unary("/tensorflow.serving.PredictionService/Predict")
        answer = cast(
            "PredictResponse", _wire.decode(request, call(messages(), metadata=(("x-api-key", key),), timeout=60))
        )
    assert answer.outputs["label"].tolist() == [b"0"]


def takes_connections(gateway: Gateway) -> bool:
    with contextlib.suppress(OSError), gateway.connect():
        return True
    return False


def in_flight() -> float:
    return metric(execute("gateway", "wget", "-qO-", "http://127.0.0.1:9180/metrics"), "caddy_http_requests_in_flight")


def test_down_answers_what_is_in_flight_and_takes_less_than_15_seconds(gateway: Gateway) -> None:
    finish = threading.Event()
    asks = [over_rest, over_grpc] * 4
    with ThreadPoolExecutor(len(asks)) as pool:
        try:
            asked = [pool.submit(ask, gateway, gateway.client_key, finish) for ask in asks]
            wait_until("all requests are in flight", lambda: in_flight() >= len(asked))
            began = time.monotonic()
            down = subprocess.Popen([COMPOSE, "--ansi=never", "down"], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
            wait_until("the gateway takes no more connections", lambda: not takes_connections(gateway), DOWN_WITHIN)
        finally:
            finish.set()
        for future in asked:
            future.result(30)
        assert down.wait(60) == 0
        assert time.monotonic() - began < DOWN_WITHIN
    assert output("ps", "--all", "--quiet") == ""


@pytest.fixture(scope="module")
def again(start: Callable[..., AbstractContextManager[Any]]) -> Iterator[Any]:
    """The terminal in which the stack is started once more."""
    with start([COMPOSE, "--ansi=never", "up"], cwd=REPOSITORY) as running:
        running.wait_for("client-1 exited with code", timeout=UP_WITHIN)
        yield running


def test_down_and_up_again_keeps_models_keys_and_certificates(gateway: Gateway, again: Any, tmp_path: Path) -> None:
    assert sorted(execute("serving", "ls", "/models/digits").split()) == ["1", "2"]
    assert execute("gateway", "cat", "/access/ca.crt") == gateway.ca.read_text().strip()
    tls, plain = published_at()
    same = replace(gateway, tls=tls, plain=plain)
    with same.client(gateway.client_key) as client:
        assert client.predict(SAMPLES[0]).version == 1
    with same.connect() as connection:
        assert ssl.cert_time_to_seconds(connection.getpeercert()["notAfter"]) > time.time()  # type: ignore[index, arg-type]


def test_ctrl_c_stops_the_stack_in_order(again: Any) -> None:
    """In order: each service ends on SIGTERM by itself and is not killed after its grace period (status 137)."""
    again.end(signal.SIGINT)
    assert output("ps", "--quiet") == ""
    for service in ("serving", "gateway"):
        assert inspect(service)[0]["State"]["ExitCode"] in (0, 143)


def test_a_copy_of_models_and_keys_can_be_put_back(gateway: Gateway, again: Any, tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", OPERATIONS, re.M | re.S)
    save, restore = (block for block in blocks if "models.tar" in block)
    for commands in (save, f"{COMPOSE} --profile '*' down --volumes", restore):
        script = commands.replace("docker compose", COMPOSE).replace("../", f"{tmp_path}/")
        subprocess.run(["bash", "-euc", script], cwd=REPOSITORY, check=True, timeout=UP_WITHIN)
    output("up", "--detach", "--wait", "gateway")
    assert sorted(execute("serving", "ls", "/models/digits").split()) == ["1", "2"]
    assert execute("gateway", "cat", "/access/ca.crt") == gateway.ca.read_text().strip()
    tls, plain = published_at()
    with replace(gateway, tls=tls, plain=plain).client(gateway.client_key) as client:
        assert client.predict(SAMPLES[0]).version == 1
    # The key of the stack's own client was in a volume that nobody has copied: it has got another one.
    assert "Over REST" in output("run", "--rm", "client")
