from pathlib import Path

import pytest

from tests.preparation.logs import clicks, prepared


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a prepared log of clicks, which no test may change."""
    folder = tmp_path_factory.mktemp("plain")
    return prepared(folder, clicks()).folder
