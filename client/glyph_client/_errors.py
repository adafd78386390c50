"""Everything this package raises, one tree.

GlyphError
├── PictureError           a picture cannot be read (also a ValueError)
│   ├── AmbiguousPicture   an array that could mean two things
│   ├── NoInk              nothing in the picture stands out from its background
│   └── PictureTooLarge    more pixels than the limit
├── InputError             inputs that do not fit the model, refused before sending (also a ValueError)
├── TargetError            an address that cannot be used (also a ValueError)
└── CallError              a call failed: has code, server_message, model, target, attempts, advice
    ├── InvalidRequest     INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE: the server refused the request
    ├── NotFound           NOT_FOUND: no such model, version or label
    ├── AccessDenied       UNAUTHENTICATED, PERMISSION_DENIED
    ├── DeadlineExceeded   DEADLINE_EXCEEDED: no answer in time (also a TimeoutError)
    ├── Overloaded         RESOURCE_EXHAUSTED: the server has more work than it takes
    ├── Unavailable        UNAVAILABLE: nobody answers there, or not now (also a ConnectionError)
    ├── Unsupported        UNIMPLEMENTED: this server, or this protocol, has no such call
    ├── ClientClosed       CANCELLED: the client was closed before there was an answer
    └── ServerFault        everything else: the server failed
"""
# ruff: noqa: N818 (the names say what happened, as in httpx)

from typing import Any, Final, Literal, get_args

Code = Literal[
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]
CODES: Final[tuple[Code, ...]] = get_args(Code)


class GlyphError(Exception):
    """The root of all errors of this package."""


class PictureError(GlyphError, ValueError):
    """A picture cannot be read."""


class AmbiguousPicture(PictureError):
    """An array that could mean two things."""


class NoInk(PictureError):
    """Nothing in the picture stands out from its background."""


class PictureTooLarge(PictureError):
    """More pixels than the limit."""


class InputError(GlyphError, ValueError):
    """Inputs that do not fit the model, refused before anything is sent."""


class TargetError(GlyphError, ValueError):
    """An address that cannot be used."""


class CallError(GlyphError):
    """A call failed.

    Attributes:
        code: the canonical status code; HTTP statuses are translated.
        server_message: what the server, or the connection, said.
        model: the model that was asked for, None where the call names none.
        target: the address that answered last, None if none was tried.
        attempts: how often it was tried.
        retry_after: seconds the server asked to wait before the next attempt, None if it did not; infinite if it asked
            for no further attempt.
        advice: what to do.
    """

    advice = "Look into the server's log."

    def __init__(
        self,
        code: Code,
        server_message: str,
        *,
        model: str | None = None,
        target: str | None = None,
        attempts: int = 1,
        retry_after: float | None = None,
    ) -> None:
        self.code: Code = code
        self.server_message = server_message
        self.model = model
        self.target = target
        self.attempts = attempts
        self.retry_after = retry_after
        super().__init__(code, server_message)

    def __str__(self) -> str:
        about = [f"model {self.model}" if self.model else "", f"at {self.target}" if self.target else ""]
        about.append(f"{self.attempts} attempts" if self.attempts > 1 else "")
        where = ", ".join(part for part in about if part)
        message = self.server_message.strip().rstrip(".")
        return f"{self.code}: {message}{f' ({where})' if where else ''}. {self.advice}"

    def after(self, attempts: int, *, model: str | None, target: str | None) -> "CallError":
        """The same error, saying whom it is about and how often it was tried."""
        return type(self)(
            self.code, self.server_message, model=model, target=target, attempts=attempts, retry_after=self.retry_after
        )


class InvalidRequest(CallError):
    """The server refused the request."""

    advice = "Compare the inputs with the model's signatures (`glyph models`, `Client.metadata`)."


class NotFound(CallError):
    """No such model, version or label."""

    advice = "Check the name and the version: `glyph status --model NAME` shows what the server has of a model."


class AccessDenied(CallError):
    """The server wants other credentials."""

    advice = "Check the API key or the token."


class DeadlineExceeded(CallError, TimeoutError):
    """No answer in time."""

    advice = "Give more time (timeout=...), or look whether the server is overloaded."


class Overloaded(CallError):
    """The server has more work than it takes."""

    advice = "Send less at once, or add a replica."


class Unavailable(CallError, ConnectionError):
    """Nobody answers there, or not now."""

    advice = "Check that a server runs at that address and serves the model (`glyph status`)."


class Unsupported(CallError):
    """This server, or this protocol, has no such call."""

    advice = "Use gRPC (port 8500), which has every call."


class ClientClosed(CallError):
    """The client was closed before there was an answer."""

    advice = "Close it once all calls have ended, and make another one for further calls."

    def __init__(self, code: Code = "CANCELLED", server_message: str = "the client was closed", **about: Any) -> None:
        super().__init__(code, server_message, **about)


class ServerFault(CallError):
    """The server failed."""


_CLASSES: Final[dict[Code, type[CallError]]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "FAILED_PRECONDITION": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "NOT_FOUND": NotFound,
    "UNAUTHENTICATED": AccessDenied,
    "PERMISSION_DENIED": AccessDenied,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "RESOURCE_EXHAUSTED": Overloaded,
    "UNAVAILABLE": Unavailable,
    "UNIMPLEMENTED": Unsupported,
}


def call_error(code: Code, message: str, *, retry_after: float | None = None) -> CallError:
    """The error of that code, of the class that goes with it."""
    return _CLASSES.get(code, ServerFault)(code, message, retry_after=retry_after)
