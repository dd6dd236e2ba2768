"""Time one ranking at the paper's size: as published, folded, and folded with layer 1 split; alternating in one run.

    python -m tests.bench.model [--candidates 10 100 1000] [--runs 15] [--threads 0]

Prints the median milliseconds of each form and the ratio to the published form, pair by pair.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from contract.bundle import read_bundle
from export.exporter import export_model
from scoring.scorer import Scorer
from scoring.tables import Tables
from tests.fakes import make_items, make_trained

FORMS = {
    "as published": {"fold_weights": False},
    "folded": {"split_first_layer": False},
    "folded, layer 1 split": {"split_first_layer": True},
}
NUM_ITEMS = 5_000
HISTORY = 64


def main() -> None:
    """Build the three bundles of one network and time them in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as store:
        rankers = {name: _ranker(Path(store), form, arguments.threads) for name, form in FORMS.items()}
        table = Table(
            "candidates", *(f"{name}, ms" for name in FORMS), *(f"{name}, ratio" for name in list(FORMS)[1:])
        )
        for num_candidates in arguments.candidates:
            table.add_row(str(num_candidates), *_compare(rankers, num_candidates, arguments.runs))
    Console().print(table)


def _ranker(store: Path, form: dict[str, bool], num_threads: int) -> tuple[Scorer, Tables]:
    trained = make_trained(
        num_items=NUM_ITEMS,
        num_tags=11_740,
        embedding_width=128,
        history_length=HISTORY,
        embedding_dim=128,
        num_layers=4,
        num_rows=4,
    )
    items = make_items(NUM_ITEMS, 11_740, 128)
    scorer = Scorer(read_bundle(export_model(trained, items, store, **form)), num_threads=num_threads)
    tables = scorer.new_tables(NUM_ITEMS + 1)
    encoded, _ = scorer.encode(items.item_id, items.tags, items.embedding)
    tables.write(np.arange(1, NUM_ITEMS + 1), encoded)
    return scorer, tables


def _compare(rankers: dict[str, tuple[Scorer, Tables]], num_candidates: int, runs: int) -> list[str]:
    generator = np.random.default_rng(1)
    seconds: dict[str, list[float]] = {name: [] for name in rankers}
    for run in range(runs + 1):  # the first one warms up
        candidates = generator.integers(1, NUM_ITEMS, (1, num_candidates))
        history = generator.integers(1, NUM_ITEMS, (1, HISTORY))
        levels = generator.integers(0, 11, (1, num_candidates, 2))
        for name, (scorer, tables) in rankers.items():
            start = time.perf_counter()
            scorer.score(tables, candidates, history, levels)
            if run:
                seconds[name].append(time.perf_counter() - start)
    published = np.array(seconds["as published"])
    medians = [f"{np.median(times) * 1e3:.2f}" for times in seconds.values()]
    ratios = [f"{np.median(published / np.array(times)):.1f}x" for times in list(seconds.values())[1:]]
    return medians + ratios


if __name__ == "__main__":
    main()
