"""Any picture in, an answer out: the client SDK for TensorFlow Serving, without TensorFlow."""

from glyph_client._client import Client
from glyph_client._errors import (
    AccessDenied,
    AmbiguousPicture,
    CallError,
    DeadlineExceeded,
    GlyphError,
    InputError,
    InvalidRequest,
    NoInk,
    NotFound,
    Overloaded,
    PictureError,
    PictureTooLarge,
    ServerFault,
    TargetError,
    Unavailable,
    Unsupported,
    call_error,
)
from glyph_client._flows import Attempt, Interceptor, Outcome
from glyph_client._pictures import Picture
from glyph_client._preprocess import Explanation, explain, preprocess
from glyph_client._retry import Retry
from glyph_client._transports.base import TLS, AsyncTransport, Transport
from glyph_client._types import Class, Model, ModelConfig, ModelSpec, Prediction, Signature, TensorSpec, VersionStatus

__all__ = [
    "TLS",
    "AccessDenied",
    "AmbiguousPicture",
    "AsyncTransport",
    "Attempt",
    "CallError",
    "Class",
    "Client",
    "DeadlineExceeded",
    "Explanation",
    "GlyphError",
    "InputError",
    "Interceptor",
    "InvalidRequest",
    "Model",
    "ModelConfig",
    "ModelSpec",
    "NoInk",
    "NotFound",
    "Outcome",
    "Overloaded",
    "Picture",
    "PictureError",
    "PictureTooLarge",
    "Prediction",
    "Retry",
    "ServerFault",
    "Signature",
    "TargetError",
    "TensorSpec",
    "Transport",
    "Unavailable",
    "Unsupported",
    "VersionStatus",
    "call_error",
    "explain",
    "preprocess",
]
