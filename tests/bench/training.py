"""Training at the paper's size against the published order of computation, alternating in one run.

    python -m tests.bench.training [--runs 3] [--batch 8192] [--published-batch 2048] [--threads 0]

The paper's size: 91,718 items, 11,740 tags, embeddings of 128, 4 layers of 4 rows, full histories of 64 items drawn
from all items alike. All orders start from the same weights, and each step has other rows; bfloat16 is the one that
does not give the published numbers. A step of the published order takes about 1.5 MB a row, so it gets smaller
batches by default: its time a row hardly depends on that. It gains by memory that is kept (`training.memory`) too.

Ratios are rows/s of ours over the published, pair by pair: the median with the lowest and the highest.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from contract.schema import Schema
from tests.bench.published import PublishedLoader, PublishedQIN, PublishedTrainer
from training.data import ClickRows
from training.memory import keep_freed_memory
from training.model import QIN, ItemTable, ModelConfig
from training.step import Optimiser

HISTORY = 64
PAPER = Schema(num_items=91_718, num_tags=11_740, embedding_width=128, history_length=HISTORY)
PARTS = ("loader", "forward", "backward", "optimiser")
PUBLISHED, OURS, REDUCED = "published", "ours", "ours, bfloat16"
WITH_FEATURES = "ours, with the distinct items' features"
FLOAT32: Literal["float32"] = "float32"
BFLOAT16: Literal["bfloat16"] = "bfloat16"
LEARNING_RATE, L2, MAX_GRAD_NORM = 2e-3, 2e-4, 10.0

console = Console(width=120)


@dataclass(slots=True)
class Times:
    """Seconds a row of each part of each step, and of whole steps."""

    parts: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    cpu: list[float] = field(default_factory=list)

    def measure(self, steps: Callable[[], Iterator[None]], num_rows: int) -> None:
        """Run one step that yields after each of its parts."""
        started, cpu = time.perf_counter(), time.process_time()
        for part, _ in zip(PARTS, steps(), strict=True):
            now = time.perf_counter()
            self.parts[part].append((now - started) / num_rows)
            started = now
        self.cpu.append((time.process_time() - cpu) / num_rows)

    def wall(self) -> list[float]:
        """Return the seconds a row of each step."""
        return [sum(step) for step in zip(*self.parts.values(), strict=True)]


@dataclass(frozen=True, slots=True)
class World:
    """Random clicks in both forms."""

    items: ItemTable
    rows: ClickRows
    published: PublishedLoader
    generator: np.random.Generator

    def draw(self, num_rows: int) -> np.ndarray:
        """Return numbers of random rows."""
        return self.generator.choice(len(self.rows), num_rows, replace=False)


def main() -> None:
    """Time the loaders, then whole steps with the published dropout and without."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--published-batch", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # which the published order gains by too
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, history {HISTORY}, float32")
    world = make_world(num_rows=3 * arguments.batch)
    console.print(_loader_table(world, arguments.batch, arguments.runs))
    for dropout in (0.1, 0.0):
        console.print(_step_table(dropout, _steps(world, dropout, arguments)))


def make_world(num_rows: int, seed: int = 1) -> World:
    """Return clicks at the paper's size; features and histories are random, and an item has 0 to 5 tags."""
    generator = np.random.default_rng(seed)
    num_items = PAPER.num_items
    tags = generator.integers(1, PAPER.num_tags, (num_items, PAPER.max_tags))
    tags[np.arange(PAPER.max_tags) >= generator.integers(0, PAPER.max_tags + 1, (num_items, 1))] = 0
    embedding = generator.standard_normal((num_items, PAPER.embedding_width), dtype=np.float32)
    tags[0], embedding[0] = 0, 0
    items = ItemTable(torch.arange(num_items), torch.from_numpy(tags), torch.from_numpy(embedding))
    rows = ClickRows(
        generator.integers(1, num_items, num_rows, dtype=np.int32),
        generator.integers(1, num_items, (num_rows, HISTORY), dtype=np.int32),
        generator.integers(0, 11, (num_rows, 2), dtype=np.int32),
        generator.integers(0, 2, num_rows).astype(np.float32),
    )
    columns = {"item_id": np.arange(num_items), "item_tags": list(tags), "item_emb_d128": list(embedding)}
    frame = pd.DataFrame(columns)
    assert rows.label is not None
    published = PublishedLoader(frame, rows.history, rows.candidate, rows.levels, rows.label)
    return World(items, rows, published, generator)


def _loader_table(world: World, num_rows: int, runs: int) -> Table:
    loaders: dict[str, Callable[[np.ndarray], object]] = {
        PUBLISHED: world.published.batch,
        OURS: world.rows.batch,
        WITH_FEATURES: lambda rows: _with_features(world, rows),
    }
    times: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(-1, runs):
        for name, load in loaders.items():
            drawn, started = world.draw(num_rows), time.perf_counter()
            load(drawn)
            if number >= 0:
                times[name].append((time.perf_counter() - started) / num_rows)
    table = Table("loader", "rows/s", "/ published", title=f"The loader alone, batches of {num_rows}")
    for name, seconds in times.items():
        table.add_row(name, _rate(seconds), "" if name == PUBLISHED else _ratio(times[PUBLISHED], seconds))
    return table


def _with_features(world: World, rows: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Load a batch and gather the features of its distinct items, which our network does as it computes."""
    batch = world.rows.batch(rows)
    items = torch.unique(torch.cat([batch.candidate, batch.history.flatten()]))
    return world.items.tags[items], world.items.embedding[items]


def _steps(world: World, dropout: float, arguments: argparse.Namespace) -> dict[str, Times]:
    """Time steps of each order in turn, from the same weights, after one of each that warms up."""
    batch, published_batch = arguments.batch, arguments.published_batch
    config = ModelConfig(dropout=dropout)
    torch.manual_seed(1)
    weights = QIN(PAPER, config).state_dict()
    model = PublishedQIN(PAPER, config).train()
    model.load_state_dict(weights)
    trainer = PublishedTrainer(model, LEARNING_RATE, L2, MAX_GRAD_NORM)
    steps = {PUBLISHED: (partial(_published_step, trainer, world, published_batch), published_batch)}
    for precision, name in ((FLOAT32, OURS), (BFLOAT16, REDUCED)):
        network = QIN(PAPER, config).train()
        network.load_state_dict(weights)
        optimiser = Optimiser(network, world.items, LEARNING_RATE, L2, MAX_GRAD_NORM, precision=precision)
        steps[name] = partial(_our_step, optimiser, world, batch), batch
    times = {name: Times() for name in steps}
    for number in range(-1, arguments.runs):
        for name, (step, num_rows) in steps.items():
            (times[name] if number >= 0 else Times()).measure(step, num_rows)
    return times


def _our_step(optimiser: Optimiser, world: World, num_rows: int) -> Iterator[None]:
    """Do what `Optimiser.step` does, stopping after each part."""
    batch = world.rows.batch(world.draw(num_rows))
    yield
    optimiser.adam.zero_grad(set_to_none=True)
    loss = optimiser.loss(batch)
    yield
    loss.backward()
    yield
    optimiser.update()
    yield


def _published_step(trainer: PublishedTrainer, world: World, num_rows: int) -> Iterator[None]:
    batch = world.published.batch(world.draw(num_rows))
    yield
    trainer.adam.zero_grad()
    loss = trainer.loss(batch)
    yield
    loss.backward()
    yield
    trainer.update()
    yield


def _step_table(dropout: float, orders: dict[str, Times]) -> Table:
    table = Table("order", "rows/s", "rows/CPU-s", *PARTS, "/ published", "in CPU time")
    table.title = f"Training steps, dropout {dropout:g}; parts in microseconds a row"
    for name, times in orders.items():
        costs = [f"{np.median(times.parts[part]) * 1e6:.1f}" for part in PARTS]
        base = orders[PUBLISHED]
        ratios = [] if times is base else [_ratio(base.wall(), times.wall()), _ratio(base.cpu, times.cpu)]
        table.add_row(name, _rate(times.wall()), _rate(times.cpu), *costs, *ratios)
    return table


def _rate(seconds: list[float]) -> str:
    return f"{1 / np.median(seconds):,.0f}"


def _ratio(base: list[float], of: list[float]) -> str:
    ratios = np.array(base) / np.array(of)
    return f"{np.median(ratios):.1f}x ({ratios.min():.1f}-{ratios.max():.1f})"


if __name__ == "__main__":
    main()
