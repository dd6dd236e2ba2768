import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from contract.schema import Schema
from training.model import QIN, Batch, ItemTable, ModelConfig
from training.step import Optimiser

MEASURE = """
import resource, sys
from training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import torch
x = torch.ones(2**24)

def work():
    y = x * x
    z = y + x
    return (z * y).sum()

for _ in range(10):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_memory_that_was_freed_is_had_without_the_system() -> None:
    """Work that comes again has its memory again: no page faults to speak of, where it is one a page otherwise."""
    kept, plain = (
        int(subprocess.run([sys.executable, "-c", MEASURE, how], capture_output=True, check=True).stdout)
        for how in ("keep", "plain")
    )
    assert kept < plain / 10


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's figures of a process")
def test_steps_of_ever_new_sizes_leave_nothing_behind() -> None:
    """Each step has another number of distinct items, and memory stays what it was after some of them."""
    generator, num_items = np.random.default_rng(1), 20_000
    schema = Schema(num_items=num_items, num_tags=100, max_tags=5, embedding_width=128, history_length=64)
    items = ItemTable(
        torch.arange(num_items),
        torch.from_numpy(generator.integers(0, 100, (num_items, 5))),
        torch.from_numpy(generator.standard_normal((num_items, 128), dtype=np.float32)),
    )
    model = QIN(schema, ModelConfig(num_layers=1, num_rows=1)).train()
    optimiser = Optimiser(model, items, learning_rate=1e-3, l2=1e-4, max_grad_norm=10)

    def step() -> None:
        rows = [generator.integers(0, size, shape) for size, shape in SHAPES]
        label = torch.from_numpy(generator.integers(0, 2, 256)).float()
        optimiser.step(Batch(*map(torch.from_numpy, rows), label))

    for _ in range(20):
        step()
    before = own_memory_mb()
    for _ in range(100):
        step()
    assert own_memory_mb() < before + 60


SHAPES = ((20_000, 256), (20_000, (256, 64)), (11, (256, 2)))


def own_memory_mb() -> float:
    """Return how much memory this process has that no file stands behind."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
