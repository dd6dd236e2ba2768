"""The product's main job, told step by step: train, export, serve, rank, change, retrain, swap."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from contract.client import Client
from contract.wire import Item
from demo.server import DemoError, SteadyRequests, running
from demo.world import DataSet, World, make_world, write_data_set
from export.checkpoint import export_checkpoint
from scoring.evaluate import score_bundle
from service.bulk import load_histories, load_items
from training.metrics import auc
from training.recipes import get_recipe, with_settings
from training.trainer import train

USER = 7
NUM_CANDIDATES = 100
NEW_ITEM = 1_000_000
SEED = 20242025


def run(console: Console) -> int:
    """Tell the whole story in a temporary folder; return 0, or 1 where a step did not do what it promises."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="qin-demo-") as folder:
        try:
            Story(console, Path(folder)).tell()
        except DemoError as error:
            console.print(f"[bold red]The demo failed:[/] {error}")
            return 1
    console.print(f"\nAll of it took {time.perf_counter() - started:.0f} s.")
    return 0


class Story:
    """One telling: its folder, its world, and what the steps so far have made."""

    def __init__(self, console: Console, folder: Path) -> None:
        self.console, self.folder = console, folder
        self.store, self.data_dir = folder / "store", folder / "valkey"
        self.world: World = make_world()
        self._step = 0

    def tell(self) -> None:
        """Go through all steps, each on what the one before it left."""
        with self.step("Make clicks whose probability is known") as say:
            data = write_data_set(self.world, self.folder / "data")
            say(
                f"80,000 clicks to learn from, 8,000 to check with; the best AUC that any model can reach is "
                f"{data.best_auc:.4f}"
            )
        first = self.train_and_export(data, "first")
        with running(self.store, self.data_dir, self.folder / "serve.log") as url, Client(url) as client:
            self.load(data)
            self.rank(client, self.stored_history())
            self.append_event(client)
            self.new_item(client)
            newer = write_data_set(self.world, self.folder / "newer", seed=SEED)
            second = self.train_and_export(newer, "second", epochs=4, seed=SEED + 1)
            self.swap(client, url, first, second)
        with self.step("Stop the service") as say:
            say("it finished what was in flight, stopped its Valkey and ended with code 0")

    def train_and_export(self, data: DataSet, name: str, **settings: int) -> str:
        """Train the tiny recipe, publish it, and return the version."""
        changes = [f"{key}={value}" for key, value in settings.items()]
        out = self.folder / name
        with self.step(f"Train the {name} model on the clicks in {data.folder.name}/") as say:
            summary = train(data.folder, out, with_settings(get_recipe("tiny"), changes))
            say(
                f"AUC {summary.auc:.4f} of {data.best_auc:.4f} possible, log loss {summary.log_loss:.4f}, "
                f"{summary.rows_per_s:,.0f} clicks/s"
            )
            self.same_as(f"qin train --data {data.folder.name} --out {name} --recipe tiny", changes)
        with self.step("Fold it, check it against torch, publish it") as say:
            bundle = export_checkpoint(out, data.items, self.store)
            scores, labels = score_bundle(bundle, data.valid, data.items)
            assert labels is not None
            say(f"version {bundle.name}; its graphs reach AUC {auc(labels, scores):.4f} in ONNX Runtime")
            self.same_as(f"qin export --checkpoint {name} --items {data.folder.name}/item_info.parquet --store store")
        return bundle.name

    def load(self, data: DataSet) -> None:
        """Fill the running service's store."""
        with self.step("Load items and histories into the service's embedded Valkey") as say:
            items = load_items(data.items, [data.train], None, self.data_dir)
            users = load_histories([data.train], None, self.data_dir)
            say(f"{items.written:,} items with tags, embedding and levels; {users.written:,} histories")
            self.same_as("qin load-items --items data/item_info.parquet --levels data/train.parquet")

    def rank(self, client: Client, history: list[int]) -> None:
        """Rank candidates for a user, beside the truth."""
        candidates = self.candidates()
        self.wait_until_known(client, candidates)
        with self.step(f"Rank {NUM_CANDIDATES} candidates for user {USER}") as say:
            answer = client.rank(USER, candidates, top_k=5)
            say(f"the best five, by version {answer.version}:")
            self.show(answer.items or [], answer.scores, history)
            self.same_as(f"qin rank --user {USER} --candidates 1,2,3 --top-k 5")

    def append_event(self, client: Client) -> None:
        """Let the user meet something else, and rank again at once."""
        history, candidates = self.stored_history(), self.candidates()
        other = self.item_unlike(history)
        with self.step(f"User {USER} watches six items of another topic; rank again") as say:
            before = client.rank(USER, [other]).scores[0]
            seen = self.items_like(other, 6)
            client.append_events(USER, seen)
            after = client.rank(USER, [other]).scores[0]
            say(
                f"item {other} went from {before:.3f} to {after:.3f}; the truth went from "
                f"{self.truth(history, other):.3f} to {self.truth(history + seen, other):.3f}"
            )
            answer = client.rank(USER, candidates, top_k=3)
            self.show(answer.items or [], answer.scores, history + seen)

    def new_item(self, client: Client) -> None:
        """Add an item that no model has seen, and rank it by its tags and embedding."""
        twin = self.best_for(self.stored_history())
        with self.step(f"Add item {NEW_ITEM}, which the model never saw") as say:
            likes, views = (int(level) for level in self.world.levels[twin])
            embedding = (self.world.direction[twin] @ self.world.lens).tolist()
            tags = [int(tag) for tag in self.world.tags[twin] if tag]
            item = Item(embedding=embedding, tags=tags, likes_level=likes, views_level=views)
            client.put_item(NEW_ITEM, item)
            waited = self.wait_until_known(client, [NEW_ITEM])
            score = client.rank(USER, [NEW_ITEM], history=self.stored_history()).scores[0]
            say(
                f"ranked {waited * 1e3:.0f} ms after it was written: {score:.3f}, by its tags and embedding alone; "
                f"the truth is {self.truth(self.stored_history(), twin):.3f}"
            )

    def swap(self, client: Client, url: str, first: str, second: str) -> None:
        """Make the second version active while requests keep coming, and go back."""
        users = list(range(1, 50))
        with self.step("Swap to the second model under steady requests, and back") as say:
            with SteadyRequests(url, users, self.candidates()) as requests:
                time.sleep(0.5)
                gate = client.promote(second).gate
                time.sleep(0.5)
                client.rollback()
                time.sleep(0.5)
            counts = ", ".join(f"{count:,} by {version}" for version, count in requests.answers.items())
            say(f"{sum(requests.answers.values()):,} requests answered ({counts}), {len(requests.failures)} failed")
            if gate is not None:
                stability = (
                    "too few recent scores to compare" if gate.psi is None else f"stability index {gate.psi:.3f}"
                )
                self.remark(f"the gate let it pass: AUC {gate.auc:.4f} after {gate.serving_auc:.4f}, {stability}")
            self.same_as(f"qin promote {second}; qin rollback")
        if requests.failures:
            raise DemoError(f"requests failed during the swap: {requests.failures[0]}")
        if set(requests.answers) != {first, second}:
            raise DemoError(f"answers came from {sorted(requests.answers)}, not from {first} and {second}")

    # What the steps say and look up.

    @contextmanager
    def step(self, title: str) -> Iterator[Any]:
        """Open a numbered and timed step; what it has to say comes below its title."""
        self._step += 1
        started, said = time.perf_counter(), list[str]()
        self.console.print(f"\n[bold]{self._step}. {title}[/]")

        def say(line: str) -> None:
            said.append(line)
            self.console.print(f"   {line} [dim]({time.perf_counter() - started:.1f} s)[/]", highlight=False)

        yield say
        assert said, f"step {title!r} said nothing"

    def remark(self, line: str) -> None:
        """Print what belongs to the step and took none of its time."""
        self.console.print(f"   {line}", highlight=False)

    def same_as(self, command: str, changes: Sequence[str] = ()) -> None:
        """Name the command that does the same."""
        self.console.print(
            f"   [dim]$ {command}{''.join(f' --set {change}' for change in changes)}[/]", highlight=False
        )

    def show(self, items: Sequence[int], scores: Sequence[float], history: list[int]) -> None:
        """Print items with their score beside the true probability."""
        self.remark("item      score      true probability")
        for item, score in zip(items, scores, strict=True):
            self.remark(f"{item:<9} {score:<10.3f} {self.truth(history, item):.3f}")

    def stored_history(self) -> list[int]:
        """Return the user's history as it was loaded."""
        stored = self.world.history[USER - 1]
        return [int(item) for item in stored[stored > 0]]

    def truth(self, history: list[int], item: int) -> float:
        """Return the true click probability of an item after a history, of which the last items count."""
        last = history[-self.world.history.shape[1] :]
        return float(self.world.click_probability(np.array([last]), np.array([item]))[0])

    def candidates(self) -> list[int]:
        """Return the same hundred items each time."""
        chosen = np.random.default_rng(3).choice(len(self.world.tags) - 1, NUM_CANDIDATES, replace=False) + 1
        return [int(item) for item in chosen]

    def item_unlike(self, history: list[int]) -> int:
        """Return the candidate that the user is least likely to click for its topic."""
        liking = self.world.direction[self.candidates()] @ self.world.direction[history].sum(0)
        return self.candidates()[int(liking.argmin())]

    def items_like(self, item: int, count: int) -> list[int]:
        """Return the items whose direction is nearest to an item's, without itself."""
        nearest = (-(self.world.direction @ self.world.direction[item])).argsort()
        return [int(other) for other in nearest if other not in (0, item)][:count]

    def best_for(self, history: list[int]) -> int:
        """Return the item that the user is most likely to click."""
        items = np.arange(1, len(self.world.tags))
        histories = np.tile(history, (len(items), 1))
        tagged = self.world.tags[items, 0] > 0
        return int(items[(self.world.click_probability(histories, items) * tagged).argmax()])

    def wait_until_known(self, client: Client, items: list[int]) -> float:
        """Wait until the service's tables hold all of these items; return how long it took, in seconds."""
        started = time.perf_counter()
        while client.rank(USER, items).unknown_items:
            if time.perf_counter() - started > 30:
                raise DemoError("the service does not see items that were written 30 s ago")
            time.sleep(0.002)
        return time.perf_counter() - started
