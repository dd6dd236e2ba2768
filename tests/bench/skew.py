"""Compare what a running service answers with what the trained model says of the same clicks.

    python -m tests.bench.skew --checkpoint DIR --data valid.parquet --items item_info.parquet [--url URL]

The service must hold the same items, levels and histories. Histories and levels are its own, from Redis: whatever
differs between training and serving shows here. Prints the largest difference.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.client import Client
from contract.mmctr import Clicks, read_clicks
from training.evaluate import score_checkpoint


def served_scores(url: str, clicks: Clicks) -> NDArray[np.float32]:
    """Return the service's score of each click, one request per user."""
    scores = np.full(len(clicks), np.nan, dtype=np.float32)
    with Client(url) as client:
        for user in np.unique(clicks.user_id):
            rows = np.flatnonzero(clicks.user_id == user)
            answer = client.rank(int(user), clicks.item_id[rows].tolist())
            assert not answer.unknown_items, answer
            assert not answer.degraded, answer
            scores[rows] = answer.scores
    return scores


def first_clicks(data: Path, num_rows: int) -> Clicks:
    """Return the first rows of a clicks file."""
    clicks = read_clicks(data, history_length=1)
    rows = slice(num_rows)
    return Clicks(clicks.user_id[rows], clicks.item_id[rows], clicks.history[rows], clicks.levels[rows], None)


def skew(url: str, checkpoint: Path, data: Path, items: Path, num_rows: int) -> float:
    """Return the largest difference between served and trained scores of the first rows."""
    trained, _ = score_checkpoint(checkpoint, data, items)
    served = served_scores(url, first_clicks(data, num_rows))
    return float(np.abs(served - trained[:num_rows]).max())


def main() -> None:
    """Parse the command line and print the difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rows", type=int, default=1000)
    arguments = parser.parse_args()
    difference = skew(arguments.url, arguments.checkpoint, arguments.data, arguments.items, arguments.rows)
    print(f"{arguments.rows} rows over HTTP against the checkpoint: largest difference {difference:.3g}")


if __name__ == "__main__":
    main()
