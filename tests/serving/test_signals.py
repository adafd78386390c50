"""Signals at any moment: while workers start, while a reload takes its time, and while an answer is on its way."""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.conftest import BIN, Server, Started, find_free_ports, running_server
from tests.serving.conftest import RECORDED_MODELS, ask
from tests.serving.test_workers import wait_until, workers_of

HALF_PLUS_TWO = ["--model_name=half_plus_two", f"--model_base_path={RECORDED_MODELS / 'half_plus_two'}"]


def serving(*flags: str) -> tuple[list[object], str]:
    """A command, and where it will answer over REST."""
    grpc, rest = find_free_ports(2)
    ports = [f"--port={grpc}", f"--rest_api_port={rest}"]
    return [BIN / "glyph-serve", "--address=127.0.0.1", *ports, *flags], f"http://127.0.0.1:{rest}"


def with_workers() -> list[object]:
    return serving("--workers=2", *HALF_PLUS_TWO)[0]


def put(config: Path, version: int) -> None:
    """Puts a list of one version of one model in a file's place."""
    written = config.with_name("next")
    written.write_text(
        f'model_config_list {{ config {{ name: "half_plus_two" base_path: "{RECORDED_MODELS / "half_plus_two"}" '
        f'model_platform: "tensorflow" model_version_policy {{ specific {{ versions: {version} }} }} }} }}'
    )
    written.rename(config)


def serves(server: Server, version: int) -> bool:
    return ask(server, f"/v1/models/half_plus_two/versions/{version}:predict", {"instances": [[1.0]]})[0] == 200


def envoys(running: Started) -> list[int]:
    """The processes that have become servers: workers, or the one process."""
    main = running.process.pid
    return [process for process in (main, *workers_of(main)) if b"--config-yaml" in command_of(process)]


def command_of(process: int) -> bytes:
    with contextlib.suppress(OSError):  # it has ended
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


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


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_before_there_is_a_server_has_it_read_the_list_of_models_again(
    start: Callable[..., AbstractContextManager[Started]], tmp_path: Path, workers: int
) -> None:
    config = tmp_path / "models.config"
    put(config, 1)
    command, rest = serving(f"--workers={workers}", f"--model_config_file={config}")
    with start(command) as running:
        wait_until(lambda: envoys(running) != [])
        put(config, 2)
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("glyph-serve: ready")
        wait_until(lambda: all(serves(Server(running, "", rest), 2) for _ in range(16)))  # either worker may answer


def test_the_list_as_it_is_now_is_read_last_and_sigterm_waits_for_no_list(tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    put(config, 1)
    with running_server(f"--model_config_file={config}") as server:
        with being_read(config, server) as pipe:
            put(config, 2)
            server.running.process.send_signal(signal.SIGHUP)
            assert serves(server, 1)
            pipe.write(b"model_config_list { }")
        wait_until(lambda: serves(server, 2))
        with being_read(config, server):
            assert server.running.end() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_sigusr1_opens_the_access_log_anew_and_ends_nothing_that_starts(
    start: Callable[..., AbstractContextManager[Started]], tmp_path: Path, workers: int
) -> None:
    log = tmp_path / "access.log"
    command, rest = serving(f"--workers={workers}", f"--access_log_file={log}", *HALF_PLUS_TWO)
    with start(command) as running:
        server = Server(running, "", rest)
        wait_until(lambda: envoys(running) != [])
        running.process.send_signal(signal.SIGUSR1)
        running.wait_for("glyph-serve: ready")
        log.rename(log.with_name("old.log"))

        def all_write_there() -> bool:  # each from its next request on
            running.process.send_signal(signal.SIGUSR1)  # again, to one that was not there yet: others answered for it
            return serves(server, 3) and all(log in opened_by(envoy) for envoy in envoys(running))

        wait_until(all_write_there)
        assert running.end() == 0
    assert {json.loads(line)["status"] for line in log.read_text().splitlines()} == {200}


def opened_by(process: int) -> Iterator[Path]:
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since
            yield descriptor.readlink()


@contextlib.contextmanager
def being_read(config: Path, server: Server) -> Iterator[BinaryIO]:
    """Has the server reload a pipe in a file's place, which it will go on reading until the context is left."""
    config.unlink()
    os.mkfifo(config)
    opened: list[int] = []

    def is_read() -> bool:
        with contextlib.suppress(OSError):  # nobody reads it yet
            opened.append(os.open(config, os.O_WRONLY | os.O_NONBLOCK))
        return opened != []

    server.running.process.send_signal(signal.SIGHUP)
    wait_until(is_read)
    with open(opened[0], "wb") as pipe:  # noqa: PTH123 (by its descriptor)
        yield pipe


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
