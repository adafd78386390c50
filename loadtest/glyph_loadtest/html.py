"""A run as one HTML file that loads nothing: what was asked, what came back, how fast, and on what."""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from glyph_loadtest.chart import Axis, Series, bars, linear_axis, lines, logarithmic_axis
from glyph_loadtest.histogram import Histogram
from glyph_loadtest.result import Run, Summary, summarise

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2937;max-width:760px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2rem 0 .3rem}p{margin:.3rem 0}
svg{width:100%;height:auto;font:12px system-ui,sans-serif;fill:#4b5563}.grid{stroke:#e5e7eb}
.cards{display:flex;flex-wrap:wrap;gap:.6rem;margin:1rem 0}.card{border:1px solid
#e5e7eb;border-radius:8px;padding:.5rem .9rem} .card
b{display:block;font-size:1.3rem}.warning{background:#fef2f2;border:1px solid #fca5a5;border-radius:8px;padding:.6rem
1rem} table{border-collapse:collapse}td,th{padding:.15rem 1rem .15rem 0;text-align:left;vertical-align:top}
td.number{text-align:right;font-variant-numeric:tabular-nums}.note{color:#6b7280;font-size:.9em}
"""


def page(run: Run) -> str:
    """The whole file."""
    summary = summarise(run)
    title = f"{run.target.model} at {run.target}"
    warnings = [text for text in (run.cut_short and f"The run ended early: {run.cut_short}.", summary.refused) if text]
    body = [f"<h1>{escape(title)}</h1>", _facts(run)]
    body += [f'<p class="warning">{escape(text[0].upper() + text[1:])}</p>' for text in warnings]
    if summary.refused is None and summary.requests:
        body += [_cards(run, summary), _over_time(run), _percentiles(run), _histogram(run)]
    body += [_failures(summary), _sides(run, summary), _machine(run, summary)]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )


def _facts(run: Run) -> str:
    images = "one image" if run.target.batch == 1 else f"{run.target.batch} images"
    protocol = "REST" if run.target.rest else "gRPC"
    started = datetime.fromtimestamp(run.first, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    text = (
        f"{protocol}, {images} a request as {run.target.payload.value}, {run.plan}, "
        f"{run.end - run.first} s from {started}, after {run.plan.warm_up} s of warm-up."
    )
    return f"<p>{escape(text)}</p>"


def _cards(run: Run, summary: Summary) -> str:
    shown = [("requests a second", f"{summary.rate:,.1f}")]
    if run.target.batch > 1:
        shown.append(("images a second", f"{summary.rate * run.target.batch:,.1f}"))
    shown += [(f"p{percent:g}", f"{value:,.2f} ms") for percent, value in summary.percentiles.items()]
    shown.append(("failed", f"{summary.error_share:.2%}"))
    if summary.accuracy is not None:
        shown.append((f"right of {summary.checked:,} checked", f"{summary.accuracy:.2%}"))
    cards = (f'<div class="card"><b>{escape(value)}</b>{escape(name)}</div>' for name, value in shown)
    return f'<div class="cards">{"".join(cards)}</div>'


def _over_time(run: Run) -> str:
    first = min([run.first, *(number for number, second in run.measurement.seconds.items() if second.finished)])
    seconds = [(number, run.measurement.seconds.get(number)) for number in range(first, run.end)]
    times = [float(number - run.first) for number, _ in seconds]
    answered = [float(second.finished if second else 0) for _, second in seconds]
    failed = [float(second.failed if second else 0) for _, second in seconds]
    x = linear_axis("seconds from the end of the warm-up", times, start=None)
    rate = linear_axis("a second", [*answered, *failed])
    throughput = [
        Series("answers", list(zip(times, answered, strict=True))),
        Series("failures", list(zip(times, failed, strict=True))),
    ]
    latency = [
        Series(
            f"p{percent}",
            [
                (float(number - run.first), max(second.latency.percentile(percent), 1.0) / 1000)
                for number, second in seconds
                if second and second.latency.counts
            ],
        )
        for percent in (50, 95, 99)
    ]
    y = logarithmic_axis("milliseconds", [value for series in latency for _, value in series.points])
    return (
        f"<h2>Throughput</h2>{lines(x, rate, throughput)}"
        f"<h2>Latency</h2><p class=note>by the second in which a request was due</p>{lines(x, y, latency)}"
    )


def _percentiles(run: Run) -> str:
    latency = run.measurement.between(run.first, run.end).latency
    nines = math.log10(max(latency.count, 10))
    points = [
        (10 ** (nines * step / 200), latency.percentile(100 * (1 - 10 ** (-nines * step / 200))) / 1000)
        for step in range(201)
    ]
    names = {1: "0 %", 2: "50 %", 10: "90 %", 100: "99 %", 1000: "99.9 %", 10_000: "99.99 %", 100_000: "99.999 %"}
    ticks = tuple((float(place), text) for place, text in names.items() if place <= 10**nines)
    x = Axis("share of the answers (log scale)", 1.0, 10**nines, ticks, logarithmic=True)
    y = logarithmic_axis("milliseconds", [max(value, 0.001) for _, value in points])
    drawn = lines(x, y, [Series("latency", [(place, max(value, 0.001)) for place, value in points])])
    return (
        f"<h2>Latency percentiles</h2><p class=note>so many of the answers came within so many milliseconds</p>{drawn}"
    )


def _histogram(run: Run) -> str:
    latency = run.measurement.between(run.first, run.end).latency
    edges = _bins(latency)
    x = logarithmic_axis("milliseconds", [value for low, high, _ in edges for value in (low, high)])
    y = linear_axis("answers", [count for _, _, count in edges])
    return f"<h2>Latency histogram</h2>{bars(x, y, edges)}"


def _bins(latency: Histogram) -> list[tuple[float, float, float]]:
    """The histogram in 20 bins a factor of ten, in milliseconds."""
    counts: dict[int, int] = {}
    for low, high, count in latency.buckets():
        number = math.floor(20 * math.log10(max((low + high - 1) / 2, 1) / 1000))
        counts[number] = counts.get(number, 0) + count
    return [(10 ** (number / 20), 10 ** ((number + 1) / 20), float(count)) for number, count in sorted(counts.items())]


def _failures(summary: Summary) -> str:
    if not summary.failures:
        return "<h2>Failures</h2><p>None.</p>"
    rows = [(failure.kind, f"{failure.count:,}", failure.example) for failure in summary.failures]
    return f"<h2>Failures</h2>{_table(('kind', 'how many', 'for example'), rows)}"


def _sides(run: Run, summary: Summary) -> str:
    side = run.server
    if side is None:
        return "<h2>Seen from the server</h2><p>The server's metrics could not be read.</p>"

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:,.3f}"

    rows = [
        ("requests", f"{summary.requests:,}", f"{side.requests:,} (warm-up included)"),
        ("mean latency, ms", shown(summary.mean), shown(side.request_ms)),
        ("mean time in the model, ms", "", shown(side.runtime_ms)),
        ("mean time in the batching queue, ms", "", shown(side.queue_ms)),
        ("mean batch size", "", shown(side.batch_size)),
    ]
    rows += [(f"batches of up to {size:g}", "", f"{count:,}") for size, count in side.batch_sizes.items()]
    return f"<h2>Seen from the server</h2>{_table(('', 'client', 'server'), rows)}"


def _machine(run: Run, summary: Summary) -> str:
    rows = [(name, value) for name, value in run.machine.items()]
    rows += [
        ("generator's processes", str(run.workers)),
        ("busiest of them", f"{summary.busiest:.0%} of a core"),
        ("generator's own lag, p99", f"{summary.lag:,.2f} ms"),
    ]
    return f"<h2>The load generator</h2>{_table((), rows)}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "<tr>" + "".join(f"<th>{escape(text)}</th>" for text in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table>{top}{body}</table>"
