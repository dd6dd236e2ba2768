"""Steps of the oracle's model in float64 by all processes together, for comparison with those of one.

python -m tests.training.shared_steps CHECKPOINT_FOLDER RESULT
"""

import sys
from pathlib import Path

import numpy as np
import torch

from tests.training.oracle import load_oracle
from training.data import shuffled
from training.model import Batch
from training.ranks import Ranks, joined
from training.step import Optimiser


def main() -> None:
    """Take the steps; the first process leaves what came of them."""
    folder, result = map(Path, sys.argv[1:])
    with joined(with_gpu=False) as ranks:
        arrays = take_steps(folder / str(ranks.rank), ranks)
        assert all(np.array_equal(value, everybodys_first(value, ranks)) for value in arrays.values())
        if ranks.is_first:
            np.savez(result, **arrays)


def everybodys_first(value: np.ndarray, ranks: Ranks) -> np.ndarray:
    """Return the first process's value."""
    said = torch.from_numpy(value.copy())
    if ranks.size > 1:
        torch.distributed.broadcast(said, src=0)
    return said.numpy()


def take_steps(folder: Path, ranks: Ranks) -> dict[str, np.ndarray]:
    """Return figures, weights and running statistics after steps over batches of 17 rows and one of 13."""
    oracle = load_oracle(folder)
    for layer in oracle.model.layers:
        layer.dropout.p = 0.0
    optimiser = Optimiser(
        oracle.model.train(), oracle.items, learning_rate=2e-3, l2=2e-2, max_grad_norm=0.5, ranks=ranks
    )
    results = []
    for epoch in range(5):
        for rows in shuffled(len(oracle.batch.candidate), 17, seed=1, epoch=epoch):
            mine = rows[ranks.share(len(rows))]
            batch = Batch(*(values[mine] for values in oracle.batch))
            results.append([float(value) for value in optimiser.step(batch, len(rows))])
    return {name: value.numpy() for name, value in oracle.model.state_dict().items()} | {"results": np.array(results)}


if __name__ == "__main__":
    main()
