import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.clicks import small_recipe
from training.data import ClickRows, shuffled
from training.dataset import read_dataset
from training.loader import batches
from training.ranks import ALONE, Ranks
from training.trainer import train

CPU = torch.device("cpu")


@pytest.fixture
def rows(clicks: Path) -> ClickRows:
    return read_dataset(clicks, 8).train


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_come_in_order_with_each_process_s_share(rows: ClickRows, ahead: bool) -> None:
    """Made ahead of time or not, the shares of two processes put together are the batches of one."""
    order = list(shuffled(len(rows), 700, seed=1, epoch=1))
    shares = [batches(rows, order, Ranks(rank, 2), CPU, ahead) for rank in (0, 1)]
    for whole, first, second in zip(batches(rows, order, ALONE, CPU, ahead), *shares, strict=True):
        assert torch.equal(torch.cat([first.batch.history, second.batch.history]), whole.batch.history)
        assert first.num_rows == second.num_rows == whole.num_rows == len(whole.batch.candidate)


def test_what_goes_wrong_ahead_of_time_is_heard(rows: ClickRows) -> None:
    """An error of the thread that loads ends the epoch, and the thread with it."""
    order = [np.array([0]), np.array([len(rows)])]
    with pytest.raises(IndexError):
        list(batches(rows, order, ALONE, CPU, ahead=True))
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())


def test_an_epoch_that_is_left_leaves_no_thread(rows: ClickRows) -> None:
    """Where training stops within an epoch, so does the thread."""
    loaded = batches(rows, shuffled(len(rows), 100, 1, 1), ALONE, CPU, ahead=True)
    next(iter(loaded))
    loaded.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())


def test_a_windowed_shuffle_learns_too(clicks: Path, tmp_path: Path) -> None:
    """Mixed by windows and loaded ahead, a run learns what it learns from a full shuffle."""
    assert train(clicks, tmp_path, small_recipe("shuffle_window=640")).auc > 0.7
