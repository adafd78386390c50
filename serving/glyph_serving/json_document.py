"""What all JSON requests have in common: a document, the name of a signature, strings as base64, shown values."""

import binascii
import re
from typing import Any

from glyph_serving.errors import ServingError, invalid_argument
from glyph_serving.json_value import MISSING, Object, parse, to_text

_MAX_SHOWN = 256  # bytes of a value in a message
_BASE64 = re.compile(rb"([A-Za-z0-9+/]*)([=.]*)")
_BASE64_SPACE = b" \t\n\v\f\r"


def read_document(body: bytes) -> Object:
    """The JSON object that a request is.

    Raises:
        ServingError: INVALID_ARGUMENT for what is none.
    """
    document = parse(body)
    if not isinstance(document, Object):
        raise format_error(document, "Is not object")
    return document


def signature_name(document: Object) -> str:
    """The name of the signature that a request asks for, "" for the default."""
    name = document.find(b"signature_name")
    if name is MISSING:
        return ""
    if not isinstance(name, bytes):
        raise format_error(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return name.decode("utf-8", "surrogateescape")


def is_base64(value: Any) -> bool:
    """Whether a value is an object that stands for a string of bytes."""
    return isinstance(value, Object) and len(value.members) == 1 and isinstance(value.find(b"b64"), bytes)


def decode_base64_object(value: Object) -> bytes:
    """The bytes that an object stands for.

    Raises:
        ServingError: INVALID_ARGUMENT if it stands for none.
    """
    if not is_base64(value):
        raise invalid_argument(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    try:
        return decode_base64(value.find(b"b64"))
    except ValueError:
        raise invalid_argument("Unable to base64 decode") from None


def decode_base64(text: bytes) -> bytes:
    """Decodes base64, with or without padding (a dot will do, too), white space ignored.

    Raises:
        ValueError: It is none.
    """
    match = _BASE64.fullmatch(text.translate(None, _BASE64_SPACE))
    if match is None:
        raise ValueError("not base64")
    digits, padding = match.groups()
    missing = -len(digits) % 4
    if missing == 3 or (padding and len(padding) != missing):
        raise ValueError("not base64")
    return binascii.a2b_base64(digits + b"=" * missing)


def shown(value: Any) -> str:
    """A value as messages show it, cut where it is long."""
    return to_text(value, _MAX_SHOWN)


def format_error(value: Any, problem: str) -> ServingError:
    """The error for a value of the wrong form."""
    return invalid_argument(f"JSON Value: {shown(value)} {problem}")
