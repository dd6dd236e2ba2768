"""What anybody may write into Redis where replicas coordinate: passed over, and never an answer of 500."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis

from contract.codec import clock_key, recent_key, replicas_key, shadow_key, versions_key
from service.comparison import Comparison
from tests.service.conftest import Store
from tests.service.running import make_settings, running
from tests.service.trials import answered_by

VERSIONS, SHADOW, RECENT, REPLICAS = (key("qin") for key in (versions_key, shadow_key, recent_key, replicas_key))
_NUM_COUNTS = len(Comparison().serving_counts)


def packed(**changes: Any) -> bytes:
    """The sums of one process, some of which are not what they should be."""
    return msgspec.msgpack.encode(msgspec.to_builtins(Comparison()) | changes)


STATES: dict[str, Callable[[redis.Redis], object]] = {
    "sums that are no sums": lambda plain: plain.hset(SHADOW, "a", b"\xff\xff"),
    "sums of numbers beyond 64 bits": lambda plain: plain.hset(
        SHADOW, "a", packed(serving_counts=[2**63] * _NUM_COUNTS)
    ),
    "sums that overflow together": lambda plain: plain.hset(
        SHADOW, mapping={str(i): packed(trial_counts=[2**62] * _NUM_COUNTS, requests=2**62) for i in range(4)}
    ),
    "sums below nothing": lambda plain: plain.hset(
        SHADOW, "a", packed(requests=-5, serving_counts=[-1] * _NUM_COUNTS)
    ),
    "sums that are no numbers": lambda plain: plain.hset(SHADOW, "a", packed(x=float("nan"), yy=float("inf"))),
    "sums beyond what a square can hold": lambda plain: plain.hset(
        SHADOW, "a", packed(candidates=9, x=1e200, y=1e200, xx=1e300, yy=1e300, xy=1e300)
    ),
    "a replica that is none": lambda plain: plain.hset(
        REPLICAS, mapping={"a": b"\xff", "b": b"1 {}", "c": b"9" * 400}
    ),
    "a replica of bytes that are no text": lambda plain: plain.hset(REPLICAS, "a", b"9" * 13 + b' {"id": "\xff"}'),
    "replicas of another kind": lambda plain: plain.set(REPLICAS, b"1"),
    "a clock of another kind": lambda plain: plain.set(clock_key("qin"), b"1"),
    "sums of another kind": lambda plain: plain.set(SHADOW, b"1"),
    "recent requests of another kind": lambda plain: plain.set(RECENT, b"1"),
    "recent requests that are none": lambda plain: plain.xadd(RECENT, {"r": b"\xff"}),
    "a recent request without anything": lambda plain: plain.xadd(RECENT, {"other": b""}),
    "a recent request with levels below 0": lambda plain: plain.xadd(RECENT, {"r": recent(300, level=-128)}),
    "a recent request that is too large": lambda plain: plain.xadd(RECENT, {"r": recent(2_000_000)}),
    "a recent request with too long a history": lambda plain: plain.xadd(
        RECENT, {"r": recent(300, history=2_000_000)}
    ),
    "a share that is none": lambda plain: plain.hset(
        VERSIONS, mapping={"trial_canary": "nan", "trial_shadow": b"\xff"}
    ),
    "a trial with an endless name": lambda plain: plain.hset(VERSIONS, mapping={"trial_id": b"x" * 200_000}),
    "a trial of what is no version": lambda plain: plain.hset(
        VERSIONS, mapping={"trial": b"../../etc/" + b"x" * 200_000}
    ),
    "a version before that is none": lambda plain: plain.hset(VERSIONS, "previous", b"../" * 50_000),
    "an active version that is none": lambda plain: plain.hset(VERSIONS, "active", b"../" * 50_000),
    "versions of another kind": lambda plain: plain.delete(VERSIONS) and plain.set(VERSIONS, b"1"),
}


def recent(num_candidates: int, history: int = 1, level: int = 1) -> bytes:
    """A recent request as it is stored."""
    ids, levels = (3).to_bytes(8, "little"), level.to_bytes(1, "little", signed=True)
    return msgspec.msgpack.encode([7, ids * num_candidates, ids * history, levels * 2 * num_candidates])


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_no_state_of_redis_makes_a_model_route_fail(
    state: Callable[[redis.Redis], object], store: Store, stocked_url: str, plain: redis.Redis
) -> None:
    """Ranks are answered, and what is asked of models is answered or refused with a reason."""
    with running(make_settings(store.folder, stocked_url, follow_interval_s=0.02)) as service:
        service.client.promote(store.old.name, shadow=True)
        state(plain)
        asked = {
            "models": service.http.get("/v1/models"),
            "trial": service.http.get("/v1/models/qin/trial"),
            "index": service.http.post("/v2/repository/index"),
            "promotion": service.http.post("/v1/models/qin/promote", json={"version": store.old.name}),
            "rollback": service.http.post("/v1/models/qin/rollback"),
            "metrics": service.http.get("/metrics"),
        }
        said = {name: (answer.status_code, answer.text[:300]) for name, answer in asked.items()}
        assert {status for status, _ in said.values()} <= {200, 404, 409, 503}, said
        assert asked["models"].status_code == asked["metrics"].status_code == 200
        assert answered_by(service.http, [1])
        assert max(len(answer.content) for answer in asked.values()) < 100_000
