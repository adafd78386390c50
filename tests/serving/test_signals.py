"""Signals at any moment: while workers start, and while an answer is on its way."""

import json
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from tests.conftest import BIN, Started, find_free_ports, running_server
from tests.serving.conftest import RECORDED_MODELS
from tests.serving.test_workers import wait_until, workers_of

HALF_PLUS_TWO = ["--model_name=half_plus_two", f"--model_base_path={RECORDED_MODELS / 'half_plus_two'}"]


def with_workers() -> list[object]:
    grpc, rest = find_free_ports(2)
    ports = [f"--port={grpc}", f"--rest_api_port={rest}"]
    return [BIN / "glyph-serve", "--workers=2", "--address=127.0.0.1", *ports, *HALF_PLUS_TWO]


def test_sigterm_while_workers_start_ends_them_all(start: Callable[..., AbstractContextManager[Started]]) -> None:
    with start(with_workers()) as running:
        wait_until(lambda: workers_of(running.process.pid) != [])
        running.process.send_signal(signal.SIGTERM)
        assert running.ended(20) == 0


def test_sighup_while_workers_start_ends_none(start: Callable[..., AbstractContextManager[Started]]) -> None:
    with start(with_workers()) as running:
        wait_until(lambda: workers_of(running.process.pid) != [])
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("glyph-serve: ready")
        assert len(workers_of(running.process.pid)) == 2


def test_sigterm_waits_for_an_answer_to_be_sent_and_leaves_no_socket_behind(tmp_path: Path) -> None:
    log, at = tmp_path / "access.log", tmp_path / "grpc.sock"
    body = json.dumps({"instances": [[1.0]] * 400_000}).encode()
    head = f"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with running_server(*HALF_PLUS_TWO, f"--access_log_file={log}", f"--grpc_socket_path={at}") as server:
        assert at.is_socket()
        host, port = server.rest.removeprefix("http://").split(":")
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
            connection.connect((host, int(port)))
            connection.sendall(head + body)
            answer = connection.recv(1000)
            server.running.process.send_signal(signal.SIGTERM)
            time.sleep(1)  # longer than any server would wait that does not look whether its answers have arrived
            while piece := connection.recv(1_000_000):
                answer += piece
        assert server.running.ended(20) == 0
    answered_head, _, answered = answer.partition(b"\r\n\r\n")
    assert f"content-length: {len(answered)}".encode() in answered_head
    assert len(json.loads(answered)["predictions"]) == 400_000
    (entry,) = map(json.loads, log.read_text().splitlines())
    assert (entry["status"], entry["bytes_sent"]) == (200, len(answered))
    assert not at.exists()
