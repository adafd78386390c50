"""Gzip and zlib with a limit on what comes out, so that a small request cannot fill the memory."""

import zlib

MAX_UNZIPPED = 100 * 2**20  # bytes; the genuine server's limit
_GZIP, _ZLIB = 31, 15  # zlib's numbers for the two formats with the largest window


def unzip(data: bytes, limit: int = MAX_UNZIPPED, *, gzip: bool = True) -> bytes:
    """What compressed data holds.

    Args:
        data: One member, and nothing after it.
        limit: The most bytes that may come out.
        gzip: Whether the format is gzip's or, as in HTTP's and gRPC's "deflate", zlib's.

    Raises:
        ValueError: It is of another format, cut short, or followed by more.
        OverflowError: More would come out than the limit.
    """
    inflate = zlib.decompressobj(_GZIP if gzip else _ZLIB)
    try:
        unzipped = inflate.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(unzipped) > limit:
        raise OverflowError(f"more than {limit} bytes")
    if not inflate.eof:
        raise ValueError("cut short")
    if inflate.unused_data:
        raise ValueError("there is more after its end")
    return unzipped
