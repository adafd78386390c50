"""Gzip with a limit on what comes out, so that a small request cannot fill the memory."""

import zlib

MAX_UNZIPPED = 100 * 2**20  # bytes; the genuine server's limit
_GZIP = 31  # zlib's number for the gzip format with the largest window


def unzip(data: bytes, limit: int = MAX_UNZIPPED) -> bytes:
    """What a gzip member holds.

    Args:
        data: One or several members.
        limit: The most bytes that may come out.

    Raises:
        ValueError: It is no gzip, or cut short.
        OverflowError: More would come out than the limit.
    """
    pieces: list[bytes] = []
    size = 0
    while data:
        inflate = zlib.decompressobj(_GZIP)
        try:
            pieces.append(inflate.decompress(data, limit - size + 1))
        except zlib.error as error:
            raise ValueError(str(error)) from None
        size += len(pieces[-1])
        if size > limit:
            raise OverflowError(f"more than {limit} bytes")
        if not inflate.eof:
            raise ValueError("cut short")
        data = inflate.unused_data
    return b"".join(pieces)
