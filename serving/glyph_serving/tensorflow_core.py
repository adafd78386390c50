"""TensorFlow's engine without its public API.

``import tensorflow`` loads some two thousand modules (Keras, estimators, every operation's wrapper) that a server of
SavedModels never calls, and takes three times as long as the engine alone: 3.7 seconds of processor time, not 1.3.
The engine is ``tensorflow.python`` below the package, which Python reaches only through it; so the package is put in
place without running its ``__init__``. A process in which TensorFlow is imported already keeps it as it is.
"""

import ctypes
import importlib.util
import os
import sys
import types
from pathlib import Path

_SET_MIN_LOG_LEVEL = "_ZN4absl12lts_2025012714SetMinLogLevelENS0_18LogSeverityAtLeastE"  # absl::SetMinLogLevel


def import_core() -> None:
    """Makes ``tensorflow.core`` and ``tensorflow.python`` importable; to be called before any of their modules is.

    Raises:
        ModuleNotFoundError: TensorFlow is not installed.
    """
    if "tensorflow" in sys.modules:
        return
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("TensorFlow is not installed: pip install 'tensorflow==2.20.*'")
    package = types.ModuleType("tensorflow")
    package.__spec__ = spec
    package.__file__ = spec.origin
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["tensorflow"] = package
    _quieten(Path(package.__path__[0]) / "libtensorflow_framework.so.2")


def _quieten(library: Path) -> None:
    """Applies TF_CPP_MIN_LOG_LEVEL to the messages of TensorFlow's younger parts too, which do not look at it."""
    level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0")
    try:
        set_level = ctypes.CDLL(str(library))[_SET_MIN_LOG_LEVEL]
    except (OSError, AttributeError):
        return  # another build of TensorFlow: it may talk
    if level.isdecimal():
        set_level(int(level))
