"""The options that describe requests: the same ones for `glyph-load` and for Locust's own command line."""

import os
import ssl
from argparse import ArgumentParser, ArgumentTypeError, Namespace, _ActionsContainer
from dataclasses import replace

from glyph_loadtest.arrival import Arrivals
from glyph_loadtest.target import PayloadKind, Target, parse_address

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """Reads a time such as ``10s``, ``500ms``, ``2m`` or ``1h`` (a plain number means seconds); returns seconds.

    Raises:
        ArgumentTypeError: it is none.
    """
    unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
    try:
        seconds = float(text.removesuffix(unit)) * _UNITS.get(unit, 1.0)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ArgumentTypeError(f"a time looks like 10s, 500ms, 2m or 1h. Received: {text!r}")
    return seconds


def share(text: str) -> float:
    """Reads a share such as ``0.1`` or ``10%``; returns a number from 0 to 1.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"a share looks like 0.1 or 10%. Received: {text!r}")
    return value


def rate(text: str) -> float:
    """Reads a rate in requests a second such as ``500``, ``2.5`` or ``10k``.

    Raises:
        ArgumentTypeError: it is none, or not more than 0.
    """
    try:
        value = float(text.removesuffix("k")) * (1000 if text.endswith("k") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"a rate is a number of requests a second, such as 500 or 10k. Received: {text!r}")
    return value


def positive(text: str) -> int:
    """Reads a whole number of at least 1.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"a whole number, at least 1, is needed. Received: {text!r}")
    return int(text)


def certificates(text: str) -> str:
    """Reads the name of a PEM file of certificates, and makes sure that it is one.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        ssl.create_default_context(cafile=text)
    except OSError as error:
        raise ArgumentTypeError(f"a PEM file of certificates is needed ({error}). Received: {text!r}") from error
    return text


def add_request_options(parser: ArgumentParser) -> None:
    """Adds the options that say what the requests look like."""
    group = parser.add_argument_group("requests")
    group.add_argument("--model", default="digits", help="the model's name (default: digits)")
    group.add_argument(
        "--payload",
        choices=[kind.value for kind in PayloadKind],
        default="uint8",
        help="what an image is sent as: pixel values 0-255 (default), floats 0-1, or the bytes of a JPEG file",
    )
    group.add_argument("--batch", type=positive, default=1, metavar="N", help="images in one request (default: 1)")
    group.add_argument(
        "--request-timeout",
        type=duration,
        default=10.0,
        metavar="TIME",
        help="when a request counts as failed (default: 10s)",
    )
    group.add_argument(
        "--check-share",
        type=share,
        default=0.1,
        metavar="SHARE",
        help="the share of the answers that is compared with the truth (default: 0.1)",
    )
    group.add_argument(
        "--ca",
        type=certificates,
        default=os.environ.get("GLYPH_CA", ""),
        metavar="FILE",
        help="certificates to trust with grpcs:// and https://, as a PEM file (default: GLYPH_CA, or the system's)",
    )


def target_of(text: str, options: Namespace) -> Target:
    """The target that a text and the request options describe, with the API key of the environment.

    Raises:
        TargetError: they describe none.
    """
    address, rest = parse_address(text)
    address = replace(address, ca=options.ca)
    payload, api_key = PayloadKind(options.payload), os.environ.get("GLYPH_API_KEY", "")
    return Target(address, rest, options.model, payload, options.batch, options.request_timeout, api_key)


def add_stock_options(parser: ArgumentParser) -> None:
    """Adds what makes Locust's own command line send in an open loop."""
    group = parser.add_argument_group("open loop")
    group.add_argument(
        "--rate",
        type=rate,
        default=0.0,
        metavar="RATE",
        help="requests that are due each second from each of Locust's users, answered or not (default: a closed loop)",
    )
    add_arrivals(group)


def add_arrivals(group: _ActionsContainer) -> None:
    """Adds how the requests of an open loop follow each other."""
    group.add_argument(
        "--arrivals",
        choices=[kind.value for kind in Arrivals],
        default="poisson",
        help="how requests follow each other: independently, as from many people (default), or evenly",
    )
