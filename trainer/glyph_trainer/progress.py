"""Progress for whoever is watching: bars on a terminal, one line a task elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Task:
    """A piece of work whose progress is shown.

    Attributes:
        outcome: what to say when it is done; shown beside the bar, or on the line.
    """

    def __init__(self, progress: Progress | None, description: str, total: int) -> None:
        self.outcome = ""
        self._progress = progress
        self._id = progress.add_task(description, total=total, outcome="") if progress else None

    def advance(self, steps: int = 1) -> None:
        """Say that some of the work is done.

        Args:
            steps: how many units of the total.
        """
        if self._progress and self._id is not None:
            self._progress.advance(self._id, steps)

    def _finish(self) -> None:
        if self._progress and self._id is not None:
            self._progress.update(self._id, outcome=self.outcome)


@contextmanager
def task(description: str, total: int, unit: str) -> Iterator[Task]:
    """Show the progress of a piece of work.

    On a terminal a bar moves; where standard output is a file or a pipe, one line is written when the work is done.

    Args:
        description: what is being done.
        total: how many units of work there are.
        unit: what one of them is called, in the plural.

    Yields:
        the task, to be advanced; its `outcome` may be set.
    """
    started = time.perf_counter()
    if sys.stdout.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TextColumn("{task.fields[outcome]}"),
        )
        with Progress(*columns, console=Console(file=sys.stdout)) as bars:
            work = Task(bars, description, total)
            yield work
            work._finish()
    else:
        work = Task(None, description, total)
        yield work
        seconds = time.perf_counter() - started
        ending = f"  {work.outcome}" if work.outcome else ""
        print(f"{description}: {total:,} {unit} in {seconds:.1f} s{ending}", flush=True)
