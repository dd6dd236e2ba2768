from pathlib import Path

import pytest
import torch

from tests.training.clicks import write_data


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Models this small gain nothing by a second thread, and threads that wait for each other cost much."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of small data that no test may change."""
    return write_data(tmp_path_factory.mktemp("clicks"))


@pytest.fixture
def own_clicks(tmp_path: Path) -> Path:
    """Return a folder of small data for one test to spoil."""
    return write_data(tmp_path / "clicks", num_rows=300, num_items=60)
