import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training.errors import DataError, OutputError
from training.metrics import auc, check_writable, describe, log_loss, save_scores

LABELS = np.array([0, 0, 1, 1], dtype=np.float32)


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    """Three of four pairs are in order; a tie counts half."""
    assert auc(LABELS, np.array([0.1, 0.4, 0.35, 0.8], dtype=np.float32)) == pytest.approx(0.75)
    assert auc(LABELS, np.full(4, 0.5)) == pytest.approx(0.5)


def test_auc_of_one_class_is_none() -> None:
    """There is no pair to be in order, and the line for people says so."""
    assert auc(np.ones(3), np.array([0.1, 0.2, 0.3])) is None
    assert describe(np.array([0.5, 0.5]), np.ones(2)) == (
        "2 rows: AUC none (all labels are of one class), log loss 0.693147"
    )


def test_log_loss_is_the_mean_cross_entropy_and_finite() -> None:
    """In nats; a probability of exactly 0 or 1 that is wrong costs much, not infinitely much."""
    assert log_loss(LABELS, np.full(4, 0.25)) == pytest.approx(-(np.log(0.75) + np.log(0.25)) / 2)
    assert np.isfinite(log_loss(LABELS, np.array([1.0, 0.0, 0.0, 1.0], dtype=np.float32)))


def test_unlabelled_rows_are_described_without_figures() -> None:
    """Without labels there is nothing to measure."""
    assert describe(np.zeros(3), None) == "3 rows scored; without labels there is no AUC"


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        (LABELS, np.zeros(3), "not one number per row"),
        (np.array([0.0, 0.5]), np.zeros(2), "neither 0 nor 1"),
        (np.array([0.0, 1.0]), np.array([0.5, np.nan]), "score of row 1 is not finite"),
    ],
)
def test_what_cannot_be_measured_is_refused(labels: np.ndarray, scores: np.ndarray, message: str) -> None:
    """Lengths, labels and scores are checked."""
    with pytest.raises(DataError, match=message):
        auc(labels, scores)


def test_scores_are_written_to_exactly_the_path_given(tmp_path: Path) -> None:
    """float32 in row order, whatever the file is called."""
    save_scores(tmp_path / "scores.bin", np.array([0.25, 0.5]))
    loaded = np.load(tmp_path / "scores.bin")
    assert loaded.dtype == np.float32
    assert loaded.tolist() == [0.25, 0.5]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none/scores.npy", "there is no folder .*none"),
        ("file/scores.npy", "there is no folder .*file"),
        ("folder", "it is a folder"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_scoring(tmp_path: Path, path: str, message: str) -> None:
    """Asked beforehand or on writing: the same error, which says why."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=message):
        check_writable(tmp_path / path)
    with pytest.raises(OutputError, match=message):
        save_scores(tmp_path / path, np.zeros(2))


def test_asking_whether_a_path_can_be_written_changes_nothing(tmp_path: Path) -> None:
    """No file appears, and one that is there keeps its contents."""
    check_writable(tmp_path / "new.npy")
    assert not (tmp_path / "new.npy").exists()
    (tmp_path / "old.npy").write_text("old")
    check_writable(tmp_path / "old.npy")
    assert (tmp_path / "old.npy").read_text() == "old"


def test_a_permission_that_is_missing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is there, but not to be written to."""
    monkeypatch.setattr("training.metrics.os.access", lambda _path, _mode: False)
    with pytest.raises(OutputError, match="permission denied"):
        check_writable(tmp_path / "scores.npy")


def test_metrics_do_without_torch() -> None:
    """What measures a bundle's scores runs where torch is not installed."""
    program = "import sys, training.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
