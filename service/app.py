"""The HTTP application around a replica."""

from fastapi import FastAPI

from service import item_routes, model_routes, openapi, probe_routes, problem, rank_routes, user_routes
from service.counting import CountRequests
from service.replica import Replica


def create_app(replica: Replica) -> FastAPI:
    """Return the application; it owns nothing, the replica outlives it."""
    app = FastAPI(title="QIN ranking service", summary="Scores candidate items for a user", redirect_slashes=False)
    app.state.replica = replica
    for routes in (rank_routes, user_routes, item_routes, model_routes, probe_routes):
        app.include_router(routes.router)
    problem.register(app)
    openapi.describe(app)
    app.add_middleware(CountRequests, metrics=replica.metrics)
    return app
