"""`glyph-load compare`: ratios with honest intervals."""

import json
import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from glyph_loadtest.comparison import figures, paired_ratio, resampled, unpaired_ratio
from glyph_loadtest.measurement import Measurement
from glyph_loadtest.result import Run
from glyph_loadtest.saved import as_dict

from tests.loadtest.conftest import Outcome, StartServer
from tests.loadtest.test_report import example as example_run

GlyphLoad = Callable[..., Outcome]


def _run(rates: list[float], milliseconds: float = 5) -> Run:
    """A run with these numbers of answers in its seconds; their latency goes with the inverse."""
    run, measurement = example_run(), Measurement()
    for number, rate in enumerate(rates):
        if rate:
            second = measurement.at(run.first + number)
            second.finished = round(rate)
            second.latency.record(round(milliseconds * 1e6 / rate))
            second.latency.counts = dict.fromkeys(second.latency.counts, round(rate))
    return replace(run, measurement=measurement, end=run.first + len(rates))


def test_a_95_percent_interval_contains_the_truth_in_95_of_100_cases() -> None:
    chance = random.Random(5)  # noqa: S311
    hits = {"paired": 0, "unpaired": 0}
    for _ in range(1000):
        a = [chance.lognormvariate(7, 0.1) for _ in range(5)]
        b = [1.2 * chance.lognormvariate(7, 0.1) for _ in range(5)]
        hits["paired"] += paired_ratio("x", a, b).low <= 1.2 <= paired_ratio("x", a, b).high
        left, right = (resampled(_run(rates))["requests per second"] for rates in (a, b))
        hits["unpaired"] += unpaired_ratio("x", left, right).low <= 1.2 <= unpaired_ratio("x", left, right).high
    assert hits["paired"] / 1000 == pytest.approx(0.95, abs=0.02)
    assert hits["unpaired"] / 1000 == pytest.approx(0.95, abs=0.02)


def test_pairs_cancel_what_drifts() -> None:
    a = [100.0, 150, 80, 120, 60]
    b = [110.0, 166, 88, 131, 66]
    assert paired_ratio("x", a, b).differs
    left, right = (resampled(_run(rates))["requests per second"] for rates in (a, b))
    assert not unpaired_ratio("x", left, right).differs
    assert paired_ratio("x", a, b).value == pytest.approx(statistics.geometric_mean(b) / statistics.geometric_mean(a))


def test_a_single_pair_says_nothing_for_sure() -> None:
    assert not paired_ratio("x", [1.0], [100.0]).differs


def test_the_figures_of_saved_runs_are_their_own_with_the_seconds_in_which_nothing_was_answered() -> None:
    steady, stalled = _run([100.0] * 20), _run([100.0] * 10 + [0.0] * 10)
    a, b = (resampled(run)["requests per second"] for run in (steady, stalled))
    ratio = unpaired_ratio("x", a, b)
    assert (ratio.a, ratio.b, ratio.value) == (100, 50, 0.5)
    assert ratio.differs
    assert {name: one.value for name, one in resampled(stalled).items()} == figures(stalled)


@pytest.mark.parametrize("rates", [[100.0], [0.0, 100.0, 0.0]], ids=["one second", "answers in one second only"])
def test_a_run_that_hangs_on_one_second_says_nothing_for_sure(rates: list[float]) -> None:
    a, b = (resampled(run)["requests per second"] for run in (_run([9000.0] * 3), _run(rates)))
    assert not unpaired_ratio("x", a, b).differs


def test_long_runs_are_compared_by_twenty_parts_and_not_by_the_second() -> None:
    assert len(resampled(_run([100.0] * 3600))["p99 (ms)"].without) == 20


def test_two_targets_take_turns(start_server: StartServer, glyph_load: GlyphLoad) -> None:
    slow, fast = start_server("--delay", "0.3"), start_server("--delay", "0.01")
    load = ["--users", "2", "--time", "1s", "--warm-up", "0s", "--rounds", "1", "--json"]
    done = glyph_load("compare", slow.grpc, fast.rest, *load)
    assert done.code == 0, done.err
    assert [line.split()[2] for line in done.err.splitlines()] == ["A", "B"]
    throughput = done.json["ratios"][0]
    assert throughput["b_over_a"] > 3
    assert (throughput["low"], throughput["high"]) == (0, None)  # a single round says nothing for sure


def test_failed_requests_are_told_and_no_success(start_server: StartServer, glyph_load: GlyphLoad) -> None:
    good, bad = start_server("--delay", "0.01"), start_server("--delay", "0.01", "--error-every", "2")
    load = ["--users", "2", "--time", "1s", "--warm-up", "0s", "--rounds", "1", "--check-share", "0"]
    done = glyph_load("compare", good.grpc, bad.grpc, *load)
    assert done.code == 1, done.err
    assert "requests failed" in done.err
    failed = next(line.split() for line in done.out.splitlines() if "failed requests" in line)
    assert failed[2] == "0"
    assert int(failed[3]) > 10


def test_two_saved_runs(glyph_load: GlyphLoad, tmp_path: Path) -> None:
    saved, failing = str(tmp_path / "run.json"), str(tmp_path / "failing.json")
    Path(saved).write_text(json.dumps(as_dict(_run([100.0, 101, 102]))))
    Path(failing).write_text(json.dumps(as_dict(example_run())))
    done = glyph_load("compare", saved, saved)
    assert done.code == 0, done.err
    assert "1.000" in done.out
    assert "no clear difference" in done.out
    done = glyph_load("compare", saved, failing, "--json")
    assert (done.code, done.json["failed"]) == (1, {"a": 0, "b": 13})
    done = glyph_load("compare", saved, "localhost:8500")
    assert (done.code, "not one with the other" in done.err) == (2, True)


def test_a_saved_run_that_the_generator_limited_is_not_compared(glyph_load: GlyphLoad, tmp_path: Path) -> None:
    run = _run([100.0, 101, 102])
    saved, limited = str(tmp_path / "run.json"), str(tmp_path / "limited.json")
    Path(saved).write_text(json.dumps(as_dict(run)))
    run.measurement.at(run.first).cpu["local"] = 3.0
    Path(limited).write_text(json.dumps(as_dict(run)))
    done = glyph_load("compare", saved, limited)
    assert (done.code, done.out) == (2, "")
    assert "limited.json, for the generator was the limit" in done.err


def test_a_file_that_is_no_run_is_refused(glyph_load: GlyphLoad, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    done = glyph_load("compare", str(tmp_path / "x.json"), str(tmp_path / "x.json"))
    assert (done.code, "x.json is no run" in done.err) == (2, True)
