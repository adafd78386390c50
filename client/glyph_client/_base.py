"""What the client for threads and the client for asyncio share."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from numbers import Real
from typing import Final, Generic, cast

from PIL import Image

from glyph_client._errors import InputError
from glyph_client._flows import Attempt, Flows, Interceptor, TransportT
from glyph_client._retry import Deadline, Retry
from glyph_client._transports import split_targets
from glyph_client._transports.base import TLS, Options, Target
from glyph_client._types import ModelSpec

DEFAULT_TARGET: Final = "localhost:8500"
DEFAULT_TIMEOUT: Final = 10.0
BATCH_SIZE: Final = 64
CONCURRENCY: Final = 8
# What the protocols say themselves, some of it of one connection only.
_RESERVED_HEADERS: Final = {
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "host",
    "content-encoding",
    "content-length",
    "content-type",
    "accept-encoding",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-timeout",
}
_MOST_SECONDS: Final = 2_000_000  # 23 days: sockets count milliseconds in 31 bits


class BaseClient(Generic[TransportT]):
    """What both fronts are made with."""

    def __init__(
        self,
        connect: Callable[[Target, Options], TransportT],
        target: str | Sequence[str],
        transport: TransportT | None,
        options: Options,
        spec: ModelSpec,
        timeout: float,
        retry: Retry,
        hedge_after: float | None,
        interceptors: Sequence[Interceptor],
    ) -> None:
        self._timeout = check_seconds("timeout", timeout)
        self._hedge_after = None if hedge_after is None else check_seconds("hedge_after", hedge_after)
        self._interceptors = tuple(interceptors)
        targets = [] if transport else split_targets(target)
        options = replace(options, has_others=len(targets) > 1)
        transports = [transport] if transport else [connect(each, options) for each in targets]
        self._flows: Flows[TransportT] = Flows(transports, spec, retry)

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else check_seconds("timeout", timeout)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._seconds(timeout))

    def _hedge(self, attempt: Attempt[TransportT]) -> Attempt[TransportT]:
        """The same attempt, if there is another replica on that."""
        other = self._flows.replicas.pick([attempt.transport])
        left = attempt.timeout - cast("float", self._hedge_after)
        return Attempt(attempt.request, other, attempt.number, max(left, 0.001))

    def _around(self, attempt: Attempt[TransportT]) -> ExitStack:
        stack = ExitStack()
        for interceptor in self._interceptors:
            stack.enter_context(interceptor(attempt))
        return stack


def check_seconds(name: str, seconds: float) -> float:
    """The seconds, where they are a time that can be waited for; else raises InputError."""
    if not (isinstance(seconds, Real) and 0 < seconds <= _MOST_SECONDS):
        raise InputError(f"{name} is seconds above 0, {_MOST_SECONDS:,} at most. Received: {seconds}.")
    return float(seconds)


def check_many(pictures: object, **counts: int) -> None:
    """Raises InputError where the pictures are only one, or one of the numbers is not at least 1."""
    # Some could be gone through: a path letter by letter, an open file line by line.
    if isinstance(pictures, str | bytes | bytearray | memoryview | os.PathLike | Image.Image) or hasattr(
        pictures, "read"
    ):
        raise InputError(f"predict_many takes a list of pictures. Received: one, {pictures!r:.100}. Give [picture].")
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name} is a number from 1. Received: {count}.")


def make_options(
    headers: Mapping[str, str], api_key: str | None, token: str | None, tls: TLS | None, *, compression: bool
) -> Options:
    """What the transports are built with."""
    secrets = {"x-api-key": api_key, "authorization": None if token is None else f"Bearer {token}"}
    named = {**headers, **{name: value for name, value in secrets.items() if value is not None}}
    check_headers(named)
    return Options(named, tls or TLS(), compression)


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises InputError where one of the headers cannot be sent."""
    for name, value in headers.items():
        # Values may be secrets, which no message repeats.
        if not (name and name.isascii() and name.replace("-", "").replace("_", "").isalnum()):
            raise InputError(f"a header's name is letters, digits, - and _. Received: {name!r}.")
        if name.lower() in _RESERVED_HEADERS:
            raise InputError(
                f"a header that the protocol itself needs cannot be given. Received: {name!r}. Leave it out."
            )
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            raise InputError(
                f"a header's value is printable ASCII without spaces around it. Received: something else for {name!r}."
            )
