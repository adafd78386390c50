"""`glyph-load sweep`: the choice, and the file that comes of it."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from glyph_loadtest.result import PERCENTILES, Failure, Summary
from glyph_loadtest.slo import Objective
from glyph_loadtest.sweep import Candidate, batching_config, batching_text, frontier, grid, server_flags, winner

from tests.loadtest.conftest import Outcome

_OBJECTIVE = Objective({99.0: 20.0}, errors=0.001)


def _summary(rate: float, p99: float) -> Summary:
    percentiles = dict.fromkeys(PERCENTILES, p99)
    return Summary(5, round(5 * rate), rate, p99, percentiles, p99, (), 0, 0, 0.1, 0.2, None)


def _candidate(size: str, *p99s: float) -> Candidate:
    rates = [1000.0, 2000.0, 4000.0]
    return Candidate(
        {"max_batch_size": size, "grpc_max_threads": "256"},
        {rate: _summary(rate, p99) for rate, p99 in zip(rates, p99s, strict=True)},
    )


def test_the_grid_has_every_combination_once() -> None:
    found = grid({"a": ["1", "2"], "b": ["x", "y"]})
    assert found == [{"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"a": "2", "b": "x"}, {"a": "2", "b": "y"}]


def test_the_winner_meets_the_objective_at_the_highest_rate_and_then_soonest() -> None:
    early, strong, stronger = _candidate("1", 1, 5, 500), _candidate("64", 2, 8, 18), _candidate("32", 3, 9, 15)
    assert winner([early, strong, stronger], _OBJECTIVE) is stronger
    assert frontier([early, strong, stronger], _OBJECTIVE) == {1000: early, 2000: early, 4000: stronger}


def test_errors_lose_and_nobody_wins_when_all_miss() -> None:
    failing = _candidate("1", 1, 1, 1)
    failures = (Failure("RESOURCE_EXHAUSTED", 1000, ""),)
    failing = Candidate(
        failing.configuration, {rate: replace(one, failures=failures) for rate, one in failing.summaries.items()}
    )
    assert winner([failing, _candidate("2", 30, 40, 50)], _OBJECTIVE) is None


def test_the_file_is_what_the_server_reads_with_the_evidence_as_comments() -> None:
    candidates = [_candidate("1", 1, 5, 500), _candidate("64", 2, 8, 18)]
    text = batching_config(candidates, candidates[1], _OBJECTIVE, "5 s for each rate.")
    settings = [line for line in text.splitlines() if not line.startswith("#")]
    assert settings == ["max_batch_size { value: 64 }"]
    comments = text.replace("\n", " ")
    assert "4,000 requests a second, p99 18.00 ms" in comments
    assert "--grpc_max_threads=256" in comments
    assert "1.00*" in comments


def test_batching_parameters_go_into_the_file_and_the_rest_are_flags() -> None:
    configuration = {"num_batch_threads": "2", "grpc_max_threads": "16"}
    assert batching_text(configuration) == "num_batch_threads { value: 2 }\n"
    assert server_flags(configuration) == ["--grpc_max_threads=16"]


def test_the_embedded_server_is_swept(models_dir: Path, glyph_load: Callable[..., Outcome], tmp_path: Path) -> None:
    serve = Path(sys.executable).parent / "glyph-serve"
    server = f"{serve} --address=127.0.0.1 --model_name=digits --model_base_path={models_dir / 'digits'}"
    output = tmp_path / "batching.config"
    load = ["--rates", "5", "--time", "1s", "--p99", "5s", "--output", str(output), "--json"]
    done = glyph_load("sweep", "--server", server, "--grid", "max_batch_size=64", *load)
    assert done.code == 0, done.err
    assert "max_batch_size { value: 64 }" in output.read_text()
    assert done.json["chosen"] == {"max_batch_size": "64"}


_KNOWN_SERVER = f"{sys.executable} {Path(__file__).with_name('known_server.py')}"


def test_a_configuration_with_which_the_server_does_not_start_is_left_out(
    glyph_load: Callable[..., Outcome], tmp_path: Path
) -> None:
    output = tmp_path / "batching.config"
    load = ["--rates", "5", "--time", "1s", "--p99", "5s", "--output", str(output), "--json"]
    done = glyph_load("sweep", "--server", _KNOWN_SERVER, "--grid", "delay=never,0", *load)
    assert (done.code, "left out: the server ended with code 2" in done.err) == (0, True), done.err
    assert done.json["chosen"] == {"delay": "0"}
    assert [len(candidate["rates"]) for candidate in done.json["candidates"]] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--server", "/no/such/server"], "cannot be started"),
        (["--server", f"{_KNOWN_SERVER} --no-labels", "--grid", "delay=0"], "the server does not answer with digits"),
        (["--server", "true", "--grid", "port=1", "--grid", "port=2"], "all values of port belong into one --grid"),
        (["--server", "true", "--grid", "max_batchsize=8"], "Is max_batch_size meant?"),
        (["--server", "false"], "ended with code 1"),
        (["--image", "tensorflow/serving:2.20.0"], "--image needs --models"),
        (["--server", "true", "--grid", "max_batch_size"], "Received: 'max_batch_size'"),
    ],
)
def test_what_cannot_be_swept(glyph_load: Callable[..., Outcome], arguments: list[str], words: str) -> None:
    done = glyph_load("sweep", *arguments)
    assert (done.code, words in done.err) == (2, True), done.err
