"""Answers as observers are told of them, without a service."""

import numpy as np

from service.call import Call
from service.observers import Served
from service.query import Query
from service.ranker import Ranking


def make_served(
    *num_candidates: int,
    version: str = "v1",
    request_id: str = "r1",
    user_id: int = 7,
    history: tuple[int, ...] = (3, 0, 5),
    degraded: tuple[str, ...] = (),
    unknown: tuple[int, ...] = (),
    seed: int = 1,
) -> Served:
    """Return a request that was answered: as many users as numbers of candidates are given."""
    generator = np.random.default_rng(seed)
    rankings = []
    for user, number in enumerate(num_candidates):
        candidates = generator.integers(0, 1000, number)
        rankings.append(
            Ranking(
                query=Query(user_id + user, candidates),
                version=version,
                scores=generator.random(number).astype(np.float32),
                unknown_items=np.array(unknown, dtype=np.int64),
                degraded=degraded,
                history=np.array(history, dtype=np.int64),
                levels=generator.integers(0, 11, (number, 2)),
                weights=None,
            )
        )
    call = Call(request_id)
    stages = call.stages
    stages.parse, stages.history, stages.queue = 0.0001, 0.0003, 0.00002
    stages.rows, stages.score, stages.encode = 0.00005, 0.004, 0.0002
    return Served(call, rankings)
