"""Compressed bodies: what is refused, and that nobody has memory filled by a few bytes."""

import gzip
import tracemalloc
import zlib

import pytest

from service.errors import InvalidError, TooLargeError
from service.inflate import inflate

_LIMIT = 2**16


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_no_more_than_the_limit_is_inflated(compress):
    """Of what would become a thousand times the limit no more than a few times the limit is ever held."""
    bomb = compress(b" " * (1000 * _LIMIT))
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError):
            inflate(bomb, "gzip", _LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(bomb) + 10 * _LIMIT


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_the_limit_itself_passes(compress):
    """A body that inflates to exactly the limit is taken, one byte more is not."""
    assert len(inflate(compress(b" " * _LIMIT), "deflate", _LIMIT)) == _LIMIT
    with pytest.raises(TooLargeError):
        inflate(compress(b" " * (_LIMIT + 1)), "deflate", _LIMIT)


@pytest.mark.parametrize("follows", [b"x", b"\0", gzip.compress(b"{}")], ids=["text", "zero", "another"])
def test_what_follows_the_end_is_refused(follows):
    """Nothing is passed over in silence, not even a second body."""
    with pytest.raises(InvalidError, match="goes on after the end"):
        inflate(gzip.compress(b"{}") + follows, "gzip", _LIMIT)
