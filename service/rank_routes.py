"""`POST /v1/rank`: the hot route. Raw bytes in, bytes out; nothing between them is validated twice."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from contract import wire
from contract.schema import Schema
from service import openapi
from service.body import decode, read_body
from service.errors import InvalidError, TooLargeError
from service.metrics import Metrics
from service.ranker import Ranking
from service.replica import Replica
from service.settings import Settings

router = APIRouter(tags=["rank"])

_ONE = msgspec.json.Decoder(wire.RankRequest)
_MANY = msgspec.json.Decoder(wire.RankManyRequest)


@router.post("/v1/rank", openapi_extra=openapi.rank)
async def rank(request: Request) -> Response:
    """Rank one user's candidates, or those of several users in one run."""
    replica: Replica = request.app.state.replica
    body = await read_body(request, replica.settings.max_body_bytes)
    started = time.perf_counter()
    # A single request holds no string at all, so this word tells the two apart.
    several = b'"requests"' in body
    requests = decode(body, _MANY).requests if several else [decode(body, _ONE)]
    # Nothing is awaited between this and the choice of the version that ranks, so it is the same one.
    check(requests, replica.settings, replica.registry.serving.scorer.features, several)
    rankings = await replica.ranker.rank(requests)
    answers = [_answer(ranking, replica.settings.model) for ranking in rankings]
    content = orjson.dumps({"responses": answers} if several else answers[0], option=orjson.OPT_SERIALIZE_NUMPY)
    replica.metrics.rank_seconds.observe(time.perf_counter() - started)
    _count(rankings, replica.metrics)
    return Response(content, media_type="application/json")


def check(requests: Sequence[wire.RankRequest], settings: Settings, features: Schema, several: bool) -> None:
    """Raise TooLargeError or InvalidError where a decoded body is over a limit or does not fit the model."""
    if len(requests) > settings.max_users:
        raise TooLargeError(f"{len(requests)} requests where at most {settings.max_users} are allowed", "requests")
    num_candidates = sum(len(request.candidates) for request in requests)
    if num_candidates > settings.max_candidates:
        raise TooLargeError(
            f"{num_candidates} candidates where at most {settings.max_candidates} are allowed", "candidates"
        )
    for position, request in enumerate(requests):
        where = f"requests[{position}]." if several else ""
        num_candidates = len(request.candidates)
        _check_levels(request.likes_level, num_candidates, features.num_likes_levels, f"{where}likes_level")
        _check_levels(request.views_level, num_candidates, features.num_views_levels, f"{where}views_level")


def _check_levels(levels: list[int] | None, num_candidates: int, num_levels: int, field: str) -> None:
    if levels is None:
        return
    if len(levels) != num_candidates:
        raise InvalidError(f"{len(levels)} levels for {num_candidates} candidates", field)
    if max(levels) >= num_levels:
        position = next(i for i, level in enumerate(levels) if level >= num_levels)
        raise InvalidError(
            f"level {levels[position]} where the model's highest is {num_levels - 1}", f"{field}[{position}]"
        )


def _answer(ranking: Ranking, model: str) -> dict[str, Any]:
    top_k, scores = ranking.request.top_k, ranking.scores
    answer: dict[str, Any] = {"model": model, "version": ranking.version}
    if top_k is not None:
        best = np.argsort(-scores, kind="stable")[:top_k]
        answer["items"] = [ranking.request.candidates[position] for position in best.tolist()]
        scores = scores[best]
    answer["scores"] = np.ascontiguousarray(scores)
    answer["unknown_items"], answer["degraded"] = ranking.unknown_items, ranking.degraded
    return answer


def _count(rankings: Sequence[Ranking], metrics: Metrics) -> None:
    metrics.candidates.inc(sum(len(ranking.scores) for ranking in rankings))
    metrics.unknown_candidates.inc(sum(len(ranking.unknown_items) for ranking in rankings))
    for reason in {reason for ranking in rankings for reason in ranking.degraded}:
        metrics.degraded.labels(reason).inc()
