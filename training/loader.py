"""The batches of an epoch, made in turn or, where that takes waiting, ahead of time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from training.data import ClickRows
from training.model import Batch
from training.ranks import Ranks

_NUM_AHEAD = 3


class Loaded(NamedTuple):
    """The share of a batch that is this process's."""

    batch: Batch
    num_rows: int  # of the whole batch, over all processes


def batches(
    rows: ClickRows, order: Iterable[NDArray[np.int64]], ranks: Ranks, device: torch.device, ahead: bool
) -> Iterator[Loaded]:
    """Yield this process's share of each batch of `order`, on the device.

    Parameters
    ----------
    order
        The rows of each batch, the same in all processes.
    ahead
        Make the next batches in a thread while one is trained on: worth its cost where rows come from a disk or go to
        a GPU. From memory to a CPU a batch takes less than a millisecond.
    """

    def load(batch_rows: NDArray[np.int64]) -> Loaded:
        mine = batch_rows[ranks.share(len(batch_rows))]
        return Loaded(rows.batch(mine, device), len(batch_rows))

    return _ahead(load, order) if ahead else map(load, order)


def _ahead(load: Callable[[NDArray[np.int64]], Loaded], order: Iterable[NDArray[np.int64]]) -> Iterator[Loaded]:
    with ThreadPoolExecutor(1, thread_name_prefix="loader") as thread:
        waiting: deque[Future[Loaded]] = deque()
        try:
            for batch_rows in order:
                waiting.append(thread.submit(load, batch_rows))
                if len(waiting) > _NUM_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            thread.shutdown(cancel_futures=True)
