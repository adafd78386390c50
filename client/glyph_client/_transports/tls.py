"""Certificates from files to the standard library's context."""

import ssl
from collections.abc import Mapping
from typing import Final

from glyph_client._errors import TargetError
from glyph_client._transports.base import TLS

# By a part of what OpenSSL says, the last ones in different versions of it.
_REMEDIES: Final[Mapping[str, str]] = {
    "issuer": "name the authority to trust, TLS(ca=...) or --ca",
    "self-signed": "name the authority to trust, TLS(ca=...) or --ca",
    "mismatch": "give a name that the certificate has",
    "expired": "the server needs another one",
    "CERTIFICATE_REQUIRED": "give the client's, TLS(certificate=..., key=...)",
    "WRONG_VERSION_NUMBER": "if the server has no TLS, give http:// or grpc://",
    "RECORD_LAYER_FAILURE": "if the server has no TLS, give http:// or grpc://",
}


def ssl_context(tls: TLS) -> ssl.SSLContext:
    """What connections are secured with.

    Raises:
        TargetError: a file cannot be read, or is no certificate or key.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:  # ssl.SSLError is one.
        raise TargetError(f"the certificates cannot be read ({error}). Received: {tls}. Give PEM files.") from error
    return context


def reason(error: OSError) -> str:
    """Why a connection failed, and where TLS is the reason, what to do."""
    said = error.strerror or str(error)
    remedy = next((each for part, each in _REMEDIES.items() if isinstance(error, ssl.SSLError) and part in said), "")
    return f"{said}; {remedy}" if remedy else said
