"""JSON as RapidJSON reads and prints it: the same errors at the same offsets, the same text in messages.

Slower than the standard library's parser, which reads the requests that are in order; this one reads the others, to
say what is wrong with them.
"""

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from glyph_serving.errors import ServingError, invalid_argument
from glyph_serving.grisu import digits_of

MAX_DEPTH = 10_000  # arrays and objects within one another; tensors have at most 254 dimensions
_BOM = b"\xef\xbb\xbf"
_WHITESPACE = re.compile(rb"[ \n\r\t]*")
_NUMBER = re.compile(rb"(-?)(0|[1-9][0-9]*)")
_LONGEST_INTEGER = 20  # digits of one of 64 bits
_SIGNIFICANT_DIGITS = 17
_LARGEST_DOUBLE = sys.float_info.max
_LARGEST_POWER = 308  # of ten, as a double
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
    for byte in _BOM:  # each by itself, there or not
        reader.take(bytes([byte]))
    reader.skip()
    if reader.peek() in b"\0]},:":
        raise reader.error("The document is empty.", reader.at)
    return reader.value()


class _Container:
    """An array or object of which not all has been read."""

    def __init__(self, is_object: bool) -> None:
        self.is_object = is_object
        self.end = b"}" if is_object else b"]"
        self.names: list[bytes] = []
        self.items: list[Any] = []

    @property
    def missing_comma(self) -> str:
        kind = "'}' after an object member" if self.is_object else "']' after an array element"
        return f"Missing a comma or {kind}."

    def value(self) -> Any:
        return Object(tuple(zip(self.names, self.items, strict=True))) if self.is_object else self.items


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

    def value(self) -> Any:
        """Reads a value: whatever it holds is put into the innermost container that is open."""
        containers: list[_Container] = []
        while True:
            first = self.peek()
            if first == ord("{") or first == ord("["):
                container = _Container(first == ord("{"))
                self.at += 1
                self.skip()
                if not self.take(container.end):
                    if len(containers) == MAX_DEPTH:
                        raise self.error(f"Nested deeper than {MAX_DEPTH} levels.", self.at)
                    containers.append(container)
                    self._name(container)
                    continue
                value = container.value()
            else:
                value = self._scalar(first)
            while containers:
                container = containers[-1]
                container.items.append(value)
                self.skip()
                if not self.take(container.end):
                    break
                value = containers.pop().value()
            else:
                return value
            if not self.take(b","):
                raise self.error(container.missing_comma, self.at)
            self.skip()
            self._name(container)

    def _name(self, container: "_Container") -> None:
        """Reads what stands before a value in an object."""
        if not container.is_object:
            return
        if self.peek() != ord('"'):
            raise self.error("Missing a name for object member.", self.at)
        container.names.append(self._string())
        self.skip()
        if not self.take(b":"):
            raise self.error("Missing a colon after a name of object member.", self.at)
        self.skip()

    def _scalar(self, first: int) -> Any:
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
                raise self.error("Invalid escape character in string.", self.at)

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
        if 0xD800 <= point <= 0xDBFF:  # a low surrogate alone is taken for a character
            if not self.take(b"\\u"):
                raise self.error("The surrogate pair in string is invalid.", start)
            low = self._hex(start)
            if not 0xDC00 <= low <= 0xDFFF:
                raise self.error("The surrogate pair in string is invalid.", start)
            point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00)
        return chr(point).encode("utf-8", "surrogatepass")

    def _hex(self, start: int) -> int:
        match = _HEX.match(self._text, self.at)
        if match is None:
            raise self.error("Incorrect hex digit after \\u escape in string.", start)
        self.at = match.end()
        return int(match.group(), 16)

    def _number(self) -> int | float:
        start = self.at
        match = _NUMBER.match(self._text, start)
        if match is not None:
            self.at = match.end()
            sign, whole = match.groups()
        else:
            word = self._nan_or_infinity()
            if self.peek() not in b".eE":
                return word
            sign, whole = b"-" * self._text.startswith(b"-", start), b"0"  # the word does not count then
        fraction = exponent = None
        if self.take(b"."):
            fraction = self._digits("Miss fraction part in number.")
        if self.take(b"e") or self.take(b"E"):
            minus = not self.take(b"+") and self.take(b"-")
            exponent = (b"-" if minus else b"") + self._digits("Miss exponent in number.")
        largest = 2**63 if sign else 2**64 - 1
        if fraction is None and exponent is None and len(whole) <= _LONGEST_INTEGER and int(whole) <= largest:
            return int(sign + whole)
        try:
            number = _double(whole, fraction or b"", exponent or b"0", largest)
        except OverflowError:
            raise self.error("Number too big to be stored in double.", start) from None
        return -number if sign else number

    def _digits(self, missing: str) -> bytes:
        first = self.at
        while 0x30 <= self.peek() <= 0x39:
            self.at += 1
        if self.at == first:
            raise self.error(missing, self.at)
        return self._text[first : self.at]

    def _nan_or_infinity(self) -> float:
        minus = self.take(b"-")
        if self.take(b"N") and self.take(b"a") and self.take(b"N"):
            return math.nan
        if self.take(b"I") and self.take(b"n") and self.take(b"f"):  # after N or Na, too
            if self.peek() == ord("i"):
                self._word(b"inity")
            return -math.inf if minus else math.inf
        raise self.error("Invalid value.", self.at)


def _double(whole: bytes, fraction: bytes, exponent: bytes, largest: int) -> float:
    """A number as RapidJSON rounds it: some 17 of its digits, scaled by a power of ten.

    Args:
        whole: The digits before the point.
        fraction: Those behind it.
        exponent: The exponent's, with its minus.
        largest: The largest integer that is kept as such.

    Raises:
        OverflowError: It has too many digits or too large an exponent. Is only their product too large, it is infinite.
    """
    integer = places = taken = 0
    while taken < len(whole) and (longer := 10 * integer + int(whole[taken : taken + 1])) <= largest:
        integer, taken = longer, taken + 1
    significant = taken - 1
    number = float(integer)
    for digit in whole[taken:]:
        if number >= _LARGEST_DOUBLE / 10:
            raise OverflowError
        number = 10 * number + (digit - ord("0"))
    if taken == len(whole):
        while places < len(fraction) and integer < 2**53:
            integer = 10 * integer + int(fraction[places : places + 1])
            places += 1
            significant += integer > 0
        number = float(integer)
    for digit in fraction[places:]:
        if significant >= _SIGNIFICANT_DIGITS:
            break
        number = 10 * number + (digit - ord("0"))
        places += 1
        significant += number > 0
    if exponent.startswith(b"-"):
        power = -int(exponent[1:].lstrip(b"0")[:_LONGEST_INTEGER] or b"0")
    else:
        power = int(exponent.lstrip(b"0")[:_LONGEST_INTEGER] or b"0")
        if power > _LARGEST_POWER + places and len(exponent) > 1:
            raise OverflowError
    power -= places
    if power < -_LARGEST_POWER:
        number, power = number / _power_of_ten(_LARGEST_POWER), power + _LARGEST_POWER
    if power < -_LARGEST_POWER:
        return 0.0
    return number * _power_of_ten(power) if power >= 0 else number / _power_of_ten(-power)


def _power_of_ten(power: int) -> float:
    return float(f"1e{power}")


def to_text(value: Any, limit: int) -> str:
    """A value as the genuine server shows it in messages: indented by four, arrays on one line.

    Args:
        value: What ``parse`` gave.
        limit: The most bytes to show.

    Returns:
        The text; as far as a number that is not finite, which RapidJSON's writer refuses.
    """
    shown = b""
    for piece in _pieces(value, ""):
        shown += piece.encode("utf-8", "surrogateescape")
        if not piece or len(shown) >= limit:
            break
    return shown[:limit].decode("utf-8", "surrogateescape")


def _pieces(value: Any, indent: str) -> Iterator[str]:
    """The text of a value piece by piece, none of them empty but that of a number that is not finite."""
    if isinstance(value, Object) and value.members:
        inner = indent + " " * 4
        yield "{\n"
        for position, (name, item) in enumerate(value):
            yield (",\n" if position else "") + f"{inner}{quote(name)}: "
            yield from _pieces(item, inner)
        yield f"\n{indent}}}"
    elif isinstance(value, list) and value:
        yield "["
        for position, item in enumerate(value):
            if position:
                yield ", "
            yield from _pieces(item, indent + " " * 4)
        yield "]"
    elif isinstance(value, Object):
        yield "{}"
    elif isinstance(value, bytes):
        yield quote(value)
    elif isinstance(value, float):
        yield _double_text(value)
    elif value is None or isinstance(value, bool):
        yield {None: "null", True: "true", False: "false"}[value]
    else:
        yield str(value)


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


def _double_text(value: float) -> str:
    """A number in RapidJSON's notation: its digits, an exponent only from 1e21 and below 1e-6."""
    if not math.isfinite(value):
        return ""
    if value == 0:
        return "-0.0" if math.copysign(1, value) < 0 else "0.0"
    digits, power = digits_of(abs(value))
    point = len(digits) + power  # where the decimal point lies, counted from the first digit
    if 0 < point <= 21:
        text = digits.ljust(point, "0")
        text = f"{text[:point]}.{text[point:] or '0'}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        text = f"{digits[0]}{fraction}e{point - 1}"
    return f"-{text}" if value < 0 else text
