"""What can go wrong for reasons that the user can do something about.

TrainerError
├── DataError         the images or labels cannot be used
│   └── UnusableFilesError    some files cannot, the others could
├── ModelError        the model cannot be read, or is not what it should be
└── PublishError      a version cannot be published
"""

from collections.abc import Sequence


class TrainerError(Exception):
    """Something that the user can put right; the message says what was wrong and what to do."""

    exit_status = 1


class DataError(TrainerError):
    """The images or labels cannot be used."""


class UnusableFilesError(DataError):
    """Some files cannot be used; all are listed with their reasons."""

    exit_status = 2

    def __init__(self, directory: str, files: Sequence[tuple[str, str]]) -> None:
        """List the files.

        Args:
            directory: the folder that they are in.
            files: the name and the reason of each.
        """
        listed = "".join(f"\n  {name}: {reason}" for name, reason in files)
        super().__init__(
            f"{directory}: {len(files):,} file{'s' * (len(files) > 1)} cannot be used. Repair or remove them, or leave "
            f"them out with --skip-bad:{listed}"
        )


class ModelError(TrainerError):
    """The model cannot be read, or is not what it should be."""


class PublishError(TrainerError):
    """A version cannot be published."""
