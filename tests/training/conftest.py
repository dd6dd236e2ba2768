from pathlib import Path

import pytest

from tests.training.clicks import write_data


@pytest.fixture(scope="session")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of small data that no test may change."""
    return write_data(tmp_path_factory.mktemp("clicks"))


@pytest.fixture
def own_clicks(tmp_path: Path) -> Path:
    """Return a folder of small data for one test to spoil."""
    return write_data(tmp_path / "clicks", num_rows=300, num_items=60)
