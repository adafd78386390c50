"""`glyph-load compare`: ratios with honest intervals."""

import json
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from glyph_loadtest.comparison import paired_ratio, unpaired_ratio
from glyph_loadtest.saved import as_dict

from tests.loadtest.conftest import Outcome, StartServer
from tests.loadtest.test_report import example as example_run

GlyphLoad = Callable[..., Outcome]


def test_a_95_percent_interval_contains_the_truth_in_95_of_100_cases() -> None:
    chance = random.Random(5)  # noqa: S311
    hits = {"paired": 0, "unpaired": 0}
    for _ in range(1000):
        a = [chance.lognormvariate(7, 0.1) for _ in range(5)]
        b = [1.2 * chance.lognormvariate(7, 0.1) for _ in range(5)]
        hits["paired"] += paired_ratio("x", a, b).low <= 1.2 <= paired_ratio("x", a, b).high
        hits["unpaired"] += unpaired_ratio("x", a, b).low <= 1.2 <= unpaired_ratio("x", a, b).high
    assert hits["paired"] / 1000 == pytest.approx(0.95, abs=0.02)
    assert hits["unpaired"] / 1000 == pytest.approx(0.95, abs=0.02)


def test_pairs_cancel_what_drifts() -> None:
    a = [100.0, 150, 80, 120, 60]
    b = [110.0, 166, 88, 131, 66]
    assert paired_ratio("x", a, b).differs
    assert not unpaired_ratio("x", a, b).differs
    assert paired_ratio("x", a, b).value == pytest.approx(statistics.geometric_mean(b) / statistics.geometric_mean(a))


def test_a_single_pair_says_nothing_for_sure() -> None:
    assert not paired_ratio("x", [1.0], [100.0]).differs


def test_two_targets_take_turns(start_server: StartServer, glyph_load: GlyphLoad) -> None:
    slow, fast = start_server("--delay", "0.3"), start_server("--delay", "0.01")
    load = ["--users", "2", "--time", "1s", "--warm-up", "0s", "--rounds", "1", "--json"]
    done = glyph_load("compare", slow.grpc, fast.rest, *load)
    assert done.code == 0, done.err
    assert [line.split()[2] for line in done.err.splitlines()] == ["A", "B"]
    throughput = done.json["ratios"][0]
    assert throughput["b_over_a"] > 3
    assert (throughput["low"], throughput["high"]) == (0, None)  # a single round says nothing for sure


def test_two_saved_runs(glyph_load: GlyphLoad, tmp_path: Path) -> None:
    saved = str(tmp_path / "run.json")
    Path(saved).write_text(json.dumps(as_dict(example_run())))
    done = glyph_load("compare", saved, saved)
    assert done.code == 0, done.err
    assert "1.000" in done.out
    assert "no clear difference" in done.out
    done = glyph_load("compare", saved, "localhost:8500")
    assert (done.code, "not one with the other" in done.err) == (2, True)


def test_a_file_that_is_no_run_is_refused(glyph_load: GlyphLoad, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    done = glyph_load("compare", str(tmp_path / "x.json"), str(tmp_path / "x.json"))
    assert (done.code, "x.json is no run" in done.err) == (2, True)
