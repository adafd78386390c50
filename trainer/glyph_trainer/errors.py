"""What can go wrong for reasons that the user can do something about.

TrainerError
├── DataError         the images or labels cannot be used
├── ModelError        the model cannot be read, or is not what it should be
└── PublishError      a version cannot be published
"""


class TrainerError(Exception):
    """Something that the user can put right; the message says what was wrong and what to do."""


class DataError(TrainerError):
    """The images or labels cannot be used."""


class ModelError(TrainerError):
    """The model cannot be read, or is not what it should be."""


class PublishError(TrainerError):
    """A version cannot be published."""
