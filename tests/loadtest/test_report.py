"""`glyph-load report`: one file that says it all."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from glyph_loadtest.arrival import Arrivals
from glyph_loadtest.channel import Address
from glyph_loadtest.html import page
from glyph_loadtest.machine import machine
from glyph_loadtest.measurement import Measurement
from glyph_loadtest.metrics import ServerSide, between, parse
from glyph_loadtest.plan import Plan
from glyph_loadtest.result import Run
from glyph_loadtest.saved import as_dict
from glyph_loadtest.target import Target

from tests.loadtest.conftest import Outcome


def example() -> Run:
    measurement = Measurement()
    for number in range(-1, 30):
        second = measurement.at(1_700_000_000 + number)
        for k in range(200 + 5 * number):
            second.latency.record(2000 + 37 * k * (k % 7) + (400_000 if k > 320 else 0))
            second.lag.record(80)
        second.finished = second.latency.count
        second.checked, second.correct = 20, 19
        second.cpu = {"local": 0.3}
    measurement.at(1_700_000_010).failures = {"RESOURCE_EXHAUSTED": 12, "NO <CONNECTION>": 1}
    measurement.examples = {"RESOURCE_EXHAUSTED": "Server Threadpool Exhausted"}
    side = ServerSide(6000, 1.5, 1.1, 0.2, 7.5, {1.0: 20, 8.0: 500})
    target = Target(Address("localhost", 8500), rest=False)
    plan = Plan(300, seconds=30, arrivals=Arrivals.POISSON)
    return Run(target, plan, 1_700_000_000, 1_700_000_030, measurement, 1, None, machine(), side)


def test_the_page_loads_nothing_and_shows_every_part() -> None:
    text = page(example())
    assert not re.search(r"(src|href)=|@import|url\(|<script", text)
    for part in ("Throughput", "Latency percentiles", "Latency histogram", "Failures", "from the server", "generator"):
        assert part in text
    facts = ["RESOURCE_EXHAUSTED", "NO &lt;CONNECTION&gt;", "Server Threadpool Exhausted", "95.00%", "mean batch size"]
    for fact in facts:
        assert fact in text


def test_every_chart_is_well_formed() -> None:
    charts = re.findall(r"<svg.*?</svg>", page(example()))
    assert len(charts) == 4
    for chart in charts:
        assert len(list(ElementTree.fromstring(chart))) > 10  # noqa: S314 (our own)


def test_a_refused_run_shows_no_figures() -> None:
    run = example()
    for second in run.measurement.seconds.values():
        second.cpu["local"] = 1.0
    text = page(run)
    assert "The generator was the limit" in text
    assert "<svg" not in text


def test_the_command_writes_beside_the_run(glyph_load: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(as_dict(example())))
    done = glyph_load("report", str(tmp_path / "run.json"))
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "run.html"))
    assert (tmp_path / "run.html").read_text() == page(example())


@pytest.mark.parametrize(
    ("window", "time"),
    [
        ([], 1_700_000_000),
        ([2, 1], 1_700_000_000),
        ([10**15, 10**15 + 5], 1_700_000_000),
        ([10**15, 10**15 + 5], 10**15),
        ([1_700_000_000, 1_700_000_030], 0),
    ],
)
def test_times_that_make_no_sense_are_no_run(
    glyph_load: Callable[..., Outcome], tmp_path: Path, window: list[int], time: int
) -> None:
    document = as_dict(example())
    document["window"] = window
    document["measurement"]["seconds"] = [document["measurement"]["seconds"][0] | {"time": time}]
    (tmp_path / "run.json").write_text(json.dumps(document))
    done = glyph_load("report", str(tmp_path / "run.json"))
    assert (done.code, "is no run saved by glyph-load" in done.err) == (2, True), done.err


def test_what_is_no_number_of_the_server_is_no_figure() -> None:
    before, after = parse("up 1\nrequests NaN\nbytes +Inf\n"), parse("up 2\nrequests 7\nbytes 9\n")
    assert list(before.values()) == [1.0]
    name = ":tensorflow:serving:request_latency_count"
    assert between(parse(f"{name} NaN"), {**after, **parse(f"{name} NaN")}, "digits").requests == 0


def test_server_figures_are_what_its_metrics_gained() -> None:
    name = ":tensorflow:serving:batching_session:processed_batch_size"
    before = parse(
        f'{name}_bucket{{le="1"}} 5\n{name}_bucket{{le="8"}} 5\n{name}_bucket{{le="+Inf"}} 5\n'
        f"{name}_sum{{}} 5\n{name}_count{{}} 5\n"
    )
    labels = 'model_name="digits",API="Predict",entrypoint="GRPC"'
    others = labels.replace("digits", "letters")
    after = parse(
        f"# TYPE {name} histogram\n"
        f'{name}_bucket{{le="1"}} 5\n{name}_bucket{{le="8"}} 15\n{name}_bucket{{le="+Inf"}} 15\n'
        f"{name}_sum{{}} 85\n{name}_count{{}} 15\n"
        f":tensorflow:serving:request_latency_sum{{{labels}}} 30000\n"
        f":tensorflow:serving:request_latency_count{{{labels}}} 10\n"
        f":tensorflow:serving:request_latency_sum{{{others}}} 90000\n"
        f":tensorflow:serving:request_latency_count{{{others}}} 10\n"
    )
    assert between(before, after, "digits") == ServerSide(10, 3.0, None, None, 8.0, {8.0: 10})
