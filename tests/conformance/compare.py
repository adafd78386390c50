"""How an answer is compared with the recorded one: values, not white space; float32, not digits."""

import json
import re
from typing import Any

import numpy as np

_FLOAT = re.compile(r"(?<=: )-?(?:\d+\.\d*(?:e[-+]?\d+)?|\d+e[-+]?\d+|inf|nan)$", re.MULTILINE)
_NODE = re.compile(r"\{\{(?:function_node|node) [^}]*\}\}")


def same_json(ours: bytes, recorded: bytes) -> bool:
    """Whether two JSON texts say the same, to float32 precision and whatever the order of the members."""
    return _same(_load(ours), _load(recorded))


def _load(text: bytes) -> Any:
    return json.loads(text.decode("latin-1"))


def _same(ours: Any, recorded: Any) -> bool:
    if isinstance(ours, dict) and isinstance(recorded, dict):
        return ours.keys() == recorded.keys() and all(_same(ours[key], recorded[key]) for key in ours)
    if isinstance(ours, list) and isinstance(recorded, list):
        return len(ours) == len(recorded) and all(map(_same, ours, recorded))
    if isinstance(ours, float) and isinstance(recorded, float):
        with np.errstate(over="ignore"):
            return bool(np.array_equal(np.float32(ours), np.float32(recorded), equal_nan=True))
    if isinstance(ours, str) and isinstance(recorded, str):
        return same_message(ours, recorded)
    return type(ours) is type(recorded) and bool(ours == recorded)


def same_message(ours: str, recorded: str) -> bool:
    """Whether two messages are the same but for the names of functions and nodes, which belong to the model."""
    return _NODE.sub("node", ours) == _NODE.sub("node", recorded)


def same_text(ours: str, recorded: str) -> bool:
    """Whether two text protobufs are the same, floats to the last few bits, in which CPUs differ."""
    mine, theirs = ([float(number) for number in _FLOAT.findall(text)] for text in (ours, recorded))
    return _FLOAT.sub("number", ours) == _FLOAT.sub("number", recorded) and bool(
        np.allclose(mine, theirs, rtol=1e-6, atol=0, equal_nan=True)
    )
