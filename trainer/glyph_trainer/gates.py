"""What a model must pass before it is published."""

import io
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COMPARISON = "no worse than the stable version"
_PROBE_SECONDS = 300


@dataclass(frozen=True)
class Limits:
    """What is demanded of a model.

    Attributes:
        accuracy: share of right answers, at least.
        tolerance: how much less accurate than the stable version it may be.
        difference: between the probabilities of the exported and the trained model, at most.
        milliseconds: for one image, the median, at most.
        megabytes: of the published files, at most.
    """

    accuracy: float = 0.5
    tolerance: float = 0.005
    difference: float = 1e-5
    milliseconds: float = 50.0
    megabytes: float = 50.0


@dataclass(frozen=True)
class Gate:
    """A demand, and whether it was met.

    Attributes:
        name: what is demanded.
        passed: whether it was met.
        figure: what was found, beside what is demanded.
    """

    name: str
    passed: bool
    figure: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.name}: {self.figure}"


def accuracy_gate(right: NDArray[np.bool_], limits: Limits) -> Gate:
    """Demand a share of right answers.

    Args:
        right: [N], whether each answer is right.
        limits: what is demanded.

    Returns:
        the gate.
    """
    accuracy = float(right.mean())
    figure = f"{accuracy:.2%} of {len(right):,} images, at least {limits.accuracy:.2%}"
    return Gate("accuracy", accuracy >= limits.accuracy, figure)


def comparison_gate(right: NDArray[np.bool_], stable_right: NDArray[np.bool_], limits: Limits) -> Gate:
    """Demand that a model is no worse than the stable version, on the same images.

    A paired test of non-inferiority: the lower bound, one-sided at 95 %, of the difference of the two accuracies must
    not lie below the tolerance. Only images on which one is right and the other is not widen it (Q. McNemar, 1947).

    Args:
        right: [N], whether each answer of the new model is right.
        stable_right: [N], the same of the stable version.
        limits: what is demanded.

    Returns:
        the gate.
    """
    gained, lost = int(np.sum(right & ~stable_right)), int(np.sum(stable_right & ~right))
    count = len(right)
    difference = (gained - lost) / count
    error = math.sqrt(max(0.0, gained + lost - (gained - lost) ** 2 / count)) / count
    bound = difference - 1.644854 * error
    figure = (
        f"{difference:+.2%} on {count:,} images ({gained:,} gained, {lost:,} lost), surely no less than {bound:+.2%}, "
        f"at least {-limits.tolerance:+.2%}"
    )
    return Gate(COMPARISON, bound >= -limits.tolerance, figure)


def export_gates(
    version: Path, images: NDArray[np.uint8], probabilities: NDArray[np.float32], limits: Limits
) -> list[Gate]:
    """Load an exported model in a process of its own, as a server would, and see what it does.

    Args:
        version: the folder of the exported model.
        images: uint8 [N, 28, 28, 1], what is asked about; those of the warm-up, for a server will want them answered.
        probabilities: float32 [N, K], what the trained model answers to them.
        limits: what is demanded.

    Returns:
        a gate each for the answers, for what does not fit, for the time and for the size.
    """
    found = _probe(version, images, probabilities)
    size = sum(path.stat().st_size for path in version.rglob("*") if path.is_file()) / 1e6
    size_gate = Gate("size", size <= limits.megabytes, f"{size:.2f} MB, at most {limits.megabytes:g} MB")
    if "ended" in found:
        return [Gate("survives in a process of its own", False, found["ended"]), size_gate]
    gates = [
        Gate(f"{name} answers as trained", value <= limits.difference, f"{value:.1e}, at most {limits.difference:.0e}")
        for name, value in found["differences"].items()
    ]
    wrong = [question for question, answer in found["wrong"].items() if answer != "InvalidArgumentError"]
    asked = len(found["wrong"])
    figure = f"{asked - len(wrong)} of {asked} questions" + (f", not {', '.join(wrong)}" if wrong else "")
    milliseconds = found["milliseconds"]
    return [
        *gates,
        Gate("what does not fit is an error", not wrong, figure),
        Gate(
            "latency",
            milliseconds <= limits.milliseconds,
            f"{milliseconds:.2f} ms an image, at most {limits.milliseconds:g} ms",
        ),
        size_gate,
    ]


def _probe(version: Path, images: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> dict[str, Any]:
    questions = io.BytesIO()
    np.savez(questions, images=images, probabilities=probabilities)
    # oneDNN is what aborts the process on a tensor of the wrong rank that no guard has stopped.
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-m", "glyph_trainer.probe", version],
        input=questions.getvalue(),  # a file would stay behind if this process were killed
        capture_output=True,
        timeout=_PROBE_SECONDS,
        env=environment,
        check=False,
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["without a word"]
        return {"ended": f"the process ended with {done.returncode}: {last[0][:300]}"}
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers
