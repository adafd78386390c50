"""What is to be said about images before anyone trains with them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from glyph_trainer.data.dataset import Dataset

_IMBALANCE = 3.0
"""From how much more of the most frequent class than of the rarest on the report calls them imbalanced."""


@dataclass(frozen=True)
class UnusableFile:
    """A file that cannot be used.

    Attributes:
        name: its path in the folder.
        reason: why not.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Validation:
    """The report on a data set.

    Attributes:
        counts: how many images there are of each class.
        resized: how many were not 28 x 28, white on black.
        unlabelled: files whose names do not say what they show.
        unreadable: files that cannot be decoded.
        duplicates: how many images are exact copies of an earlier one.
        contradictions: how many of these copies bear another label.
        duplicates_across: how many test images are exact copies of a training image.
    """

    counts: dict[str, int]
    resized: int
    unlabelled: tuple[UnusableFile, ...]
    unreadable: tuple[UnusableFile, ...]
    duplicates: int
    contradictions: int
    duplicates_across: int

    @property
    def unusable(self) -> tuple[UnusableFile, ...]:
        """All files that cannot be used."""
        return self.unlabelled + self.unreadable

    @property
    def imbalance(self) -> float:
        """How many times more images the most frequent class has than the rarest; none count as one."""
        return max(self.counts.values()) / max(1, min(self.counts.values()))

    def as_json(self) -> dict[str, Any]:
        """Give the report as plain values."""
        return {**asdict(self), "images": sum(self.counts.values()), "imbalance": self.imbalance}

    def as_text(self) -> str:
        """Give the report for people, a line for each thing worth saying."""
        rarest, commonest = min(self.counts, key=self.counts.__getitem__), max(self.counts, key=self.counts.__getitem__)
        fewest, most = self.counts[rarest], self.counts[commonest]
        spread = f"{most:,} of each" if fewest == most else f"from {fewest:,} of {rarest} to {most:,} of {commonest}"
        lines = [
            f"{sum(self.counts.values()):,} images of {len(self.counts)} classes, {spread}"
            + (f": imbalanced, {self.imbalance:.1f} to 1" if self.imbalance >= _IMBALANCE else "")
        ]
        findings = (
            (self.resized, "made 28 x 28, white on black"),
            (len(self.unlabelled), "without a label, left out"),
            (len(self.unreadable), "unreadable, left out"),
            (self.duplicates, "exact copies of another one"),
            (self.contradictions, "of these copies under another label"),
            (self.duplicates_across, "test images that are also training images"),
        )
        lines += [f"  {count:,} {what}" for count, what in findings if count]
        return "\n".join(lines)


def validate(
    train: Dataset,
    test: Dataset,
    official: Dataset | None,
    resized: int,
    unlabelled: Sequence[UnusableFile],
    unreadable: Sequence[UnusableFile],
) -> Validation:
    """Look through images.

    Args:
        train: the images to train with.
        test: the images of the same source to test with.
        official: the test images that are given apart, if any. They are only looked for among the training images.
        resized: how many were not 28 x 28, white on black.
        unlabelled: files whose names do not say what they show.
        unreadable: files that cannot be decoded.

    Returns:
        the report.
    """
    labels = np.concatenate([train.labels, test.labels])
    seen: dict[bytes, int] = {}
    duplicates = contradictions = across = 0
    for index, pixels in enumerate(pixels for part in (train, test) for pixels in part.images):
        first = seen.setdefault(pixels.tobytes(), index)
        if first != index:
            duplicates += 1
            contradictions += bool(labels[first] != labels[index])
            across += first < len(train) <= index
    for pixels in official.images if official else ():
        across += seen.get(pixels.tobytes(), len(train)) < len(train)
    counts = np.bincount(labels, minlength=len(train.names))
    return Validation(
        counts={name: int(count) for name, count in zip(train.names, counts, strict=True)},
        resized=resized,
        unlabelled=tuple(unlabelled),
        unreadable=tuple(unreadable),
        duplicates=duplicates,
        contradictions=contradictions,
        duplicates_across=across,
    )
