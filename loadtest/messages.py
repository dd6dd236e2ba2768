"""Rank requests as bytes, all but the user made before the run: sending one costs a formatted number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_USER_WIDTH = 19
"""Digits of the largest id. A number padded with blanks is the same JSON number, and the body's length is known."""


@dataclass(frozen=True, slots=True)
class Messages:
    """Requests by candidate list; `message` adds the user."""

    heads: tuple[bytes, ...]
    tails: tuple[bytes, ...]
    num_candidates: NDArray[np.int64]  # (n,)

    def message(self, candidate_list: int, user_id: int) -> bytes:
        """Return a whole HTTP request."""
        return self.heads[candidate_list] + b"%19d" % user_id + self.tails[candidate_list]


def make_messages(host: str, headers: Mapping[str, str], candidate_lists: Sequence[NDArray[np.int64]]) -> Messages:
    """Return the requests of some candidate lists to one host."""
    common = [f"Host: {host}", "Content-Type: application/json", "Accept: application/json"]
    common += [f"{name}: {value}" for name, value in headers.items()]
    heads, tails = [], []
    for candidates in candidate_lists:
        opening, tail = request_body(candidates)
        length = len(opening) + _USER_WIDTH + len(tail)
        lines = ["POST /v1/rank HTTP/1.1", *common, f"Content-Length: {length}"]
        heads.append(("\r\n".join(lines) + "\r\n\r\n").encode() + opening)
        tails.append(tail)
    sizes = np.array([len(candidates) for candidates in candidate_lists], dtype=np.int64)
    return Messages(tuple(heads), tuple(tails), sizes)


def request_body(candidates: NDArray[np.int64]) -> tuple[bytes, bytes]:
    """Return what stands before and after the user's id in a rank request."""
    return b'{"user_id":', f',"candidates":[{",".join(map(str, candidates.tolist()))}]}}'.encode()
