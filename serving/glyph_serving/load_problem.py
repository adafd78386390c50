"""Why a SavedModel cannot be loaded: what TensorFlow's C++ loader says, which is the one that the genuine server uses.

The Python loader, whose graph the session's callables need, says less, in other words and mostly with no code at all.
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import tensorflow

from glyph_serving.errors import Code, ServingError

_FOOTER = 48  # bytes at the end of a table: where its two indexes lie, and a magic number
_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")


def check_index(path: Path) -> None:
    """Looks whether the index of a SavedModel's variables says that it lies outside of itself.

    Nothing protects those few bytes, and TensorFlow asks for as much memory as they say, which may end the process.

    Raises:
        ServingError: DATA_LOSS, it does.
    """
    file = path / "variables" / "variables.index"
    if not file.is_file() or (size := file.stat().st_size) < _FOOTER:
        return
    with file.open("rb") as content:
        content.seek(-_FOOTER, os.SEEK_END)
        footer = content.read(_FOOTER)
    numbers, number, shift = [], 0, 0
    for byte in footer[: -len(_MAGIC)]:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number = shift = 0
    ends = [offset + length for offset, length in zip(numbers[0:4:2], numbers[1:4:2], strict=False)]
    if footer.endswith(_MAGIC) and (len(ends) < 2 or max(ends) > size):
        raise ServingError(Code.DATA_LOSS, f"{file} is damaged: its index should end at byte {max(ends, default=0)}")


def load_problem(path: Path, tags: Sequence[str]) -> ServingError | None:
    """Loads a SavedModel with the C++ loader, for what this says.

    Args:
        path: The folder with ``saved_model.pb``.
        tags: Which of its MetaGraphDefs.

    Returns:
        The error; None if this loader can load it, or is not to be had.
    """
    try:
        library = ctypes.CDLL(str(Path(tensorflow.__file__).parent / "libtensorflow_cc.so.2"))
    except OSError:
        return None  # another build of TensorFlow
    for function in ("TF_NewStatus", "TF_NewSessionOptions", "TF_NewGraph", "TF_LoadSessionFromSavedModel"):
        getattr(library, function).restype = ctypes.c_void_p
    library.TF_Message.restype = ctypes.c_char_p
    status, options, graph = (
        ctypes.c_void_p(new()) for new in (library.TF_NewStatus, library.TF_NewSessionOptions, library.TF_NewGraph)
    )
    names = (ctypes.c_char_p * len(tags))(*(tag.encode() for tag in tags))
    session = ctypes.c_void_p(
        library.TF_LoadSessionFromSavedModel(options, None, str(path).encode(), names, len(tags), graph, None, status)
    )
    code, message = Code(library.TF_GetCode(status)), library.TF_Message(status).decode(errors="replace")
    if session:
        library.TF_DeleteSession(session, status)
    library.TF_DeleteGraph(graph)
    library.TF_DeleteSessionOptions(options)
    library.TF_DeleteStatus(status)
    return None if code is Code.OK else ServingError(code, message)
