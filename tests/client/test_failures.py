"""What the client does when servers are slow, full, dying or gone."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from glyph_client import (
    AccessDenied,
    AsyncClient,
    AsyncMockTransport,
    CallError,
    Client,
    ClientClosed,
    DeadlineExceeded,
    InputError,
    InvalidRequest,
    MetadataRequest,
    MetadataResponse,
    MockTransport,
    ModelSpec,
    Overloaded,
    PictureError,
    PredictRequest,
    PredictResponse,
    Request,
    Response,
    Retry,
    ServerFault,
    Signature,
    StatusResponse,
    TensorSpec,
    Unavailable,
    VersionStatus,
    call_error,
)
from glyph_client import _retry as retries

from tests.client.stand_ins import AVAILABLE, FAST, REST_STATUS, STATUS, Failing, answered, refused, status_at


def status_of(handler: Callable[[Request], Response], *, asynchronous: bool = False, **options: Any) -> Any:
    if not asynchronous:
        with Client(transport=MockTransport(handler), **{"retry": FAST, **options}) as client:
            return client.status()

    async def ask() -> Any:
        async with AsyncClient(transport=AsyncMockTransport(handler), **{"retry": FAST, **options}) as client:
            return await client.status()

    return asyncio.run(ask())


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
def test_what_may_pass_is_tried_again(code: Any, asynchronous: bool) -> None:
    failing = Failing(call_error(code, "not now"), call_error(code, "not yet"))
    assert status_of(failing, asynchronous=asynchronous) == AVAILABLE


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", InvalidRequest),
        ("DEADLINE_EXCEEDED", DeadlineExceeded),
        ("PERMISSION_DENIED", AccessDenied),
        ("INTERNAL", ServerFault),
    ],
)
def test_what_will_not_pass_is_not_tried_again(code: Any, kind: type[CallError]) -> None:
    with pytest.raises(kind) as error:
        status_of(Failing(call_error(code, "no")))
    assert (error.value.code, error.value.server_message, error.value.attempts) == (code, "no", 1)
    assert (error.value.model, error.value.target) == ("digits", "mock")


def test_attempts_end_and_the_last_error_tells_how_many_there_were() -> None:
    with pytest.raises(Overloaded, match=r"RESOURCE_EXHAUSTED: full \(model digits, at mock, 3 attempts\). Send less"):
        status_of(Failing(*[call_error("RESOURCE_EXHAUSTED", "full")] * 9), retry=Retry(3, 0.001, 0.001))


def test_no_wait_goes_beyond_the_deadline() -> None:
    start = time.monotonic()
    with pytest.raises(Unavailable) as error:
        status_of(Failing(call_error("UNAVAILABLE", "busy", retry_after=30.0)), timeout=0.5)
    assert error.value.attempts == 1
    assert time.monotonic() - start < 5


def test_a_spent_budget_ends_retries_and_success_refills_it() -> None:
    failing = Failing(*[call_error("UNAVAILABLE", "down")] * 3)
    with Client(transport=MockTransport(failing), retry=Retry(9, 0.001, 0.001, budget=1.05)) as client:
        with pytest.raises(Unavailable) as error:
            client.status()
        assert error.value.attempts == 2
        with pytest.raises(Unavailable):
            client.status()
        for _ in range(10):
            client.status()
        failing.errors = [call_error("UNAVAILABLE", "down")]
        assert client.status() == AVAILABLE


def test_the_wait_doubles_up_to_the_longest_and_is_drawn() -> None:
    retry, error = Retry(initial=0.1, longest=0.5), call_error("UNAVAILABLE", "")
    for failures, longest in [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.5), (9, 0.5)]:
        waits = [retry.wait(failures, error) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest


def test_the_servers_wish_to_wait_is_granted(grpc_stub: Any, rest_stub: Any) -> None:
    def full(method: str, message: bytes, context: grpc.ServicerContext) -> bytes:
        if len(over_grpc.asked) < 4:
            headers = {1: ("retry-after", "0.01"), 2: ("grpc-retry-pushback-ms", "10"), 3: ("retry-after", "soon")}
            context.set_trailing_metadata((("x-queue", "9"), headers[len(over_grpc.asked)]))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return STATUS

    def busy(path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        after = {1: "0.01", 2: "Wed, 21 Oct 2015 07:28:00 GMT"}.get(len(over_rest.asked))
        return (429, b"busy", {"Retry-After": after}) if after else (200, REST_STATUS, {})

    over_grpc, over_rest = grpc_stub(full), rest_stub(busy)
    for stub, asked in ((over_grpc, 4), (over_rest, 3)):
        with Client(stub.target, retry=FAST) as client:
            assert client.status() == AVAILABLE
        assert len(stub.asked) == asked


@pytest.mark.parametrize("wish", ["nan", "-5", "inf", "1e400", "soon", ""])
def test_a_wish_to_wait_that_cannot_be_granted_counts_as_none(grpc_stub: Any, rest_stub: Any, wish: str) -> None:
    def full(method: str, message: bytes, context: grpc.ServicerContext) -> bytes:
        if len(over_grpc.asked) == 1:
            context.set_trailing_metadata((("retry-after", wish),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return STATUS

    def busy(path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        return (429, b"busy", {"Retry-After": wish}) if len(over_rest.asked) == 1 else (200, REST_STATUS, {})

    over_grpc, over_rest = grpc_stub(full), rest_stub(busy)
    for stub in (over_grpc, over_rest):
        assert status_at(stub.target, asynchronous=False, retry=FAST) == AVAILABLE
        assert len(stub.asked) == 2


@pytest.mark.parametrize("pushback", ["-1", "nan", "never"])
def test_a_server_that_wants_no_further_attempt_gets_none(grpc_stub: Any, pushback: str) -> None:
    def full(method: str, message: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "full")

    one, other = grpc_stub(full), grpc_stub(answered)
    with pytest.raises(Unavailable, match="full") as error:
        status_at(f"{one.target},{other.target}", asynchronous=False, retry=FAST)
    assert error.value.retry_after == math.inf
    assert (len(one.asked), len(other.asked)) == (1, 0)


def test_another_target_takes_over_at_once_and_keeps_the_work(grpc_stub: Any) -> None:
    dying, living = grpc_stub(refused), grpc_stub(answered)
    with Client([dying.target, living.target], retry=Retry(initial=60, longest=60)) as client:
        for _ in range(3):
            assert client.status() == AVAILABLE
    assert (len(dying.asked), len(living.asked)) == (1, 3)


def test_a_target_that_answers_again_is_preferred_again_whatever_it_answers(
    grpc_stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        """Stands in for the time."""

        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock, codes = Clock(), [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT]

    def answers_badly_at_first(method: str, message: bytes, context: grpc.ServicerContext) -> bytes:
        if codes:
            context.abort(codes.pop(0), "no")
        return STATUS

    monkeypatch.setattr(retries, "time", clock)
    preferred, other = grpc_stub(answers_badly_at_first), grpc_stub(answered)
    with Client([preferred.target, other.target]) as client:
        assert client.status() == AVAILABLE
        clock.now += 11
        with pytest.raises(InvalidRequest):
            client.status()
        assert client.status() == AVAILABLE
    assert (len(preferred.asked), len(other.asked)) == (3, 1)


def test_where_all_targets_fail_the_first_is_asked_again(grpc_stub: Any) -> None:
    one, other = grpc_stub(refused), grpc_stub(refused)
    with (
        Client(f"{one.target}, {other.target}", retry=Retry(2, 0.001, 0.001)) as client,
        pytest.raises(Unavailable, match="shutting down") as error,
    ):
        client.status()
    assert error.value.attempts == 4
    assert len(one.asked) == len(other.asked) == 2


def test_predictions_that_nobody_waits_for_are_not_asked_for() -> None:
    arrived, release = threading.Barrier(3), threading.Event()

    def answer(request: Request) -> Response:
        arrived.wait(20)
        release.wait(20)
        raise call_error("INTERNAL", "no")

    mock = MockTransport(answer)
    outcomes = Client(transport=mock).predict_many(["none.png", *3 * [np.eye(40)]], batch_size=1, concurrency=2)
    assert isinstance(next(outcomes), PictureError)
    arrived.wait(20)
    threads = [each for each in threading.enumerate() if each.name == "glyph"]
    del outcomes
    release.set()
    for thread in threads:
        thread.join()
    assert len(mock.requests) == 2


def test_predictions_that_nobody_waits_for_do_not_hold_up_the_end() -> None:
    code = """
import threading
import numpy as np
from glyph_client import Client, MockTransport
arrived = threading.Event()
def silent(request):
    arrived.set()
    threading.Event().wait(60)
outcomes = Client(transport=MockTransport(silent)).predict_many(["none.png", *3 * [np.eye(40)]], batch_size=1)
next(outcomes)
arrived.wait()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=15)


@pytest.mark.parametrize("kind", ["grpc", "rest"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_silence_ends_at_the_deadline(grpc_stub: Any, rest_stub: Any, kind: str, asynchronous: bool) -> None:
    release = threading.Event()

    def silent(*_: Any) -> Any:
        release.wait(20)
        return STATUS if kind == "grpc" else (200, REST_STATUS, {})

    target = (grpc_stub if kind == "grpc" else rest_stub)(silent).target

    with pytest.raises(DeadlineExceeded, match="Give more time"):
        status_at(target, asynchronous=asynchronous, timeout=0.2)
    release.set()


@pytest.mark.parametrize("part", ["headers", "body"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_answer_that_trickles_ends_at_the_deadline(asynchronous: bool, part: str) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Trickle(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if part == "body":
                self.end_headers()
            for _ in range(100):
                try:
                    self.wfile.write(b"x: y\r\n" if part == "headers" else b" ")
                    self.wfile.flush()
                except OSError:
                    return
                if ended.wait(0.05):
                    return

        def log_message(self, *_: Any) -> None:
            pass

    ended = threading.Event()
    server = HTTPServer(("127.0.0.1", 0), Trickle)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    target = f"http://127.0.0.1:{server.server_port}"

    try:
        with pytest.raises(DeadlineExceeded, match="no answer in time"):
            status_at(target, asynchronous=asynchronous, timeout=0.3)
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("scheme", ["", "http://"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_nobody_there_is_unavailable(free_ports: Any, scheme: str, asynchronous: bool) -> None:
    target = f"{scheme}127.0.0.1:{free_ports(1)[0]}"

    with pytest.raises(Unavailable, match="Check that a server runs at that address") as error:
        status_at(target, asynchronous=asynchronous, retry=Retry(1))
    assert isinstance(error.value, ConnectionError)
    assert error.value.target == target


@pytest.mark.parametrize("kind", ["grpc", "rest"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_closed_client_says_so(grpc_stub: Any, rest_stub: Any, kind: str, asynchronous: bool) -> None:
    stub = grpc_stub(answered) if kind == "grpc" else rest_stub(lambda *_: (200, REST_STATUS, {}))

    with pytest.raises(ClientClosed, match=r"CANCELLED: the client was closed.*Close it once all calls"):
        status_at(stub.target, asynchronous=asynchronous, closed=True)


def test_an_asynchronous_client_says_that_it_belongs_to_another_event_loop(grpc_stub: Any) -> None:
    client = AsyncClient(grpc_stub(answered).target)
    with asyncio.Runner() as its_own:
        assert its_own.run(client.status()) == AVAILABLE
        for call in (client.status, client.close):
            with pytest.raises(InputError, match="belongs to the event loop that it was first used in"):
                asyncio.run(call())
        assert its_own.run(client.status()) == AVAILABLE
        its_own.run(client.close())


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (502, b"<html>Bad Gateway</html>", Unavailable, "HTTP status 502 <html>Bad Gateway"),
        (418, b"", ServerFault, "UNKNOWN: HTTP status 418"),
        (200, b"not JSON", ServerFault, "the server's answer is not understood"),
        (200, b"[]", ServerFault, "not understood"),
        (200, b'{"model_version_status": [{}]}', ServerFault, "not understood"),
        (200, b'{"model_version_status": [{"version": 1e999, "state": "END"}]}', ServerFault, "not understood"),
        (200, b"[" * 100_000, ServerFault, "not understood"),
        (500, b"[" * 100_000, ServerFault, r"INTERNAL: HTTP status 500 \[\["),
    ],
)
def test_what_a_proxy_says_is_passed_on(rest_stub: Any, status: int, body: bytes, kind: Any, message: str) -> None:
    target = rest_stub(lambda *_: (status, body, {})).target
    with pytest.raises(kind, match=message):
        status_at(target, asynchronous=False, retry=Retry(1))


def test_states_and_codes_that_rest_does_not_know_yet_are_unknown(rest_stub: Any) -> None:
    body = b'{"model_version_status": [{"version": "1", "state": "NEW", "status": {"error_code": "ODD"}}]}'
    with Client(rest_stub(lambda *_: (200, body, {})).target) as client:
        assert client.status() == [VersionStatus(1, "UNKNOWN", "UNKNOWN")]


def signature(width: int) -> dict[str, Signature]:
    spec = TensorSpec("", "float32", (None, width))
    return {"serving_default": Signature("serving_default", "", {"x": spec}, {"y": spec})}


def test_a_new_versions_signature_is_noticed() -> None:
    width, version = 2, 1

    def answer(request: Request) -> Response:
        spec = ModelSpec("m", version)
        if isinstance(request, MetadataRequest):
            return MetadataResponse(signature(width), spec)
        assert isinstance(request, PredictRequest)
        if np.shape(request.inputs["x"])[1] != width:
            raise call_error("INVALID_ARGUMENT", "wrong width")
        return PredictResponse({"y": request.inputs["x"]}, spec)

    mock = MockTransport(answer)
    client = Client(transport=mock, model="m")
    client.call({"x": [[1.0, 2.0]]})
    client.call({"x": [[1.0, 2.0]]})
    assert [type(each).__name__ for each in mock.requests] == ["MetadataRequest", "PredictRequest", "PredictRequest"]
    width, version = 3, 2
    client.call({"x": [[1.0, 2.0, 3.0]]})
    width, version = 4, 3
    with pytest.raises(InvalidRequest, match="wrong width"):
        client.call({"x": [[1.0, 2.0, 3.0]]})
    width, version = 3, 4
    client.call({"x": [[1.0, 2.0, 3.0]]})
    version = 5
    client.call({"x": [[1.0, 2.0, 3.0]]})
    assert isinstance(mock.requests[-1], PredictRequest)
    client.call({"x": [[1.0, 2.0, 3.0]]})
    assert isinstance(mock.requests[-2], MetadataRequest)


LABEL, PROBABILITIES = np.array([b"7"], object), np.eye(10, dtype=np.float32)[[7]]


@pytest.mark.parametrize(
    ("outputs", "received"),
    [
        ({"y": np.zeros(1, np.float32)}, r"\{'y': 'float32 \[1\]'\} for N = 1"),
        ({"label": LABEL}, r"\{'label': 'object \[1\]'\}"),
        ({"label": np.array([7]), "probabilities": PROBABILITIES}, r"'label': 'int64 \[1\]'"),
        ({"label": LABEL[:0], "probabilities": PROBABILITIES}, r"'label': 'object \[0\]'"),
        ({"label": LABEL, "probabilities": PROBABILITIES[0]}, r"'probabilities': 'float32 \[10\]'"),
        ({"label": LABEL, "probabilities": PROBABILITIES[:, :0]}, r"'probabilities': 'float32 \[1, 0\]'"),
        ({"label": LABEL, "probabilities": np.repeat(PROBABILITIES, 2, 0)}, r"'probabilities': 'float32 \[2, 10\]'"),
        ({"label": LABEL, "probabilities": np.array([[b"x"]], object)}, r"'probabilities': 'object \[1, 1\]'"),
    ],
)
def test_a_model_that_does_not_read_digits_is_told_apart(outputs: dict[str, Any], received: str) -> None:
    answer = MockTransport(lambda _: PredictResponse(outputs, ModelSpec("m", 1)))
    with pytest.raises(InputError, match=f"model digits is none that predict can ask: .*Received: .*{received}"):
        Client(transport=answer).predict(np.eye(40))


def test_what_a_wait_has_seen_last_is_more_than_that_its_time_was_up() -> None:
    failing = Failing(call_error("NOT_FOUND", "no model yet"), *[call_error("DEADLINE_EXCEEDED", "too late")] * 99)
    with Client(transport=MockTransport(failing)) as client:
        with pytest.raises(DeadlineExceeded, match="last seen: NOT_FOUND: no model yet"):
            client.wait_until_available(0.2)
        with pytest.raises(DeadlineExceeded, match="last seen: DEADLINE_EXCEEDED: too late"):
            client.wait_until_available(0.1)


def test_a_model_that_is_loading_is_waited_for() -> None:
    states = iter(["LOADING", "LOADING", "AVAILABLE"])
    loading = MockTransport(lambda _: StatusResponse([VersionStatus(1, next(states))]))  # type: ignore[arg-type]
    assert Client(transport=loading).wait_until_available(30)[0].state == "AVAILABLE"
    never = MockTransport(lambda _: StatusResponse([VersionStatus(1, "END", "INTERNAL", "broken file")]))
    with pytest.raises(DeadlineExceeded, match="last seen: version 1 END broken file"):
        Client(transport=never).wait_until_available(0.1)
    assert Client(transport=never).models()[0].signatures == {}


def test_who_may_not_ask_for_the_status_hears_of_it_at_once() -> None:
    refusing = Failing(call_error("PERMISSION_DENIED", "an operator's key is needed"))
    with pytest.raises(AccessDenied, match="an operator's key is needed"):
        Client(transport=MockTransport(refusing)).wait_until_available(30)


def test_who_waits_for_a_closed_client_hears_of_it_at_once(grpc_stub: Any) -> None:
    client = Client(grpc_stub(answered).target)
    client.close()
    with pytest.raises(ClientClosed):
        client.wait_until_available(30)


@pytest.mark.parametrize("hedge_after", [None, 30.0])
def test_a_call_is_answered_where_no_thread_can_be_started(
    grpc_stub: Any, hedge_after: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the program's end."""
    target, caller, start = grpc_stub(answered).target, threading.current_thread(), threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if threading.current_thread() is caller:
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert status_at(target, asynchronous=False, hedge_after=hedge_after) == AVAILABLE
