"""JSON as RapidJSON reads and prints it: the same errors at the same offsets, the same text in messages.

Slower than the standard library's parser, which reads the requests that are in order; this one reads the others, to
say what is wrong with them.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from glyph_serving.errors import ServingError, invalid_argument

MAX_DEPTH = 400  # arrays and objects within one another; tensors have at most 254 dimensions

_WHITESPACE = re.compile(rb"[ \n\r\t]*")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]+')
_HEX = re.compile(rb"[0-9a-fA-F]{4}")
_SIMPLE_ESCAPES = {
    ord('"'): b'"',
    ord("\\"): b"\\",
    ord("/"): b"/",
    ord("b"): b"\b",
    ord("f"): b"\f",
    ord("n"): b"\n",
    ord("r"): b"\r",
    ord("t"): b"\t",
}
_WORDS = ((b"null", None), (b"true", True), (b"false", False))


@dataclass(frozen=True)
class Object:
    """A JSON object: its members in order, names that occur twice included."""

    members: tuple[tuple[bytes, Any], ...]

    def find(self, name: bytes) -> Any:
        """The value of the first member of that name; MISSING if there is none."""
        return next((value for key, value in self.members if key == name), MISSING)

    def __iter__(self) -> Iterator[tuple[bytes, Any]]:
        return iter(self.members)


MISSING = object()


def parse(text: bytes) -> Any:
    """Reads a JSON value and ignores what follows it.

    Args:
        text: UTF-8; bytes that are none pass through in strings.

    Returns:
        None, a bool, an int, a float, ``bytes`` for a string, a list or an Object.

    Raises:
        ServingError: INVALID_ARGUMENT with RapidJSON's message and offset.
    """
    if not text:
        raise invalid_argument("JSON Parse error: The document is empty")
    reader = _Reader(text)
    reader.skip()
    if reader.at >= len(text):
        raise reader.error("The document is empty.", reader.at)
    return reader.value(0)


class _Reader:
    """A position in a text."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self.at = 0

    def error(self, message: str, at: int) -> ServingError:
        return invalid_argument(f"JSON Parse error: {message} at offset: {at}")

    def skip(self) -> None:
        match = _WHITESPACE.match(self._text, self.at)
        assert match is not None  # noqa: S101 (it matches the empty string)
        self.at = match.end()

    def peek(self) -> int:
        return self._text[self.at] if self.at < len(self._text) else 0

    def take(self, wanted: bytes) -> bool:
        if self._text.startswith(wanted, self.at):
            self.at += len(wanted)
            return True
        return False

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self.error(f"Nested deeper than {MAX_DEPTH} levels.", self.at)
        first = self.peek()
        if first == ord("{"):
            return self._object(depth)
        if first == ord("["):
            return self._array(depth)
        if first == ord('"'):
            return self._string()
        for word, value in _WORDS:
            if first == word[0]:
                self._word(word)
                return value
        return self._number()

    def _word(self, word: bytes) -> None:
        for i in range(len(word)):
            if not self.take(word[i : i + 1]):
                raise self.error("Invalid value.", self.at)

    def _object(self, depth: int) -> Object:
        self.at += 1
        self.skip()
        members: list[tuple[bytes, Any]] = []
        if self.take(b"}"):
            return Object(())
        while True:
            if self.peek() != ord('"'):
                raise self.error("Missing a name for object member.", self.at)
            name = self._string()
            self.skip()
            if not self.take(b":"):
                raise self.error("Missing a colon after a name of object member.", self.at)
            self.skip()
            members.append((name, self.value(depth + 1)))
            self.skip()
            if self.take(b"}"):
                return Object(tuple(members))
            if not self.take(b","):
                raise self.error("Missing a comma or '}' after an object member.", self.at)
            self.skip()

    def _array(self, depth: int) -> list[Any]:
        self.at += 1
        self.skip()
        items: list[Any] = []
        if self.take(b"]"):
            return items
        while True:
            items.append(self.value(depth + 1))
            self.skip()
            if self.take(b"]"):
                return items
            if not self.take(b","):
                raise self.error("Missing a comma or ']' after an array element.", self.at)
            self.skip()

    def _string(self) -> bytes:
        self.at += 1
        parts: list[bytes] = []
        while True:
            if match := _PLAIN.match(self._text, self.at):
                parts.append(match.group())
                self.at = match.end()
            if self.take(b'"'):
                return b"".join(parts)
            if self.peek() == ord("\\"):
                parts.append(self._escape())
            elif self.peek() == 0:
                raise self.error("Missing a closing quotation mark in string.", self.at)
            else:
                raise self.error("Invalid encoding in string.", self.at)

    def _escape(self) -> bytes:
        start = self.at
        self.at += 1
        simple = _SIMPLE_ESCAPES.get(self.peek())
        if simple is not None:
            self.at += 1
            return simple
        if not self.take(b"u"):
            raise self.error("Invalid escape character in string.", start)
        point = self._hex(start)
        if 0xD800 <= point <= 0xDFFF:
            if point > 0xDBFF or not self.take(b"\\u"):
                raise self.error("The surrogate pair in string is invalid.", start)
            low = self._hex(start)
            if not 0xDC00 <= low <= 0xDFFF:
                raise self.error("The surrogate pair in string is invalid.", start)
            point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00)
        return chr(point).encode()

    def _hex(self, start: int) -> int:
        match = _HEX.match(self._text, self.at)
        if match is None:
            raise self.error("Incorrect hex digit after \\u escape in string.", start)
        self.at = match.end()
        return int(match.group(), 16)

    def _number(self) -> int | float:
        start = self.at
        match = _NUMBER.match(self._text, start)
        if match is None:
            return self._nan_or_infinity()
        self.at = match.end()
        is_float = False
        if self.take(b"."):
            is_float = True
            self._digits("Miss fraction part in number.")
        if self.take(b"e") or self.take(b"E"):
            is_float = True
            if not self.take(b"+"):
                self.take(b"-")
            self._digits("Miss exponent in number.")
        written = self._text[start : self.at]
        if not is_float:
            whole = int(written)
            if -(2**63) <= whole < 2**64:
                return whole
        number = float(written)
        if math.isinf(number):
            raise self.error("Number too big to be stored in double.", start)
        return number

    def _digits(self, missing: str) -> None:
        first = self.at
        while 0x30 <= self.peek() <= 0x39:
            self.at += 1
        if self.at == first:
            raise self.error(missing, self.at)

    def _nan_or_infinity(self) -> float:
        minus = self.take(b"-")
        if self.take(b"N"):
            if self.take(b"a") and self.take(b"N"):
                return math.nan
        elif self.take(b"I") and self.take(b"n") and self.take(b"f"):
            if self.peek() == ord("i"):
                self._word(b"inity")
            return -math.inf if minus else math.inf
        raise self.error("Invalid value.", self.at)


def to_text(value: Any, indent: int = 0) -> str:
    """A value as the genuine server shows it in messages: indented by four, arrays on one line.

    Args:
        value: What ``parse`` gave.
        indent: The level of the value within others.
    """
    if isinstance(value, Object):
        if not value.members:
            return "{}"
        inner = " " * 4 * (indent + 1)
        lines = ",\n".join(f"{inner}{quote(name)}: {to_text(item, indent + 1)}" for name, item in value)
        return f"{{\n{lines}\n{' ' * 4 * indent}}}"
    if isinstance(value, list):
        return "[" + ", ".join(to_text(item, indent + 1) for item in value) + "]"
    if isinstance(value, bytes):
        return quote(value)
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return _double(value) if isinstance(value, float) else str(value)


def type_name(value: Any) -> str:
    """What the genuine server calls the type of a value."""
    if isinstance(value, bool):
        return "True" if value else "False"
    kinds = {type(None): "Null", Object: "Object", list: "Array", bytes: "String"}
    return kinds.get(type(value), "Number")


_ESCAPES = {code: f"\\u{code:04X}" for code in range(0x20)} | {
    ord('"'): '\\"',
    ord("\\"): "\\\\",
    ord("\b"): "\\b",
    ord("\f"): "\\f",
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}


def quote(value: bytes) -> str:
    """A JSON string; bytes that are no UTF-8 become lone surrogates, to be encoded with ``surrogateescape``."""
    return '"' + value.decode("utf-8", "surrogateescape").translate(_ESCAPES) + '"'


def _double(value: float) -> str:
    """A number in RapidJSON's notation: the shortest digits, an exponent only from 1e21 and below 1e-6."""
    if not math.isfinite(value):
        return ""  # RapidJSON's writer refuses it and writes nothing
    sign, digit_tuple, power = Decimal(repr(value)).normalize().as_tuple()
    digits = "".join(map(str, digit_tuple))
    point = len(digits) + int(power)  # where the decimal point lies, counted from the first digit
    if 0 < point <= 21:
        text = digits.ljust(point, "0")
        text = f"{text[:point]}.{text[point:] or '0'}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}" if value else "0.0"
    else:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        text = f"{digits[0]}{fraction}e{point - 1}"
    return f"-{text}" if sign else text
