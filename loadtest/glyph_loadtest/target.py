"""What is asked: the server, the model, and the form of the requests."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from glyph_loadtest.channel import Address

_PORTS = {"grpc": 8500, "grpcs": 8500, "http": 8501, "https": 443}


class TargetError(ValueError):
    """The target, or the form of the requests, cannot be used; the message says why and what to do."""


class PayloadKind(StrEnum):
    """What an image is sent as."""

    UINT8 = "uint8"  # pixel values 0-255, to the signature serving_default
    FLOAT = "float"  # values 0-1, to the signature serving_default of a model that reads floats
    JPEG = "jpeg"  # the bytes of a JPEG file, to the signature image_bytes


@dataclass(frozen=True)
class Target:
    """A model on a server, and how requests to it look.

    Attributes:
        address: the server.
        rest: whether to speak REST; otherwise gRPC.
        model: the model's name.
        payload: what an image is sent as.
        batch: images in one request.
        timeout: seconds until a request counts as failed.
        api_key: sent as `x-api-key`; empty for none.
    """

    address: Address
    rest: bool
    model: str = "digits"
    payload: PayloadKind = PayloadKind.UINT8
    batch: int = 1
    timeout: float = 10.0
    api_key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise TargetError(f"a request carries at least one image. Received: batch={self.batch}")
        if self.timeout <= 0:
            raise TargetError(f"the time-out must be more than 0 s. Received: timeout={self.timeout:g}")
        if not re.fullmatch("[!-~]*", self.api_key):
            raise TargetError("an API key is made of visible ASCII characters; the one received has others")

    def __str__(self) -> str:
        scheme = ("http" if self.rest else "grpc") + ("s" if self.address.tls else "")
        return f"{scheme}://{self.address}"


def parse_address(text: str) -> tuple[Address, bool]:
    """Reads ``host:port``, ``grpc://``, ``grpcs://``, ``http://`` or ``https://``; the latter two mean REST.

    Returns:
        The address, and whether to speak REST.

    Raises:
        TargetError: the text names no server.
    """
    url = urlsplit(text if "://" in text else f"grpc://{text}")
    try:
        port = url.port
    except ValueError as error:
        raise TargetError(f"the port of a target is a number up to 65535. Received: {text!r}") from error
    if url.scheme not in _PORTS or not url.hostname or url.path.strip("/") or url.query or url.username:
        raise TargetError(
            "a target is host:port, grpc://host:port or http://host:port (with TLS: grpcs://, https://). "
            f"Received: {text!r}"
        )
    address = Address(url.hostname, port or _PORTS[url.scheme], tls=url.scheme in ("grpcs", "https"))
    return address, url.scheme in ("http", "https")
