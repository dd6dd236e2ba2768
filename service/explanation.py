"""Why candidates scored as they did: the items of the history that the model's attention picked for each of them.

Shapes: n candidates, k items of the history as it was used, H history length.
"""

import numpy as np
import orjson
from numpy.typing import NDArray

_LARGEST = float(np.finfo(np.float32).max)


def explain(weights: NDArray[np.float32], history: NDArray[np.int64]) -> list[orjson.Fragment]:
    """Return, for each candidate, JSON of `[[item_id, weight], ...]`, heaviest first, of equal ones the newest first.

    Each place in the history is an entry of its own, so an item that stands there twice may come twice. Places with
    weight 0 are left out: ReLU lets go of most, and of all that hold padding or an item that the catalogue lacks.

    Parameters
    ----------
    weights
        (n, H) attention weights, right-aligned with the history; one that overflowed counts as the largest float32.
    history
        (k,) item ids, oldest first.
    """
    num_used, length = len(history), weights.shape[1]
    newest_first = np.nan_to_num(weights[:, length - num_used :][:, ::-1], posinf=_LARGEST)
    order = np.argsort(-newest_first, axis=1, kind="stable")
    sorted_weights = np.take_along_axis(newest_first, order, axis=1)
    sorted_ids = history[::-1][order]
    counts = np.count_nonzero(sorted_weights > 0, axis=1).tolist()
    # One candidate at a time: another thread, such as the one that answers, need not wait for all of them.
    return [
        orjson.Fragment(orjson.dumps(list(zip(ids[:count].tolist(), their_weights[:count].tolist(), strict=True))))
        for ids, their_weights, count in zip(sorted_ids, sorted_weights, counts, strict=True)
    ]
