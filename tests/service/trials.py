"""What tests of promotions and trials have in common."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import httpx

from contract.bundle import GOLDEN, MANIFEST, Golden, hash_files
from contract.manifest import seal
from contract.wire import ModelInfo, TrialReport
from tests.service.running import Running

USERS = range(256)


def answered_by(http: httpx.Client, users: Iterable[int] = USERS) -> dict[int, str]:
    """The version that answers each user."""
    body = {"requests": [{"user_id": user, "candidates": [3]} for user in users]}
    response = http.post("/v1/rank", json=body)
    assert response.status_code == 200, response.text
    return {user: answer["version"] for user, answer in zip(users, response.json()["responses"], strict=True)}


def rank_many(http: httpx.Client, num_requests: int, candidates: Sequence[int]) -> list[dict[str, Any]]:
    """Rank the same candidates for as many users, a request each; return the answers."""
    answers = []
    for user in range(num_requests):
        response = http.post("/v1/rank", json={"user_id": user, "candidates": list(candidates)})
        assert response.status_code == 200, response.text
        answers.append(response.json())
    return answers


def metrics_of(http: httpx.Client) -> dict[str, float]:
    """All samples by name and labels."""
    lines = [line.rpartition(" ") for line in http.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def model_of(service: Running) -> ModelInfo:
    return service.client.model("qin")


def trial_of(service: Running) -> TrialReport:
    return service.client.trial("qin")


def falsify_golden(bundle: Path) -> None:
    """Make a bundle whole whose golden scores are not what its graphs compute."""
    golden = Golden.from_bytes((bundle / GOLDEN).read_bytes())
    golden.scores[0, 0] += 0.25
    (bundle / GOLDEN).write_bytes(golden.to_bytes())
    change_manifest(bundle, files=hash_files({GOLDEN: (bundle / GOLDEN).read_bytes()}))


def change_manifest(bundle: Path, **changes: dict[str, Any]) -> None:
    """Change members of objects in a manifest, which seals itself anew."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    for name, values in changes.items():
        manifest[name] = (manifest[name] or {}) | values
    (bundle / MANIFEST).write_text(json.dumps(manifest | {"manifest_sha256": seal(manifest)}))
