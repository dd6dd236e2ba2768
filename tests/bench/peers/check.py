"""Whether a server scores as the model does: nothing is timed that gives other numbers."""

from collections.abc import Sequence

import httpx
import numpy as np
from numpy.typing import NDArray

from tests.bench.peers.errors import DifferentScoresError, PeerError
from tests.bench.peers.running import Running

TOLERANCE = 1e-4
_TIMEOUT_S = 60


def check_server(
    up: Running,
    users: Sequence[int],
    lists: Sequence[NDArray[np.int64]],
    expected: Sequence[NDArray[np.float32]],
) -> float:
    """Ask a server for some users' candidates and return the largest distance from the expected scores.

    Raises
    ------
    PeerError
        It does not answer.
    DifferentScoresError
        Its scores are others.
    """
    got = [_scores(up, user, candidates) for user, candidates in zip(users, lists, strict=True)]
    try:
        return largest_distance(expected, got)
    except DifferentScoresError as error:
        raise DifferentScoresError(f"{up.server.name}: {error}") from None


def largest_distance(expected: Sequence[NDArray[np.float32]], got: Sequence[NDArray[np.float64]]) -> float:
    """Return by how much scores differ at most.

    Raises
    ------
    DifferentScoresError
        It is more than the tolerance; or a score is missing or not a number, or all are equal, so that none could
        be told from another.
    """
    worst = 0.0
    for number, (right, given) in enumerate(zip(expected, got, strict=True)):
        if given.shape != right.shape:
            raise DifferentScoresError(f"request {number}: {given.size} scores instead of {right.size}")
        distance = np.abs(given - right)
        if not (distance <= TOLERANCE).all():
            raise DifferentScoresError(
                f"request {number}: a score is off by {distance.max():.2e} (at most {TOLERANCE})"
            )
        worst = max(worst, float(distance.max()))
    everything = np.concatenate(list(expected))
    if np.ptp(everything) < 100 * TOLERANCE:
        raise DifferentScoresError("all expected scores are alike: the comparison would hold for anything")
    return worst


def _scores(up: Running, user: int, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
    protocol = up.server.protocol
    before, after, headers = protocol.ask(candidates)
    body = before + b"%19d" % user + after
    try:
        answer = httpx.post(f"{up.url}{protocol.path}", content=body, headers=headers, timeout=_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise PeerError(f"{up.server.name} does not answer: {error}") from error
    if answer.status_code != 200:
        raise PeerError(f"{up.server.name} answers {answer.status_code}: {answer.text[:300]}")
    return protocol.scores(answer.content, len(candidates))
