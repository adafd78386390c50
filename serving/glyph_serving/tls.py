"""TLS: what an SSLConfig file says, checked before anything listens."""

import ssl
import tempfile
from dataclasses import dataclass, field

from glyph_serving.errors import invalid_argument
from glyph_serving.text_proto import MESSAGES, read_message

_LONGEST = 131_000  # bytes: Envoy gets each PEM text as a variable of its environment, which may have 128 KiB
CANNOT_LISTEN = "Failed to BuildAndStart gRPC server"  # as the genuine server words it


@dataclass(frozen=True)
class TlsConfig:
    """How a port is encrypted, all in PEM.

    Attributes:
        key: The server's private key.
        certificate: The server's certificate, and those between it and its root.
        client_authority: What callers' certificates have to be signed by; empty: callers need none.
    """

    key: str = field(repr=False)
    certificate: str
    client_authority: str


def read_tls(path: str, refusal: str) -> TlsConfig:
    """Reads an SSLConfig file, whose fields hold PEM texts, not the names of files.

    Args:
        path: The file.
        refusal: What is said of a port that cannot be opened with what it holds; why, comes as the error's detail.

    Raises:
        ServingError: The file is missing, is no SSLConfig, or its key and certificates do not fit.
    """
    message = read_message(path, MESSAGES["SSLConfig"]())
    for name in ("server_key", "server_cert"):
        if not getattr(message, name):
            raise invalid_argument(refusal, f"{path} has no {name}: it must hold the PEM text itself")
    if message.client_verify and not message.custom_ca:
        raise invalid_argument(refusal, f"{path} asks for client_verify but has no custom_ca to verify callers with")
    authority = message.custom_ca if message.client_verify else ""
    texts = {"server_key": message.server_key, "server_cert": message.server_cert, "custom_ca": authority}
    for name, text in texts.items():
        if (size := len(text.encode())) > _LONGEST:
            raise invalid_argument(refusal, f"the {name} in {path} is too long: {size} bytes, where {_LONGEST} may be")

    def passphrase() -> str:
        raise invalid_argument(refusal, f"the server_key in {path} is encrypted: it must be one without a passphrase")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as both:  # which the ssl module takes from a file only
        both.write(f"{message.server_key}\n{message.server_cert}\n")
        both.flush()
        try:
            context.load_cert_chain(both.name, password=passphrase)
            if authority:
                context.load_verify_locations(cadata=authority)
        except ssl.SSLError as error:
            reason = error.reason or str(error)
            raise invalid_argument(
                refusal, f"{path}: server_key, server_cert or custom_ca cannot be used: {reason}"
            ) from None
    return TlsConfig(message.server_key, message.server_cert, authority)
