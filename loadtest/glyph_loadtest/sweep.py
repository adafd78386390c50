"""Which configuration of a server serves most, and soonest: the grid, the choice, and the file that comes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from glyph_loadtest.result import Summary
from glyph_loadtest.slo import Objective

# Fields of TensorFlow Serving's BatchingParameters (session_bundle_config.proto); all other names are flags of the
# server.
BATCHING_FIELDS = ("max_batch_size", "batch_timeout_micros", "num_batch_threads", "max_enqueued_batches")

Configuration = Mapping[str, str]


@dataclass(frozen=True)
class Candidate:
    """One configuration, measured.

    Attributes:
        configuration: the value of each name of the grid.
        summaries: what came of each rate, in requests a second, in ascending order; nothing when the server did not
            start.
    """

    configuration: Configuration
    summaries: dict[float, Summary]

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.configuration.items()) or "as it is"

    def best(self, objective: Objective) -> tuple[float, float]:
        """The highest rate that met the objective (0 when none did), and minus its p99, in milliseconds."""
        met = [rate for rate, summary in self.summaries.items() if objective.misses(summary) is None]
        return (max(met), -self.summaries[max(met)].percentiles[99.0]) if met else (0.0, 0.0)


def grid(axes: Mapping[str, Sequence[str]]) -> list[Configuration]:
    """All combinations of the axes' values."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def frontier(candidates: Sequence[Candidate], objective: Objective) -> dict[float, Candidate]:
    """For each rate the candidate that answered soonest (p99) among those that met the objective."""
    best: dict[float, Candidate] = {}
    for candidate in candidates:
        for rate, summary in candidate.summaries.items():
            if objective.misses(summary) is not None:
                continue
            if rate not in best or summary.percentiles[99.0] < best[rate].summaries[rate].percentiles[99.0]:
                best[rate] = candidate
    return best


def winner(candidates: Sequence[Candidate], objective: Objective) -> Candidate | None:
    """The candidate that met the objective at the highest rate, and of several the one that answered soonest there."""
    best = max(candidates, key=lambda candidate: candidate.best(objective), default=None)
    return best if best is not None and best.best(objective)[0] > 0 else None


def batching_text(configuration: Configuration) -> str:
    """The batching parameters of a configuration as TensorFlow Serving reads them."""
    return "".join(f"{name} {{ value: {configuration[name]} }}\n" for name in BATCHING_FIELDS if name in configuration)


def server_flags(configuration: Configuration) -> list[str]:
    """What of a configuration is given to the server as flags."""
    return [f"--{name}={value}" for name, value in configuration.items() if name not in BATCHING_FIELDS]


def table(candidates: Sequence[Candidate], objective: Objective) -> str:
    """p99 in milliseconds by configuration and rate; `*` marks the frontier, `-` what missed it or was not tried."""
    rates = sorted({rate for candidate in candidates for rate in candidate.summaries})
    best = frontier(candidates, objective)
    width = max((len(str(candidate)) for candidate in candidates), default=0)
    lines = [f"{'p99 in ms at requests a second:':<{width}}" + "".join(f"{rate:>10,.0f}" for rate in rates)]
    for candidate in candidates:
        cells = []
        for rate in rates:
            summary = candidate.summaries.get(rate)
            met = summary is not None and objective.misses(summary) is None
            mark = "*" if best.get(rate) is candidate else " "
            cells.append(f"{summary.percentiles[99.0]:>9.2f}{mark}" if met and summary is not None else f"{'-':>9} ")
        lines.append(f"{candidate!s:<{width}}" + "".join(cells))
    return "\n".join(lines)


def batching_config(candidates: Sequence[Candidate], chosen: Candidate, objective: Objective, how: str) -> str:
    """The file that makes a server start with the chosen configuration, with the evidence as comments."""
    flags = server_flags(chosen.configuration)
    comments = [
        f"Chosen by glyph-load sweep, of {len(candidates)} configurations: the highest rate with {objective}.",
        how,
        f"Met at {chosen.best(objective)[0]:,.0f} requests a second, p99 {-chosen.best(objective)[1]:.2f} ms.",
        *([f"Start the server with {' '.join(flags)} as well."] if flags else []),
        *table(candidates, objective).splitlines(),
        "* soonest at that rate; - objective missed, or the server did not start",
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in comments) + batching_text(chosen.configuration)
