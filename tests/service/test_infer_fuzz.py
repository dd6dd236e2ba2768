"""Bodies of inference that were made up or spoilt: refused as bad input, or understood; never anything else."""

import json

import hypothesis
import numpy as np
from hypothesis import strategies as st

from service.errors import InvalidError, MalformedError, TooLargeError
from service.inference import Inference, read_inference
from tests.service.tensors import binary_body, tensor

MANY = hypothesis.settings(max_examples=500, deadline=None, derandomize=True, database=None)

values = st.integers(-3, 5) | st.sampled_from([2**63 - 1, 2**63, -(2**63), 2**80])
shapes = st.lists(st.integers(-1, 4) | st.just(2**31), min_size=0, max_size=3)
inputs = st.builds(
    lambda name, datatype, shape, data, size: {
        "name": name,
        "datatype": datatype,
        "shape": shape,
        **({} if data is None else {"data": data}),
        **({} if size is None else {"parameters": {"binary_data_size": size}}),
    },
    st.sampled_from(["USER_ID", "CANDIDATES", "CANDIDATES", "HISTORY", "LIKES_LEVEL", "VIEWS_LEVEL", "OTHER"]),
    st.sampled_from(["INT64", "INT64", "INT64", "FP32"]),
    shapes,
    st.none() | st.lists(values, max_size=8) | st.lists(st.lists(values, max_size=3), max_size=3),
    st.none() | st.none() | st.integers(-1, 40),
)


def understood(body: bytes, length: str | None) -> Inference | None:
    """What a body means, None where it is refused; any other error goes through."""
    try:
        inference = read_inference(body, length, 4)
    except (MalformedError, InvalidError, TooLargeError):
        return None
    for query in inference.queries:
        assert query.user_id >= 0
        assert query.num_candidates > 0
        assert (query.candidates >= 0).all()
        assert query.history is None or (query.history >= 0).all()
        for levels in (query.likes_level, query.views_level):
            assert levels is None or len(levels) == query.num_candidates
    assert 1 <= len(inference.queries) <= 4
    assert inference.wanted
    return inference


@MANY
@hypothesis.given(
    st.lists(inputs, max_size=4), st.binary(max_size=40), st.none() | st.text("0123456789-x", max_size=4)
)
def test_made_up_tensors_are_refused_or_understood(tensors, rest: bytes, length):
    """Any shapes, types, sizes and values."""
    header = json.dumps({"inputs": tensors}).encode()
    understood(header + rest, length if length is not None else str(len(header)))


@MANY
@hypothesis.given(st.data())
def test_spoilt_bodies_are_refused_or_understood(data):
    """A right body, in JSON or bytes, of which some bytes are changed, cut out or put in."""
    users, candidates = np.array([1, 2]), np.array([[9, 2, -1], [4, 5, 6]])
    body, headers = binary_body(
        [("USER_ID", users), ("CANDIDATES", candidates)], id="x", outputs=[{"name": "SCORES"}]
    )
    length = headers["Inference-Header-Content-Length"]
    if data.draw(st.booleans()):
        body, length = (
            json.dumps({"inputs": [tensor("USER_ID", users), tensor("CANDIDATES", candidates)]}).encode(),
            None,
        )
    assert understood(body, length) is not None
    spoilt = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(spoilt)))
        spoilt[begin : begin + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    understood(bytes(spoilt), length)
