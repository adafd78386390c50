"""Certificates from files to the standard library's context."""

import ssl

from glyph_client._errors import TargetError
from glyph_client._transports.base import TLS


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
