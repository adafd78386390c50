"""Operations that TensorFlow itself does not have, but the genuine server: those of TF Text and TF Decision Forests.

Where such a package is installed beside the server, its operations are there for every SavedModel.
"""

import importlib.util
from pathlib import Path

from tensorflow.python.framework import errors_impl, load_library

from glyph_serving.log import LOGGER

# Where packages keep what registers their operations; importing them would take all of TensorFlow.
_LIBRARIES = {
    "tensorflow_text": "python/ops/*.so",
    "tensorflow_decision_forests": "tensorflow/ops/inference/inference.so",
}
ADVICE = "operations of tensorflow-text and tensorflow-decision-forests are there once they are installed"


def load_installed() -> None:
    """Registers the operations of the packages that are installed; says so of those that do not fit TensorFlow."""
    for package, pattern in _LIBRARIES.items():
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            try:
                for library in sorted(Path(folder).glob(pattern)):
                    load_library.load_op_library(str(library))
            except errors_impl.OpError as error:
                LOGGER.warning("The operations of %s are not there, it is for another TensorFlow: %s", package, error)
