"""Every recorded start of the genuine server, replayed: what it refuses, what it waits for, what it goes on with."""

import re
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import MODELS, recordings
from tests.conftest import BIN, Started, find_free_ports

FILES = {
    "b2.txt": "max_batch_size: 4",
    "b3.txt": "max_batch_size { value: 4 } allowed_batch_sizes: 2",
    "b4.txt": "max_batch_size { value: 4 } allowed_batch_sizes: 4 allowed_batch_sizes: 2 allowed_batch_sizes: 4",
    "m.txt": "foo: 1",
    "m0.txt": "",
    "m1.txt": 'model_config_list { config { name: "a" base_path: "x" model_platform: "tensorflow" } }',
    "m2.txt": 'model_config_list { config { name: "a" base_path: "/x" model_platform: "foo" } }',
    "m3.txt": 'model_config_list { config { name: "a" base_path: "/x" } config { name: "a" base_path: "/y" } }',
    "mo.txt": "foo: 1",
}
CASES = [case for case in recordings("startup") if "argv" in case]
# The genuine server hangs or aborts on these; here they are errors like the others.
CLEAR_ERRORS = {"monitoring file bad", "monitoring file missing", "ssl file missing"}


def break_model(folder: Path, kind: str) -> None:
    """A model folder as the recordings had it."""
    if kind == "nov":
        (folder / "not-a-number").mkdir(parents=True)
    elif kind == "empty":
        (folder / "1").mkdir(parents=True)
    else:
        version = folder / ("2" if kind == "hot" else "1")
        shutil.copytree(MODELS / "digits" / "1", version)
        cut = version / ("variables/variables.data-00000-of-00001" if kind == "trunc" else "saved_model.pb")
        cut.write_bytes(cut.read_bytes()[:100])
        if kind == "hot":
            shutil.copytree(MODELS / "digits" / "1", folder / "1")


@dataclass(frozen=True)
class Start:
    """A glyph-serve started as a case says, and where."""

    running: Started
    folder: Path
    rest_port: int


def launch(case: dict[str, Any], folder: Path) -> Start:
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    kind = case["name"].partition(" ")[0]
    kind = {"newest": "hot"}.get(kind, kind)
    if case["group"] == "broken model":
        break_model(folder / kind, kind)
    (folder / "mm.txt").write_text(
        f'model_config_list {{ config {{ name: "{kind}" base_path: "{folder / kind}" model_platform: "tensorflow" }} '
        f'config {{ name: "digits" base_path: "{MODELS / "digits"}" model_platform: "tensorflow" }} }}'
    )
    labelled = folder / "labelled.config"
    labelled.write_text(
        f'model_config_list {{ config {{ name: "half_plus_two" base_path: "{MODELS}/half_plus_two" '
        'model_platform: "tensorflow" '
        'version_labels { key: "canary" value: 2 } version_labels { key: "stable" value: 1 } } }'
    )
    places = {"$MODELS.config": labelled, "$MODELS": MODELS, "$SCRATCH": folder}
    arguments = [
        re.sub(r"\$MODELS\.config|\$MODELS|\$SCRATCH", lambda match: str(places[match.group()]), argument)
        for argument in case["argv"]
    ]
    grpc, rest = find_free_ports(2)
    ports = {"18510": str(grpc), "18511": str(rest)}
    command = [re.sub(r"(?<==)1851[01]$", lambda match: ports[match.group()], argument) for argument in arguments]
    return Start(Started([BIN / "glyph-serve", "--address=127.0.0.1", *command]), folder, rest)


class Starts:
    """The servers of all cases; while one is looked at, the next ones are starting already."""

    _AHEAD = 2

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[str, Start] = {}

    def __getitem__(self, name: str) -> Start:
        names = [case["name"] for case in CASES]
        for number in range(names.index(name), min(names.index(name) + self._AHEAD + 1, len(CASES))):
            if names[number] not in self._started:
                self._started[names[number]] = launch(CASES[number], self._folder / str(number))
        return self._started[name]

    def end(self) -> None:
        for one in self._started.values():
            one.running.end()


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starts]:
    started = Starts(tmp_path_factory.mktemp("starts"))
    try:
        yield started
    finally:
        started.end()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['group']}: {case['name']}")
def test_starts_as_recorded(starts: Starts, case: dict[str, Any]) -> None:
    server = starts[case["name"]]
    if case["name"] in CLEAR_ERRORS:
        assert server.running.ended() == 255
        assert "glyph-serve: error: " in server.running.log
    elif case.get("exit_code") is not None:
        assert server.running.ended() == case["exit_code"]
        check_words(case, server)
    else:
        check_running(case, server)
    for answer in case.get("answers", []):
        assert "ConnectionRefused" in answer["exception"]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.rest_port))


def check_words(case: dict[str, Any], server: Start) -> None:
    """The sentence that says why it does not start is the recorded one."""
    recorded = "\n".join([case.get("stdout", ""), *case.get("stderr_error_lines", [])])
    if "Failed to start server" not in recorded:
        return
    failures = re.findall(r"Failed to start server\. Error: .*", recorded)
    scratch = str(server.folder)
    ours = re.findall(r"Failed to start server\. Error: .*", server.running.log.replace(scratch, "$SCRATCH"))
    assert len(ours) == len(failures) == 1
    # Ours may go on to say more; and the recorded lists of broken models are cut.
    words = failures[0].split("{{{")[0].rstrip()
    assert ours[0].startswith(words), ours[0]
    for reason in re.findall(r"due to error: ([^}\n]*)", failures[0]):
        assert reason in ours[0]


def check_running(case: dict[str, Any], server: Start) -> None:
    """It goes on, serving or waiting, and ends with 0 when asked to."""
    waits = {"missing base path dir": "does not exist", "nov only, retries": "no versions of model nov"}
    if case["name"] in waits:
        server.running.wait_for(waits[case["name"]])
    elif case["group"] == "broken model":
        server.running.wait_for("failed to load, try 2 of 3")
    else:
        ready = server.running.wait_for("glyph-serve: ready: ")
        assert ("REST" not in ready) == (case["name"] == "same ports")
    if not case.get("answers"):
        assert server.running.end(signal.SIGTERM) == 0
