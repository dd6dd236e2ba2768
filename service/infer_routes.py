"""Inference by the Open Inference Protocol: a hot route, as bare as that of `/v1/rank`."""

import time

from fastapi import APIRouter, Request, Response

from service import v2_openapi as openapi
from service.body import read_body
from service.call import Call
from service.inference import answer, read_inference
from service.inflate import inflate
from service.loaded import loaded
from service.observers import Served
from service.pipeline import ranked
from service.replica import Replica

router = APIRouter(prefix="/v2/models/{model}", tags=["open inference protocol"])


@router.post("/infer", openapi_extra=openapi.infer)
@router.post("/versions/{version}/infer", openapi_extra=openapi.infer_version)
async def infer(request: Request) -> Response:
    """Score candidates: with the version that is named, or else with the one that each user gets."""
    replica: Replica = request.app.state.replica
    headers, settings = request.headers, replica.settings
    replica.gate.check_read(headers)
    found = loaded(request)
    call = Call(request.scope.get("request_id", ""), version=found.version)
    body = await read_body(request, settings)
    replica.admission.check_wait()
    started = time.perf_counter()
    plain = inflate(body, headers.get("content-encoding"), settings.max_body_bytes)
    inference = read_inference(plain, headers.get("inference-header-content-length"), settings.max_users)
    inference.limit(call)
    call.stages.parse = time.perf_counter() - started
    rankings = await ranked(replica, inference.queries, call)
    started = time.perf_counter()
    response = answer(inference, rankings, found.model)
    call.stages.encode = time.perf_counter() - started
    replica.observers.note(Served(call, rankings))
    return response
