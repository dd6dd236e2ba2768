from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.clicks import small_recipe, write_data
from tests.training.shared_steps import take_steps
from tests.training.torchrun import torchrun
from training.dataset import read_dataset
from training.errors import RecipeError
from training.evaluate import score_checkpoint
from training.journal import EpochRecord, read_journal
from training.metrics import auc, log_loss
from training.ranks import ALONE, Ranks
from training.resume import STATE
from training.run import Run
from training.tensorfile import read_tensors
from training.trainer import train

SETTINGS = ("batch_size=67", "max_grad_norm=0.02", "l2=1e-3", "embedding_dim=4")
"""Batches that two processes cannot halve, a last one of few rows, gradients that are clipped, L2 that counts."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return clicks whose last batch has fewer rows than the others."""
    return write_data(tmp_path_factory.mktemp("data"), num_rows=30 * 67 + 3, num_items=100)


@pytest.fixture(scope="module")
def together(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an unbroken run of two processes, dropout included."""
    out = tmp_path_factory.mktemp("together") / "run"
    finished = torchrun("tests.training.spoiled_run", "-1", "-", str(data), str(out), *SETTINGS)
    assert finished.returncode == 0, finished.stderr
    return out


def state_of(out: Path) -> dict[str, torch.Tensor]:
    return read_tensors(out / STATE)[0]


def figures(out: Path) -> list[EpochRecord]:
    timeless = {"rows_per_s": 0.0, "train_s": 0.0, "evaluate_s": 0.0}
    return [record.model_copy(update=timeless) for record in read_journal(out)]


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_take_the_steps_of_one(tmp_path: Path, processes: int) -> None:
    """In float64, in shares that are uneven: losses, L2 terms, norms, weights and statistics agree to 1e-11."""
    finished = torchrun("tests.training.shared_steps", str(tmp_path), str(tmp_path / "r.npz"), processes=processes)
    assert finished.returncode == 0, finished.stderr
    alone = take_steps(tmp_path / "alone", ALONE)
    assert (alone["results"][:, 2] > 0.5).any()  # some are clipped
    with np.load(tmp_path / "r.npz") as together:
        assert set(together) == set(alone)
        for name, value in alone.items():
            np.testing.assert_allclose(together[name], value, rtol=1e-11, atol=1e-11, err_msg=name)


@pytest.mark.slow
def test_a_run_of_two_processes_is_evaluated_as_one(data: Path, tmp_path: Path) -> None:
    """The first epoch's losses agree with one process's, to float32's rounding, and so does the AUC over all rows."""
    settings = (*SETTINGS, "dropout=0", "epochs=1")
    train(data, tmp_path / "one", small_recipe(*settings))
    finished = torchrun("tests.training.spoiled_run", "-1", "-", str(data), str(tmp_path / "two"), *settings)
    assert finished.returncode == 0, finished.stderr
    (one,), (two,) = figures(tmp_path / "one"), figures(tmp_path / "two")
    assert one.model_dump() == pytest.approx(two.model_dump(), rel=2e-2)
    assert score(data, tmp_path / "two") == pytest.approx((two.auc, two.log_loss), abs=1e-6)


def score(data: Path, out: Path) -> tuple[float | None, float]:
    """Return AUC and log loss of a checkpoint, scored by one process."""
    scores, labels = score_checkpoint(out, data / "valid.parquet", data / "item_info.parquet", device="cpu")
    assert labels is not None
    return auc(labels, scores), log_loss(labels, scores)


@pytest.mark.parametrize(("rank", "where"), [("1", "auc"), pytest.param("0", "save_state", marks=pytest.mark.slow)])
def test_a_run_whose_process_is_killed_ends_as_an_unbroken_one(
    data: Path, together: Path, tmp_path: Path, rank: str, where: str
) -> None:
    """All are started again and go on from the last whole epoch: weights and moments agree bit for bit."""
    command = ("tests.training.spoiled_run", rank, where, str(data), str(tmp_path / "run"), *SETTINGS)
    finished = torchrun(*command, restarts=1)
    assert finished.returncode == 0, finished.stderr
    assert "exitcode: -9" in finished.stderr
    ours, theirs = state_of(tmp_path / "run"), state_of(together)
    assert {name: value.numpy().tobytes() for name, value in ours.items()} == {
        name: value.numpy().tobytes() for name, value in theirs.items()
    }
    assert figures(tmp_path / "run") == figures(together)


@pytest.mark.slow
def test_another_runs_folder_is_refused_however_often_torchrun_starts_again(data: Path, together: Path) -> None:
    """Only what this launch began is gone on with unasked."""
    before = (together / STATE).read_bytes()
    command = ("tests.training.spoiled_run", "-1", "-", str(data), str(together), *SETTINGS, "epochs=9")
    finished = torchrun(*command, restarts=1)
    assert finished.returncode != 0
    assert "holds a checkpoint already" in finished.stderr
    assert (together / STATE).read_bytes() == before


@pytest.mark.parametrize(("num_rows", "block"), [(10, 1), (3, 1), (4097, 4096), (20_000, 4096), (0, 1), (5, 64)])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_are_all_rows_once_and_nearly_equal(num_rows: int, block: int, size: int) -> None:
    """In order, in whole blocks, none with more than one block more than another."""
    shares = [np.arange(num_rows)[Ranks(rank, size).share(num_rows, block)] for rank in range(size)]
    assert np.concatenate(shares).tolist() == list(range(num_rows))
    assert all(share[0] % block == 0 for share in shares if len(share))
    assert max(map(len, shares)) - min(map(len, shares)) <= block


def test_more_processes_than_rows_in_a_batch_are_refused(data: Path, tmp_path: Path) -> None:
    """Each process needs a row; the error says how many there are."""
    with pytest.raises(RecipeError, match="8 processes cannot share a batch of 4 rows"):
        Run(read_dataset(data, 8), tmp_path, small_recipe("batch_size=4"), resume=False, ranks=Ranks(0, 8))
