"""`POST /v1/rank`: the hot route. Raw bytes in, bytes out; nothing between them is validated twice."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from contract import wire
from service import openapi
from service.body import decode, read_body
from service.call import Call
from service.explanation import explain
from service.observers import Served
from service.pipeline import check_numbers, ranked
from service.query import Query
from service.ranker import Ranking
from service.replica import Replica

router = APIRouter(tags=["rank"])

_ONE = msgspec.json.Decoder(wire.RankRequest)
_MANY = msgspec.json.Decoder(wire.RankManyRequest)


@router.post("/v1/rank", openapi_extra=openapi.rank)
async def rank(request: Request) -> Response:
    """Rank one user's candidates, or those of several users in one run."""
    replica: Replica = request.app.state.replica
    replica.gate.check_read(request.headers)
    call = Call(request.scope.get("request_id", ""))
    body = await read_body(request, replica.settings)
    replica.admission.check_wait()
    started = time.perf_counter()
    # A single request holds no string at all, so this word tells the two apart.
    several = b'"requests"' in body
    requests = decode(body, _MANY).requests if several else [decode(body, _ONE)]
    # Before anything is made of them: of small requests a body holds thousands.
    check_numbers(len(requests), sum(len(one.candidates) for one in requests), replica.settings)
    queries = [_query(one, f"requests[{i}]." if several else "") for i, one in enumerate(requests)]
    for one in requests:
        call.limit(one.deadline_ms)
        call.explain |= one.explain
    call.stages.parse = time.perf_counter() - started
    rankings = await ranked(replica, queries, call)
    started = time.perf_counter()
    if call.explain:
        # As much text as all else of thousands of answers: other requests need not wait for it.
        content = await asyncio.to_thread(_encode, requests, rankings, replica.settings.model, several)
    else:
        content = _encode(requests, rankings, replica.settings.model, several)
    call.stages.encode = time.perf_counter() - started
    replica.observers.note(Served(call, rankings))
    return Response(content, media_type="application/json")


def _query(request: wire.RankRequest, where: str) -> Query:
    candidates = np.array(request.candidates, dtype=np.int64)
    history = None if request.history is None else np.array(request.history, dtype=np.int64)
    likes = None if request.likes_level is None else np.array(request.likes_level, dtype=np.int64)
    views = None if request.views_level is None else np.array(request.views_level, dtype=np.int64)
    return Query(request.user_id, candidates, history, likes, views, where)


def _encode(requests: Sequence[wire.RankRequest], rankings: Sequence[Ranking], model: str, several: bool) -> bytes:
    answers = [_answer(one, ranking, model) for one, ranking in zip(requests, rankings, strict=True)]
    return orjson.dumps({"responses": answers} if several else answers[0], option=orjson.OPT_SERIALIZE_NUMPY)


def _answer(request: wire.RankRequest, ranking: Ranking, model: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"model": model, "version": ranking.version}
    scores, weights = ranking.scores, ranking.weights
    if request.top_k is not None:
        best = np.argsort(-scores, kind="stable")[: request.top_k]
        answer["items"] = ranking.query.candidates[best]
        scores, weights = scores[best], None if weights is None else weights[best]
    answer["scores"] = np.ascontiguousarray(scores)
    answer["unknown_items"], answer["degraded"] = ranking.unknown_items, ranking.degraded
    if request.explain and weights is not None:
        answer["explanation"] = explain(weights, ranking.history)
    return answer
