"""README.md tells the truth: each command and code block in it runs, in the order in which a reader meets them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
BLOCKS: list[tuple[str, str]] = re.findall(
    r"^```(\w+)\n(.*?)^```$", (REPOSITORY / "README.md").read_text(), re.M | re.S
)

# What this file cannot run, and the file that does: this very run, and the containers in a real Docker Engine.
RUN_BY = {"make test": ".ci/run", "docker compose up --build": "tests/stack/conftest.py"}
# What must stand in the output of a block that is run here; a line of the block tells which.
PROOF = {
    "glyph predict": "7.0.png",
    "from glyph_client": "7.0.png 7",
    "curl -s localhost:8501/v1/models/digits\n": '"state": "AVAILABLE"',
    "image_bytes": '"label": "7"',
}


@dataclass(frozen=True)
class Reader:
    """Somebody who follows README.md in a clone, with the server of `make serve` running in another terminal."""

    clone: Path
    environment: dict[str, str]
    ports: tuple[int, int]

    def run(self, language: str, code: str) -> subprocess.CompletedProcess[str]:
        """Run a block as it stands, but for the ports: others may be using the usual ones on this machine."""
        for usual, port in zip(("8500", "8501"), self.ports, strict=True):
            code = code.replace(usual, str(port))
        program = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[language]
        return subprocess.run(
            [*program, code], cwd=self.clone, env=self.environment, capture_output=True, text=True, timeout=280
        )


@pytest.fixture(scope="module")
def demo(reader: Reader) -> subprocess.CompletedProcess[str]:
    return reader.run("sh", "make demo")


@pytest.fixture(scope="module")
def reader(clone: Path, free_ports: Callable[[int], list[int]], clean_environment: dict[str, str]) -> Reader:
    grpc, rest = free_ports(2)
    ports = {"GRPC_PORT": str(grpc), "REST_PORT": str(rest), "GLYPH_SERVER": f"localhost:{grpc}"}
    return Reader(clone, clean_environment | ports, (grpc, rest))


@pytest.fixture(scope="module")
def served(
    reader: Reader,
    demo: subprocess.CompletedProcess[str],
    start: Callable[..., AbstractContextManager[Any]],
) -> Iterator[Reader]:
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert ("sh", "make serve\n") in BLOCKS
    with start(["make", "serve"], cwd=reader.clone, env=reader.environment) as server:
        server.wait_for("glyph-serve: ready")
        yield reader


def test_the_demo_goes_the_whole_way(demo: subprocess.CompletedProcess[str]) -> None:
    assert ("sh", "make demo\n") in BLOCKS
    assert demo.returncode == 0, demo.stdout + demo.stderr
    for part in (
        "35,754",
        "12,000",
        "10,000",
        "localhost:",
        "http://localhost:",
        "p99",
        "the server has stopped",
        "Done in",
    ):
        assert part in demo.stdout


def test_the_demo_publishes_a_version_as_good_as_the_deck(demo: subprocess.CompletedProcess[str], clone: Path) -> None:
    assert demo.returncode == 0, demo.stdout + demo.stderr
    metrics = json.loads((clone / "build/models/digits/1/assets.extra/metrics.json").read_text())
    assert metrics["held_out"]["images"] == 12_000
    assert metrics["held_out"]["accuracy"] >= 0.9838
    assert metrics["official_test"]["images"] == 10_000


@pytest.mark.parametrize("command", RUN_BY)
def test_a_command_that_is_run_elsewhere_is_run_there(command: str) -> None:
    assert ("sh", f"{command}\n") in BLOCKS
    assert command in (REPOSITORY / RUN_BY[command]).read_text()


@pytest.mark.parametrize("mark", PROOF)
def test_a_block_runs(mark: str, served: Reader) -> None:
    [(language, code)] = [block for block in BLOCKS if mark in block[1]]
    done = served.run(language, code)
    assert done.returncode == 0, done.stdout + done.stderr
    assert PROOF[mark] in done.stdout


def test_no_block_is_left_out() -> None:
    run_above = ["make demo\n", "make serve\n", *(f"{command}\n" for command in RUN_BY)]
    assert [code for _, code in BLOCKS if code not in run_above and not any(mark in code for mark in PROOF)] == []
