"""Gzip and zlib with a limit on what comes out, so that a small request cannot fill the memory."""

import zlib

MAX_UNZIPPED = 100 * 2**20  # bytes; the genuine server's limit
_GZIP, _ZLIB = 31, 15  # zlib's numbers for the two formats with the largest window


def unzip(data: bytes, limit: int = MAX_UNZIPPED, *, gzip: bool = True) -> bytes:
    """What compressed data holds.

    Args:
        data: One or several members.
        limit: The most bytes that may come out.
        gzip: Whether the format is gzip's or, as in HTTP's and gRPC's "deflate", zlib's.

    Raises:
        ValueError: It is of another format, or cut short.
        OverflowError: More would come out than the limit.
    """
    pieces: list[bytes] = []
    size = 0
    while data:
        inflate = zlib.decompressobj(_GZIP if gzip else _ZLIB)
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
