import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Models this small gain nothing by a second thread, and threads that wait for each other cost much."""
    torch.set_num_threads(1)
