"""LitServe: one API server before worker processes that hold the model."""

import os

import litserve
from model_side import ModelSide

_TIMEOUT_S = 120


class Ranker(litserve.LitAPI):
    """The three steps that LitServe asks for, and the model of each worker."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the model."""
        self.model = ModelSide.from_environment()

    def decode_request(self, request):
        """Return what to score."""
        return request["user_id"], request["candidates"]

    def predict(self, inputs):
        """Score candidates."""
        return self.model.rank(*inputs)

    def encode_response(self, scores):
        """Return the answer."""
        return {"scores": scores.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Ranker(api_path="/v1/rank"),
        accelerator="cpu",
        devices=1,
        workers_per_device=int(os.environ["PEER_PROCESSES"]),
        timeout=_TIMEOUT_S,
        fast_queue=True,
        healthcheck_path="/ready",
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
