"""BentoML: a service class, its workers each with a model."""

import os

import bentoml
from model_side import ModelSide

_TIMEOUT_S = 120


@bentoml.service(
    workers=int(os.environ["PEER_PROCESSES"]),
    traffic={"timeout": _TIMEOUT_S},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Ranker:
    """The model behind one route."""

    def __init__(self) -> None:
        self.model = ModelSide.from_environment()

    @bentoml.api(route="/v1/rank")
    def rank(self, user_id: int, candidates: list[int]) -> dict[str, list[float]]:
        """Score candidates."""
        return {"scores": self.model.rank(user_id, candidates).tolist()}
