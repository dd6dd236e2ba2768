import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.training.clicks import small_recipe, write_data
from training.calibration import calibration, expected_error
from training.chart import Line, chart
from training.checks import read_users
from training.dataset import read_dataset
from training.evaluate import score_checkpoint
from training.report import REPORT, write_report
from training.slices import slices
from training.trainer import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return data and the folder of a run on them, which no test may change."""
    folder = tmp_path_factory.mktemp("report")
    data = write_data(folder / "data", num_rows=1000, num_items=60)
    train(data, folder / "run", small_recipe())
    return data, folder / "run"


class Page(HTMLParser):
    """Collects what a page asks the network for, its text, and whether its tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        """Note what the tag asks for."""
        self.asked += [value for name, value in attributes if name in ("src", "href", "xlink:href", "action")]
        if tag in ("script", "link", "iframe", "img"):
            self.asked.append(tag)
        if tag not in ("meta", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        """Leave out what is closed at once."""

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost tag."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        self.text.append(data.strip())


def test_a_report_is_one_page_that_needs_nothing_else(run: tuple[Path, Path]) -> None:
    """No script, no image, no address; well formed; with the figures of the checkpoint."""
    data, folder = run
    path = write_report(folder, data)
    page = Page(path.read_text())
    assert path == folder / REPORT
    assert page.asked == []
    assert "url(" not in path.read_text()
    assert page.open == []
    scores, labels = score_checkpoint(folder, data / "valid.parquet", data / "item_info.parquet", device="cpu")
    assert labels is not None
    assert f"{roc_auc_score(labels, scores):.6f}" in page.text
    for heading in ("Epoch by epoch", "Calibration", "Parts of the validation rows", "History length", "Likes level"):
        assert heading in page.text


def test_charts_have_a_point_for_every_epoch(run: tuple[Path, Path]) -> None:
    """Four curves of epochs, one of them double, and the reliability diagram."""
    data, folder = run
    charts = re.findall(r"<svg.*?</svg>", write_report(folder, data).read_text(), re.DOTALL)
    assert [len(re.findall("<polyline", drawing)) for drawing in charts] == [1, 2, 1, 1, 2]
    assert [len(re.findall("<circle", drawing)) for drawing in charts[:4]] == [3, 6, 3, 3]
    assert "nan" not in "".join(charts)


def test_a_checkpoint_without_epochs_has_a_report_without_curves(run: tuple[Path, Path], tmp_path: Path) -> None:
    """As an imported one."""
    data, folder = run
    for name in ("model.safetensors", "checkpoint.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    page = Page(write_report(tmp_path, data).read_text())
    assert "Epoch by epoch" not in page.text
    assert "Calibration" in page.text


def test_bins_are_of_equal_size_and_hold_every_row() -> None:
    """By ascending score; calibrated scores have hardly any error, shifted ones their shift."""
    generator = np.random.default_rng(1)
    score = generator.random(20_000)
    label = (generator.random(20_000) < score).astype(np.float32)
    bins = calibration(label, score)
    assert [one.num_rows for one in bins] == [1000] * 20
    assert [one.score for one in bins] == sorted(one.score for one in bins)
    assert expected_error(bins) < 0.02
    assert expected_error(calibration(label, score * 0.5)) == pytest.approx(0.25, abs=0.01)


def test_equal_scores_share_a_bin() -> None:
    """Else the error would depend on the order of rows."""
    score = np.repeat([0.1, 0.6], [700, 300])
    label = np.repeat([0, 1], [700, 300]).astype(np.float32)
    bins = calibration(label, score)
    assert [(one.num_rows, one.clicked) for one in bins] == [(700, 0), (300, 1)]
    assert expected_error(bins) == pytest.approx(0.7 * 0.1 + 0.3 * 0.4)


def test_slices_hold_each_row_once_in_every_group(run: tuple[Path, Path]) -> None:
    """And their figures are those of their rows."""
    data, _ = run
    dataset = read_dataset(data, 8)
    users = [read_users(data / f"{name}.parquet") for name in ("train", "valid")]
    score = np.random.default_rng(1).random(len(dataset.valid))
    parts = slices(dataset.train, dataset.valid, *users, len(dataset.catalogue.items.vocabulary_row), score)
    groups = {part.group for part in parts}
    assert groups == {"History length", "User", "Item", "Item's training clicks", "Likes level", "Views level"}
    for group in groups:
        assert sum(part.num_rows for part in parts if part.group == group) == len(dataset.valid)
    label = dataset.valid.label
    assert label is not None
    chosen = (dataset.valid.history != 0).sum(axis=1) == 0
    [empty] = [part for part in parts if (part.group, part.name) == ("History length", "0")]
    assert empty.num_rows == chosen.sum() > 0
    assert empty.auc == pytest.approx(roc_auc_score(label[chosen], score[chosen]))
    assert empty.standard_error is not None
    assert 0 < empty.standard_error < 0.2


def test_cold_items_and_new_users_are_slices(run: tuple[Path, Path]) -> None:
    """An item is cold that no training row holds; a slice of one class has no AUC."""
    data, _ = run
    dataset = read_dataset(data, 8)
    some = dataset.train.history[:0], dataset.train.candidate[:5]
    few = type(dataset.train)(
        some[1], dataset.train.history[:5] * 0, dataset.train.levels[:5], np.ones(5, np.float32)
    )
    users = np.arange(5), np.arange(len(dataset.valid))
    score = np.full(len(dataset.valid), 0.5)
    parts = slices(few, dataset.valid, *users, len(dataset.catalogue.items.vocabulary_row), score)
    by_name = {(part.group, part.name): part for part in parts}
    known = np.isin(dataset.valid.candidate, few.candidate)
    assert by_name["Item", "cold: in no training row"].num_rows == (~known).sum()
    assert by_name["User", "new"].num_rows == len(dataset.valid) - 5


def test_a_chart_of_one_point_or_of_one_value_can_be_drawn() -> None:
    """Nothing is divided by zero."""
    for line in (Line("valid", [1.0], [0.5]), Line("valid", [1.0, 2.0], [0.0, 0.0])):
        drawing = chart([line], "epoch", "a < b")
        assert "nan" not in drawing
        assert "inf" not in drawing
        assert "a &lt; b" in drawing
