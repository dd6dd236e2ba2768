"""Routes for machines that look after the service: health and metrics."""

from fastapi import APIRouter, Request, Response

from service import v2_openapi
from service.replica import Replica

router = APIRouter(tags=["probes"])


@router.head("/v2/health/live", include_in_schema=False)
@router.get("/v2/health/live", openapi_extra=v2_openapi.live)
async def live() -> dict[str, bool]:
    """Say that the process answers."""
    return {"live": True}


@router.head("/v2/health/ready", include_in_schema=False)
@router.get("/v2/health/ready", openapi_extra=v2_openapi.ready)
async def ready(request: Request, response: Response) -> dict[str, bool]:
    """Say whether requests should be sent here: a version serves, and the replica is not about to stop."""
    replica: Replica = request.app.state.replica
    response.status_code = 200 if replica.ready else 503
    return {"ready": replica.ready}


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    replica: Replica = request.app.state.replica
    return Response(await replica.metrics.read_text(), media_type="text/plain; version=0.0.4; charset=utf-8")
