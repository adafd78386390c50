"""The command `glyph`, as somebody types it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sysconfig
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from glyph_client import _codec, cli
from glyph_client.protos import serving_pb2 as pb

from tests.client.peers import Conversation
from tests.client.stand_ins import refused

GLYPH = Path(sysconfig.get_path("scripts")) / "glyph"
SAMPLES = sorted((Path(__file__).resolve().parents[2] / "client" / "samples").glob("*.png"))


PROBABILITIES = np.eye(10, dtype=np.float32)[[7]]
DIGIT = pb.PredictResponse(
    outputs={"label": _codec.encode(np.array(["7"])), "probabilities": _codec.encode(PROBABILITIES)}
).SerializeToString()


def glyph(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [str(GLYPH), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_predict_prints_a_table_with_the_truth(server: Any, protocol: str) -> None:
    done = glyph("predict", *SAMPLES, "--truth", "--server", getattr(server, protocol))
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr, len(lines)) == (0, "", 14)
    assert lines[0].split() == ["picture", "answer", "confidence", "truth"]
    seven = next(line for line in lines if "7.0.png" in line).split()
    assert (seven[1], seven[-1]) == ("7", "7")
    assert "█" in seven[2]
    assert lines[-1].endswith("%)")
    assert " of 12 right (" in lines[-1]


def test_predict_prints_json_lines_for_programs(server: Any) -> None:
    done = glyph("predict", SAMPLES[0], "--json", "--top", "3", "--server", server.grpc)
    line = json.loads(done.stdout)
    assert (line["label"], line["model"], line["version"], len(line["top"])) == ("0", "digits", 1, 3)


def test_predict_reads_standard_input(server: Any) -> None:
    with SAMPLES[0].open("rb") as picture:
        done = glyph("predict", "-", "--server-side", "--server", server.grpc, stdin=picture)
    assert done.stdout.splitlines()[1].split()[:3] == ["standard", "input", "0"]


def test_a_bad_picture_is_one_line_and_its_own_exit_code(server: Any, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    done = glyph("predict", tmp_path / "text.png", SAMPLES[0], "--json", "--truth", "--server", server.grpc)
    assert done.returncode == 3
    assert done.stderr.startswith(f"glyph: error: {tmp_path}/text.png: no image")
    assert len(done.stderr.splitlines()) == 1
    bad, good, last = map(json.loads, done.stdout.splitlines())
    assert "no image" in bad["error"]
    assert (good["label"], good["truth"]) == ("0", "0")
    assert last == {"right": 1, "known": 1, "accuracy": 1.0}


def test_progress_is_shown_on_a_terminal_where_the_answers_go_elsewhere(server: Any, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "zero.png").write_bytes(SAMPLES[0].read_bytes())
    terminal, end = os.openpty()
    command = [GLYPH, "predict", tmp_path / "text.png", tmp_path / "zero.png", "--truth", "--server", server.grpc]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=end, text=True, timeout=60, check=False)
    shown = os.read(terminal, 10_000).decode()
    os.close(end)
    os.close(terminal)
    assert done.returncode == 3
    assert shown.endswith("2/2\r\n")
    assert "text.png: no image" in shown
    assert done.stdout.splitlines()[1].split()[-1] == "?"
    assert done.stdout.splitlines()[-1] == "no file name tells the truth: they would look like 7.0001.png"


def test_a_reader_that_has_gone_is_no_failure(server: Any) -> None:
    command = [GLYPH, "models", "--server", server.grpc]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


def test_failures_have_their_exit_codes(server: Any, free_ports: Any, tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    for arguments, code, words in [
        (["status", "--server", nobody, "--timeout", "1"], 4, "UNAVAILABLE"),
        (["status", "--server", server.grpc, "--model", "nope"], 5, "NOT_FOUND"),
        (
            ["predict", SAMPLES[0], "--server-side", "--server", server.rest, "--model", "half_plus_two"],
            5,
            "image_bytes",
        ),
        (["status", "--server", "nohost"], 2, "no address of a server"),
        (["predict", "x.png", "--top", "0"], 2, "--top is a number from 1. Received: 0"),
        (["watch", tmp_path / "none"], 2, "none: No such file or directory. Give a folder"),
        (["status", "--version", "9" * 20], 2, "a version is a number of 64 bits. Received: 99999"),
        (["status", "--model", os.fsdecode(b"\xff")], 2, r"Received: '\udcff'"),
        (
            ["bench", "--batch", "1000000000"],
            2,
            "--batch is at most 2739137, as a message is 2 GiB. Received: 1000000000",
        ),
        (["nonsense"], 2, "invalid choice"),
    ]:
        done = glyph(*arguments)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("redirection", "arguments", "code", "words"),
    [
        (">&-", ["status"], 6, "glyph: error: standard output is closed"),
        ("2>&-", ["status"], 0, "AVAILABLE"),
        ("2>&-", ["status", "--model", "nope"], 5, ""),
        ("2>/dev/full", ["status", "--model", "nope"], 5, ""),
        (">/dev/full", ["status"], 6, "glyph: error: the answers cannot be written to standard output: No space left"),
        (">/dev/full", ["predict", SAMPLES[0]], 6, "No space left"),
        ("<&-", ["predict", "-"], 3, "glyph: error: standard input: bytes: no image"),
        ("0>/dev/null", ["predict", "-"], 3, "glyph: error: standard input: bytes: no image"),
        ("<&- >&- 2>&-", ["predict", "-"], 6, ""),
    ],
)
def test_what_cannot_be_read_or_written_is_one_line(
    server: Any, redirection: str, arguments: list[Any], code: int, words: str
) -> None:
    command = ["sh", "-c", f'exec "$0" "$@" {redirection}', GLYPH, *arguments, "--server", server.grpc]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) <= 1
    assert "error" not in done.stdout


def test_names_that_the_output_has_no_letters_for_are_spelled(server: Any, tmp_path: Path) -> None:
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    for name, spelled, environment in [
        (os.fsdecode(b"\xff.png"), r"\udcff.png", os.environ),
        ("é.png", r"\xe9.png", ascii_only),
    ]:
        (tmp_path / name).write_bytes(SAMPLES[0].read_bytes())
        done = glyph("predict", tmp_path / name, "--server", server.grpc, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[1].split()[:2] == [f"{tmp_path}/{spelled}", "0"]


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_time_is_limited_to_what_can_be_waited_for(server: Any, protocol: str) -> None:
    assert glyph("status", "--timeout", "2e6", "--server", getattr(server, protocol)).returncode == 0
    for seconds in ("inf", "1e10", "nan", "0"):
        done = glyph("status", "--timeout", seconds, "--server", getattr(server, protocol))
        assert done.returncode == 2
        assert re.fullmatch(
            r"glyph: error: timeout is seconds above 0, 2,000,000 at most\. Received: .+\.\n", done.stderr
        )


def test_the_command_can_be_run_from_python(server: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert cli.main(["status", "--server", server.grpc]) == 0
    assert "AVAILABLE" in printed.getvalue()


def test_status_and_models_are_shown(server: Any) -> None:
    assert glyph("status", "--server", server.grpc).stdout == "digits  version 1  AVAILABLE\n"
    status = json.loads(glyph("status", "--server", server.rest, "--json").stdout)
    assert status == {"model": "digits", "version": 1, "state": "AVAILABLE"}
    shown = glyph("models", "--server", server.grpc).stdout
    assert "serving_default  (image: uint8 [N, 28, 28, 1]) -> (label: string [N]" in shown
    model = json.loads(glyph("models", "digits", "--json", "--server", server.rest).stdout)
    assert model["signatures"]["image_bytes"]["inputs"] == {"image_bytes": "string [N]"}


def test_bench_measures(server: Any) -> None:
    options = ("--requests", 20, "--concurrency", 2, "--batch", 4, "--server", server.grpc)
    assert "images/s" in glyph("bench", *options).stdout
    measured = json.loads(glyph("bench", *options, "--json").stdout)
    assert measured["images_per_second"] == pytest.approx(4 * measured["requests_per_second"])
    assert 0 < measured["p50_ms"] <= measured["p99_ms"]


@pytest.mark.usefixtures("interruptible")
def test_predict_ends_at_once_when_it_is_interrupted(peer: Any) -> None:
    arrived = threading.Event()

    def silent(conversation: Conversation) -> None:
        conversation.request()
        arrived.set()
        while conversation.receive():
            pass

    command = [GLYPH, "predict", *SAMPLES, "--timeout", "30", "--server", peer(silent).target]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert arrived.wait(20)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, "glyph: interrupted\n")


def test_watch_answers_for_pictures_that_appear(server: Any, start: Any, tmp_path: Path) -> None:
    with start([GLYPH, "watch", tmp_path, "--json", "--server", server.grpc]) as process:
        (tmp_path / SAMPLES[0].name).write_bytes(SAMPLES[0].read_bytes())
        assert json.loads(process.wait_for(SAMPLES[0].name))["label"] == "0"
        (tmp_path / SAMPLES[1].name).write_bytes(SAMPLES[1].read_bytes())
        process.wait_for(SAMPLES[1].name)
        assert process.end(signal.SIGINT) == 130


def test_watch_answers_again_for_what_has_changed(server: Any, start: Any, tmp_path: Path) -> None:
    zero, one = (path.read_bytes() for path in SAMPLES[:2])
    picture = tmp_path / "picture.png"
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    picture.write_bytes(zero[:60])
    with start([GLYPH, "watch", tmp_path, "--json", "--server", server.grpc]) as process:
        assert "damaged" in json.loads(process.wait_for('"error"'))["error"]
        with picture.open("ab") as file:
            file.write(zero[60:])
        assert json.loads(process.wait_for('"label"'))["label"] == "0"
        picture.write_bytes(one)
        assert json.loads(process.wait_for('"label"'))["label"] == "1"
        picture.unlink()
        (tmp_path / "last.png").write_bytes(zero)
        process.wait_for("last.png")
        assert process.end(signal.SIGINT) == 130
    assert process.log.count('"label"') == 3


def test_watch_waits_for_a_server_that_is_away(grpc_stub: Any, start: Any, tmp_path: Path) -> None:
    def away_at_first(method: str, message: bytes, context: grpc.ServicerContext) -> bytes:
        return refused(method, message, context) if len(stub.asked) < 8 else DIGIT

    stub = grpc_stub(away_at_first)
    (tmp_path / "zero.png").write_bytes(SAMPLES[0].read_bytes())
    with start([GLYPH, "watch", tmp_path, "--timeout", "0.3", "--server", stub.target]) as process:
        assert process.wait_for("zero.png").split()[1] == "7"
        assert process.end(signal.SIGINT) == 130
    assert process.log.count("glyph: error: ") == 1
    assert "shutting down" in process.log


def test_watch_ends_though_the_exception_of_an_interruption_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted_in_a_destructor(_: float) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(time, "sleep", interrupted_in_a_destructor)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert cli.main(["watch", str(tmp_path)]) == cli.INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_server_may_come_from_the_environment(server: Any, clean_environment: dict[str, str]) -> None:
    done = glyph("status", env=clean_environment | {"GLYPH_SERVER": server.rest})
    assert done.stdout.startswith("digits")
