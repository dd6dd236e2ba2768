"""The HTTP application around a replica."""

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service import (
    infer_routes,
    item_routes,
    model_routes,
    openapi,
    probe_routes,
    problem,
    rank_routes,
    repository_routes,
    user_routes,
    v2_routes,
)
from service.access_log import AccessLog
from service.body import Arriving
from service.counting import CountRequests
from service.hot_routes import HotRoute, HotRoutes
from service.replica import Replica
from service.request_ids import RequestIds
from service.statistics import VersionStatistics
from service.tracing import telemetry


def create_app(replica: Replica) -> FastAPI:
    """Return the application; it owns nothing, the replica outlives it."""
    app = FastAPIOffline(
        title="QIN ranking service",
        summary="Scores candidate items for a user",
        redirect_slashes=False,
        telemetry=telemetry(replica.tracing),
    )
    app.state.replica = replica
    app.state.arriving = Arriving(replica.settings.max_arriving_bytes)
    app.state.statistics = VersionStatistics(replica.metrics.requests)
    replica.observers.add(app.state.statistics.note)
    for routes in (rank_routes, infer_routes, user_routes, item_routes, model_routes, probe_routes, v2_routes):
        app.include_router(routes.router)
    app.include_router(repository_routes.router)
    problem.register(app)
    openapi.describe(app)
    if replica.tracing is None:  # else spans of requests are made on the way that these save
        app.add_middleware(HotRoutes, routes=_hot_routes(replica.settings.model))
    app.add_middleware(CountRequests, metrics=replica.metrics)
    if replica.settings.access_log:
        app.add_middleware(AccessLog)
    app.add_middleware(RequestIds)
    return app


def _hot_routes(model: str) -> dict[str, HotRoute]:
    infer = HotRoute("/v2/models/{model}/infer", infer_routes.infer, {"model": model})
    return {"/v1/rank": HotRoute("/v1/rank", rank_routes.rank, {}), f"/v2/models/{model}/infer": infer}
