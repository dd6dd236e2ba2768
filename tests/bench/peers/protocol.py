"""The same question in the words of each protocol, as bytes for the load generator, and the scores in an answer."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.messages import Messages, request_body

_USER = b"%19d"
_HERE = "\0"
"""Stands for the user in a body, where the generator writes a number of always the same width."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a server is asked.

    Attributes
    ----------
    ask
        Candidates (N,) to what stands before and after the user in a body, and the headers that belong to it.
    scores
        A body to its (N,) scores.
    """

    name: str
    path: str
    ask: Callable[[NDArray[np.int64]], tuple[bytes, bytes, dict[str, str]]]
    scores: Callable[[bytes, int], NDArray[np.float64]]

    def messages(self, host: str, lists: Sequence[NDArray[np.int64]]) -> Messages:
        """Return whole HTTP requests, all but the user."""
        heads, tails = [], []
        for candidates in lists:
            before, after, headers = self.ask(candidates)
            length = len(before) + len(_USER % 0) + len(after)
            lines = [f"POST {self.path} HTTP/1.1", f"Host: {host}", f"Content-Length: {length}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            heads.append(("\r\n".join(lines) + "\r\n\r\n").encode() + before)
            tails.append(after)
        return Messages(tuple(heads), tuple(tails), np.array([len(candidates) for candidates in lists]))


def _rank(candidates: NDArray[np.int64]) -> tuple[bytes, bytes, dict[str, str]]:
    return *request_body(candidates), {"Content-Type": "application/json"}


def _rank_scores(body: bytes, _: int) -> NDArray[np.float64]:
    return np.array(json.loads(body)["scores"], dtype=np.float64)


def _v2(candidates: NDArray[np.int64]) -> tuple[bytes, bytes, dict[str, str]]:
    inputs = [
        {"name": "USER_ID", "shape": [1], "datatype": "INT64", "data": [_HERE]},
        {"name": "CANDIDATES", "shape": [1, len(candidates)], "datatype": "INT64", "data": candidates.tolist()},
    ]
    before, after = _around_user({"inputs": inputs})
    return before, after, {"Content-Type": "application/json"}


def _v2_scores(body: bytes, _: int) -> NDArray[np.float64]:
    return np.array(json.loads(body)["outputs"][0]["data"], dtype=np.float64)


def _v2_binary(candidates: NDArray[np.int64]) -> tuple[bytes, bytes, dict[str, str]]:
    values = candidates.astype("<i8").tobytes()
    binary = {"binary_data_size": len(values)}
    inputs = [
        {"name": "USER_ID", "shape": [1], "datatype": "INT64", "data": [_HERE]},
        {"name": "CANDIDATES", "shape": [1, len(candidates)], "datatype": "INT64", "parameters": binary},
    ]
    outputs = [{"name": "SCORES", "parameters": {"binary_data": True}}]
    before, after = _around_user({"inputs": inputs, "outputs": outputs})
    length = len(before) + len(_USER % 0) + len(after)
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(length)}
    return before, after + values, headers


def _v2_binary_scores(body: bytes, num_candidates: int) -> NDArray[np.float64]:
    return np.frombuffer(body[-4 * num_candidates :], "<f4").astype(np.float64)


def _around_user(body: dict[str, object]) -> tuple[bytes, bytes]:
    before, after = json.dumps(body, separators=(",", ":")).encode().split(json.dumps(_HERE).encode())
    return before, after


RANK = Protocol("JSON", "/v1/rank", _rank, _rank_scores)
V2 = Protocol("V2 in JSON", "/v2/models/qin/infer", _v2, _v2_scores)
V2_BINARY = Protocol("V2 in bytes", "/v2/models/qin/infer", _v2_binary, _v2_binary_scores)
