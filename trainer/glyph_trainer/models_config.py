"""The text of a models.config: a model's versions and labels are replaced, all else stays as it was written."""

import re
from collections.abc import Sequence

# A comment, a string, a bracket, a separator, or a word: a field's name or a number.
_TOKEN = re.compile(r"""#.*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[{}<>\[\],;]|[^\s#"'{}<>\[\],;:]+""")
_MODEL = ["model_config_list", "config"]
_REPLACED = ("model_version_policy", "version_labels")


def replace_versions(text: str, position: int, fields: Sequence[str]) -> str:
    """Replace which versions of a model are served, and under which labels.

    Args:
        text: of a ModelServerConfig, in protobuf's text format; one that can be parsed.
        position: of the model among those that the text configures, from 0 on.
        fields: what the model's `model_version_policy` and `version_labels` are to be, in text format, one each.

    Returns:
        the text with them, where the first of the old ones was. Comments stay, except those inside of what is replaced.
    """
    spans, end = _find(text, position)
    if not spans:
        return _insert(text, end, fields)
    start, stop = spans[0]
    for span in reversed(spans[1:]):
        text = _cut(text, *span)
    before = text[text.rfind("\n", 0, start) + 1 : start]
    separator = " " if before.strip() else f"\n{before}"
    return text[:start] + separator.join(fields) + text[stop:]


def _find(text: str, position: int) -> tuple[list[tuple[int, int]], int]:
    """Find where a model's versions and labels stand, with the separators behind them, and where the model ends."""
    spans: list[tuple[int, int]] = []
    opened: list[tuple[str, int]] = []  # the name before each bracket that is open, none in a list, and where it begins
    word, begin, model, replaced = "", 0, -1, False
    for token in _TOKEN.finditer(text):
        sign = token[0][0]
        if sign == "#":
            continue
        if sign in ",;" and replaced:
            spans.append(token.span())
        replaced = False
        if sign in "{<[":
            opened.append((word, begin))
            model += sign != "[" and _path(opened) == _MODEL
        elif sign in "}>]":
            name, start = opened.pop()
            if model == position and name in _REPLACED and _path(opened) == _MODEL:
                spans.append((start, token.end()))
                replaced = True
            elif model == position and sign != "]" and _path([*opened, (name, start)]) == _MODEL:
                return spans, token.start()
        word, begin = ("" if sign in "{}<>[],;\"'" else token[0]), token.start()
    raise ValueError(f"The text has fewer models. Received: position={position}, text={text!r}")


def _path(opened: Sequence[tuple[str, int]]) -> list[str]:
    return [name for name, _ in opened if name]


def _cut(text: str, start: int, stop: int) -> str:
    line, rest = text.rfind("\n", 0, start) + 1, text[stop:].lstrip(" \t\r")
    if rest.startswith("\n") and not text[line:start].strip():
        return text[:line] + rest[1:]
    return text[:start] + rest


def _insert(text: str, end: int, fields: Sequence[str]) -> str:
    line = text.rfind("\n", 0, end) + 1
    indent = text[line:end]
    if indent.strip():
        return " ".join([text[:end].rstrip(), *fields, text[end:]])
    return text[:line] + "".join(f"{indent}  {field}\n" for field in fields) + text[line:]
