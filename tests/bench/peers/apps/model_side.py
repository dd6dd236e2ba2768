"""The model as a peer's user would serve it: item features in memory, numpy gathers, one `session.run`.

Nothing here comes from the repository: these files run in the peers' environments, beside the peers' own packages.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import redis
from numpy.typing import NDArray

_ENCODE_AT_ONCE = 1024


class ModelSide:
    """Candidate ids of a user to scores; safe to call from several threads.

    Parameters
    ----------
    bundle
        Folder with `manifest.json`, `item_encoder.onnx` and `ranker.onnx`.
    catalogue
        An `.npz` file with `item_id` (n,) ascending, `vocabulary_row` (n,), `tags` (n, T), `embedding` (n, F) and
        `levels` (n, 2).
    redis_url
        Where the histories lie: the last item ids of each user, as little-endian int64.
    num_threads
        Of one run.
    kernels
        A custom-op library for the ranker, or None.
    """

    def __init__(self, bundle: str, catalogue: str, redis_url: str, num_threads: int, kernels: str | None) -> None:
        folder = Path(bundle)
        manifest = json.loads((folder / "manifest.json").read_text())
        items = np.load(catalogue)
        self._history_length = manifest["features"]["history_length"]
        self._ids = items["item_id"]
        self._levels = np.concatenate([np.zeros((1, 2), np.int64), items["levels"]])
        self._tables = _encoded(folder / "item_encoder.onnx", manifest["tables"], items)
        self._session = _session(folder / "ranker.onnx", num_threads, kernels)
        self._redis = redis.Redis.from_url(redis_url)

    @classmethod
    def from_environment(cls) -> "ModelSide":
        """Return what the bench describes in the variable `PEER_MODEL`, and tell it that one more is loaded."""
        model = cls(**json.loads(os.environ["PEER_MODEL"]))
        Path(os.environ["PEER_LOADED"], str(os.getpid())).touch()
        return model

    def rank(self, user_id: int, candidates: list[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (N,) scores in the candidates' order."""
        stored = self._redis.get(f"qin:{{u{user_id}}}:history") or b""
        last = np.frombuffer(stored, "<i8")[-self._history_length :]
        history_rows = np.zeros(self._history_length, np.int64)
        if len(last):
            history_rows[-len(last) :] = np.where(last == 0, 0, self._rows(last))
        rows = self._rows(np.asarray(candidates, np.int64))
        inputs = {
            **self._tables,
            "candidate_rows": rows[None],
            "history_rows": history_rows[None],
            "levels": self._levels[rows][None],
        }
        scores: NDArray[np.float32] = self._session.run(["scores"], inputs)[0][0]
        return scores

    def _rows(self, item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return each item's row in the tables; 0 where the catalogue lacks it."""
        position = np.minimum(np.searchsorted(self._ids, item_ids), len(self._ids) - 1)
        return np.where(self._ids[position] == item_ids, position + 1, 0)


def _encoded(encoder: Path, specs: list[dict[str, Any]], items: Any) -> dict[str, NDArray[Any]]:
    """Return what the ranker gathers from: a row for each item, row 0 of zeros."""
    session, count = _session(encoder, 1, None), len(items["item_id"])
    features = {
        "vocabulary_row": items["vocabulary_row"],
        "tags": items["tags"].astype(np.int64),
        "embedding": items["embedding"].astype(np.float32),
    }
    tables = {spec["name"]: np.zeros((count + 1, spec["width"]), spec["dtype"]) for spec in specs}
    for start in range(0, count, _ENCODE_AT_ONCE):
        part = {name: values[start : start + _ENCODE_AT_ONCE] for name, values in features.items()}
        for name, values in zip(tables, session.run(list(tables), part), strict=True):
            tables[name][start + 1 : start + 1 + len(values)] = values
    return tables


def _session(graph: Path, num_threads: int, kernels: str | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if kernels is not None:
        options.add_session_config_entry("qin.num_threads", str(num_threads))
        options.register_custom_ops_library(kernels)
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
