"""FastAPI and uvicorn, and nothing else."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
import orjson
import uvicorn
from fastapi import FastAPI, Response
from model_side import ModelSide
from pydantic import BaseModel

_AT_ONCE = 2
"""One request is decoded while another is scored; more of them only fight for the same core."""


class RankRequest(BaseModel):
    """One user's candidates."""

    user_id: int
    candidates: list[int]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = _AT_ONCE
    app.state.model = ModelSide.from_environment()
    yield


app = FastAPI(lifespan=_lifespan)


@app.get("/ready")
def ready() -> Response:
    """Answer once the model is there."""
    return Response()


@app.post("/v1/rank")
def rank(request: RankRequest) -> Response:
    """Score candidates, off the event loop."""
    scores = app.state.model.rank(request.user_id, request.candidates)
    content = orjson.dumps({"scores": scores}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        "plain_app:app",
        port=int(os.environ["PEER_PORT"]),
        workers=int(os.environ["PEER_PROCESSES"]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
