"""Compressed bodies, never inflated past the limit that a plain body has."""

import zlib

from service.errors import InvalidError, TooLargeError, UnsupportedError

_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS


def inflate(body: bytes, encoding: str | None, limit: int) -> bytes:
    """Return a body as it was before it was compressed.

    Parameters
    ----------
    body
        As it came.
    encoding
        The header `Content-Encoding`; none and `identity` leave the body as it is.
    limit
        How many bytes the result may have.

    Raises
    ------
    UnsupportedError
        The encoding is neither gzip nor deflate.
    InvalidError
        The body is not of that encoding, not whole, or goes on after its end.
    TooLargeError
        It inflates to more than the limit; no more than that is inflated.
    """
    name = (encoding or "identity").strip().lower()
    if name == "identity":
        return body
    if name not in ("gzip", "x-gzip", "deflate"):
        raise UnsupportedError("the body is compressed by neither gzip nor deflate", "Content-Encoding")
    inflater = zlib.decompressobj(_ZLIB_OR_GZIP)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidError(f"the body is not {name}: {error}", "Content-Encoding") from None
    if len(plain) > limit:
        raise TooLargeError(f"the body inflates to more than {limit} bytes")
    if not inflater.eof or inflater.unused_data:
        raise InvalidError(f"the body is not whole, or goes on after the end of what is {name}", "Content-Encoding")
    return plain
