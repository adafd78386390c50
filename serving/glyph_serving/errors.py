"""Errors as TensorFlow Serving tells them: a canonical code and a message, the same on gRPC and REST."""

from enum import IntEnum
from http import HTTPStatus


class Code(IntEnum):
    """The canonical status codes, numbered as in google.rpc.Code, gRPC and TensorFlow."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @property
    def http_status(self) -> int:
        """The HTTP status that TensorFlow Serving answers with for this code (ToHTTPStatusCode)."""
        return _HTTP_STATUS[self]


_HTTP_STATUS = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


class ServingError(Exception):
    """A request or a load that failed, with the code and the message that the caller gets.

    Attributes:
        code: The canonical status code.
        message: What went wrong, as the genuine server words it where it has words for it.
        detail: What can be said beyond that, for the operator.
    """

    def __init__(self, code: Code, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail

    @property
    def in_full(self) -> str:
        """All of it, for logs."""
        return f"{self} ({self.detail})" if self.detail else str(self)

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


class UnloadedError(ServingError):
    """A version was unloaded after a request had found it and before it could run; another one takes its place."""

    def __init__(self) -> None:
        super().__init__(Code.UNAVAILABLE, "The model version is being unloaded. Try again")


def invalid_argument(message: str, detail: str = "") -> ServingError:
    """An INVALID_ARGUMENT error, by far the most frequent one."""
    return ServingError(Code.INVALID_ARGUMENT, message, detail)


def from_tensorflow(error: Exception) -> ServingError:
    """The serving error for an exception out of TensorFlow.

    Args:
        error: Any exception; a ``tf.errors.OpError`` carries its own code and message.
    """
    cause = error.__context__  # session.run raises the error anew, with a page of Python stack in its message
    if isinstance(getattr(cause, "error_code", None), int):
        error = cause  # type: ignore[assignment]
    code = getattr(error, "error_code", None)
    if isinstance(code, int):
        return ServingError(Code(code), str(getattr(error, "message", error)))
    return ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")


def error_page(status: int) -> str:
    """What the genuine server's HTTP library answers with an HTTP status, where no error of TensorFlow Serving is."""
    phrase = HTTPStatus(status).phrase
    return f"<HTML><HEAD>\n<TITLE>{status} {phrase}</TITLE>\n</HEAD><BODY>\n<H1>{phrase}</H1>\n</BODY></HTML>\n"
