"""What one ranking costs, in counts: they hold on any machine, and a change that breaks them makes it slow."""

import sys
import threading
from collections import Counter
from types import FrameType

import numpy as np
import pytest
import redis

from service.inference import read_inference
from service.tensors import Output
from service.version import LoadedVersion
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running
from tests.service.tensors import binary_body

_REPEATS = 20


def commands(plain: redis.Redis) -> Counter[str]:
    """How often each command that reads one value was called, by anybody, since Redis started."""
    stats = plain.info("commandstats")
    return Counter(
        {name: numbers["calls"] for name, numbers in stats.items() if name in ("cmdstat_get", "cmdstat_mget")}
    )


def body(num_candidates: int) -> dict[str, object]:
    return {"user_id": 3, "candidates": [number % 120 for number in range(num_candidates)]}


def infer(num_candidates: int) -> dict[str, object]:
    candidates = [number % 120 for number in range(num_candidates)]
    return {
        "inputs": [
            {"name": "USER_ID", "datatype": "INT64", "shape": [1], "data": [3]},
            {"name": "CANDIDATES", "datatype": "INT64", "shape": [1, num_candidates], "data": candidates},
        ]
    }


@pytest.mark.parametrize(("path", "make"), [("/v1/rank", body), ("/v2/models/qin/infer", infer)])
def test_a_rank_is_one_round_trip_and_one_run(service: Running, plain: redis.Redis, monkeypatch, path, make):
    """However many candidates there are, Redis is asked once and ONNX Runtime runs once."""
    version = service.replica.registry.serving
    assert isinstance(version, LoadedVersion)
    runs, run = [], version.scorer._ranker.session.run_with_iobinding

    def counted(binding: object) -> None:
        runs.append(binding)
        run(binding)

    class Session:
        io_binding = staticmethod(version.scorer._ranker.session.io_binding)
        run_with_iobinding = staticmethod(counted)

    monkeypatch.setattr(version.scorer._ranker, "session", Session)
    service.client.put_history(3, [1, 2, 3])
    for num_candidates in (1, 10, 1000):
        before, num_before = commands(plain), len(runs)
        for _ in range(_REPEATS):
            assert service.http.post(path, json=make(num_candidates)).status_code == 200
        assert (commands(plain) - before).total() == _REPEATS
        assert len(runs) - num_before == _REPEATS


class Calls:
    """Counts the functions that Python calls in the threads that are started while it is set."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, _frame: FrameType, event: str, _argument: object) -> None:
        """Count a call (a profile function of Python)."""
        if event in ("call", "c_call"):
            self.number += 1


@pytest.mark.parametrize(("path", "make"), [("/v1/rank", body), ("/v2/models/qin/infer", infer)])
def test_no_function_is_called_for_each_candidate(store: Store, stocked_url: str, path, make):
    """A thousand candidates take no more calls than ten do, in any thread of the service."""
    calls = Calls()
    threading.setprofile(calls)
    try:
        with running(make_settings(store.folder, stocked_url)) as service:
            threading.setprofile(None)

            def fewest(num_candidates: int) -> int:
                """The calls of one request: of several the fewest, for something else may run beside them."""
                numbers = []
                for _ in range(_REPEATS):
                    before = calls.number
                    assert service.http.post(path, json=make(num_candidates)).status_code == 200
                    numbers.append(calls.number - before)
                return min(numbers)

            fewest(10)
            few, many = fewest(10), fewest(1000)
            assert few > 100  # it does count
            assert many < few + 50
    finally:
        threading.setprofile(None)
        sys.setprofile(None)


@pytest.mark.parametrize("padding", [0, 1])
def test_binary_tensors_are_views(padding: int) -> None:
    """What is looked up lies in the body as it came; scores go into the answer from where the model wrote them."""
    names = ("USER_ID", "CANDIDATES", "HISTORY", "LIKES_LEVEL", "VIEWS_LEVEL")
    inputs = [(name, np.ones((2, 1 if name == "USER_ID" else 50), np.int64)) for name in names]
    body, headers = binary_body(inputs, padding)
    inference = read_inference(body, headers["Inference-Header-Content-Length"], 2)
    whole = np.frombuffer(body, np.uint8)
    for query in inference.queries:
        for values in (query.candidates, query.history, query.likes_level, query.views_level):
            assert values is not None
            assert np.shares_memory(values, whole)
    parts: list[memoryview] = []
    scores = np.ones((1, 50), np.float32)
    Output("SCORES", "FP32", [1, 50], scores).described(True, parts)
    assert np.shares_memory(np.frombuffer(parts[0], np.float32), scores)
