"""MLServer: a runtime of one's own, asked by the Open Inference Protocol."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from model_side import ModelSide


class Ranker(MLModel):
    """The model behind `infer`."""

    async def load(self) -> bool:
        """Load the model."""
        self.model = ModelSide.from_environment()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Score candidates; in the worker's loop, since there is one request at a time in it."""
        inputs = {entry.name: entry.data.root for entry in payload.inputs}
        scores = self.model.rank(inputs["USER_ID"][0], inputs["CANDIDATES"])
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output(name="SCORES", payload=scores)]
        )
