"""`"explain": true` in a rank, against the trained network's own attention."""

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch

from contract.bundle import EXPLAIN
from contract.client import Client, ClientError
from contract.client_errors import AtOddsError
from contract.wire import Item, RankRequest
from export.exporter import export_model
from service.explanation import explain
from tests.fakes import make_items, make_trained
from tests.service.catalogue import NUM_ITEMS
from tests.service.conftest import Store
from tests.service.many import many
from tests.service.running import make_settings, running, wait_until
from training.model import Batch, ItemTable

HISTORY_LENGTH = 8
CANDIDATES = [9, 2, 70, 0, 5000, 9]
HISTORIES = {
    1: [3, 5, 8],
    2: [60, 61, 62, 63, 64, 65, 66, 67],
    3: [11, 3, 3, 40, 41, 3, 42, 43, 44, 45, 46],
    4: [7, 5000, 8, 5001],
    5: [],
}


class Torch:
    """The network that the serving bundle was made of, over the catalogue; item g is row g + 1."""

    def __init__(self, seed: int = 2) -> None:
        self.network = make_trained(seed=seed).network.double()
        info = make_items(NUM_ITEMS)
        ids, tags, embedding = (torch.from_numpy(values) for values in (info.item_id, info.tags, info.embedding))
        # Item 0 was not in training: the vocabulary's row 0 is padding.
        self.items = ItemTable(
            *(torch.cat([torch.zeros_like(part[:1]), part]) for part in (ids, tags, embedding.double()))
        )

    def explanation(self, candidates: Sequence[int], history: Sequence[int]) -> list[list[tuple[int, float]]]:
        """Return what each candidate's attention picks, heaviest first."""
        last = history[-HISTORY_LENGTH:]
        rows = [0] * (HISTORY_LENGTH - len(last)) + [self._row(item) if item else 0 for item in last]
        batch = Batch(
            torch.tensor([self._row(item) for item in candidates]),
            torch.tensor([rows] * len(candidates)),
            torch.zeros((len(candidates), 2), dtype=torch.int64),
        )
        weights = self.network.trace(self.items, batch).weights[:, HISTORY_LENGTH - len(last) :].tolist()
        return [self._picked(last, of_candidate) for of_candidate in weights]

    def _row(self, item: int) -> int:
        return item + 1 if item < NUM_ITEMS else 0

    def _picked(self, history: Sequence[int], weights: Sequence[float]) -> list[tuple[int, float]]:
        pairs = [(item, weight) for item, weight in zip(history, weights, strict=True) if weight > 0]
        return sorted(pairs, key=lambda pair: -pair[1])


@pytest.fixture(scope="module")
def network() -> Torch:
    return Torch()


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def url(request: pytest.FixtureRequest, store: Store, stocked_url: str, tmp_path: Path) -> Iterator[str]:
    """A service in processes of its own, with every user's history."""
    with many(tmp_path, store=store.folder, redis_url=stocked_url, workers=request.param) as service:
        with Client(service.url, timeout_s=30) as client:
            for user, history in HISTORIES.items():
                client.put_history(user, [item for item in history if item])
        yield service.url


def assert_same(got: object, wanted: list[list[tuple[int, float]]]) -> None:
    """Compare explanations: the same items in the same order, weights to 1e-5."""
    assert isinstance(got, list)
    assert [[item for item, _ in one] for one in got] == [[item for item, _ in one] for one in wanted]
    flat = [[weight for one in each for _, weight in one] for each in (got, wanted)]
    np.testing.assert_allclose(*flat, rtol=1e-5, atol=1e-5)


def test_weights_are_those_of_the_trained_network(url: str, network: Torch):
    """For stored and given histories, short, full, long, repeating, with holes and unknown items."""
    with Client(url, timeout_s=30) as client:
        for user, history in HISTORIES.items():
            ranking = client.rank(user, CANDIDATES, explain=True)
            assert_same(ranking.explanation, network.explanation(CANDIDATES, history))
        given = [0, 20, 0, 21, 5000, 20]
        ranking = client.rank(1, CANDIDATES, history=given, explain=True)
        assert_same(ranking.explanation, network.explanation(CANDIDATES, given))
        assert any(network.explanation(CANDIDATES, given))


def test_the_first_explanations_may_come_together(url: str, network: Torch):
    """Many at once, the very first ones, beside ranks that ask for none: all are right."""
    many_candidates = list(range(NUM_ITEMS)) * 5
    wanted = network.explanation(many_candidates, HISTORIES[2])
    with Client(url, timeout_s=60) as client, ThreadPoolExecutor(8) as threads:
        explained = [threads.submit(client.rank, 2, many_candidates, explain=True) for _ in range(16)]
        plain = [threads.submit(client.rank, 2, many_candidates) for _ in range(16)]
        for one in explained:
            assert_same(one.result().explanation, wanted)
        assert {tuple(one.result().scores) for one in (*explained, *plain)} == {tuple(plain[0].result().scores)}


def test_with_top_k_each_returned_item_is_explained(url: str, network: Torch):
    """Explanations follow the order of `items`."""
    with Client(url, timeout_s=30) as client:
        ranking = client.rank(2, list(range(40, 60)), top_k=3, explain=True)
    assert ranking.items is not None
    assert_same(ranking.explanation, network.explanation(ranking.items, HISTORIES[2]))


def test_only_who_asks_gets_explanations(url: str, network: Torch):
    """Of several users in one body each says for itself; without `explain` the answer has no such key."""
    requests = [
        RankRequest(1, CANDIDATES),
        RankRequest(2, [9], explain=True),
        RankRequest(3, CANDIDATES, explain=True),
    ]
    with Client(url, timeout_s=30) as client:
        rankings = client.rank_many(requests)
    assert rankings[0].explanation is None
    assert_same(rankings[1].explanation, network.explanation([9], HISTORIES[2]))
    assert_same(rankings[2].explanation, network.explanation(CANDIDATES, HISTORIES[3]))


def test_what_counts_for_nothing_is_left_out(service):
    """Neither unknown items nor padding, nor a candidate that the catalogue lacks, have anything to explain."""
    ranking = service.client.rank(1, [9, 5000], history=[0, 5000, 5001, 0], explain=True)
    assert ranking.explanation == [[], []]
    ranking = service.client.rank(1, [5000], history=[3, 5, 8], explain=True)
    assert ranking.explanation == [[]]
    assert "explanation" not in service.http.post("/v1/rank", json={"user_id": 1, "candidates": [1]}).json()


def test_of_equal_weights_the_newest_item_comes_first(service):
    """Items whose features are the same weigh the same; each place in the history is an entry of its own."""
    like_9 = [700, 701, 702]
    info = make_items(NUM_ITEMS)
    twin = Item(info.embedding[9].tolist(), tags=[int(tag) for tag in info.tags[9] if tag])
    for item_id in like_9:
        service.client.put_item(item_id, twin)
    wait_until(lambda: service.client.rank(1, like_9).unknown_items == [])
    explanations = service.client.rank(
        1, list(range(NUM_ITEMS)), history=[701, 700, 702, 700], explain=True
    ).explanation
    picked = [one for one in explanations if one]
    assert picked
    for one in picked:
        assert [item for item, _ in one] == [700, 702, 700, 701]
        assert len({weight for _, weight in one}) == 1


def test_the_graph_is_open_before_the_first_explanation(store: Store, stocked_url: str, tmp_path: Path):
    """Nothing is read from the store when somebody asks why: who waits behind such a request waits for no disk."""
    folder = tmp_path / "store"
    shutil.copytree(store.new, folder / "qin" / store.new.name)
    with running(make_settings(folder, stocked_url)) as service:
        (folder / "qin" / store.new.name / EXPLAIN).unlink()
        assert service.client.rank(1, [9], history=[3, 5, 8, 9], explain=True).explanation is not None


def test_a_version_that_was_exported_unfolded_cannot_explain(stocked_url: str, tmp_path: Path):
    """Asked why, it refuses with the reason; asked to rank, it ranks."""
    version = export_model(make_trained(), make_items(), tmp_path, fold_weights=False).name
    with running(make_settings(tmp_path, stocked_url)) as service:
        with pytest.raises(AtOddsError, match=f"{version} was exported unfolded") as caught:
            service.client.rank(1, [9], explain=True)
        assert (caught.value.status, caught.value.field) == (409, "explain")
        assert service.client.rank(1, [9]).version == version


def test_explain_is_yes_or_no(service):
    """Anything but a boolean is refused with the field that is wrong."""
    body = {"user_id": 1, "candidates": [1], "explain": 1}
    response = service.http.post("/v1/rank", json=body)
    assert (response.status_code, response.json()["field"]) == (422, "explain")
    with pytest.raises(ClientError):
        service.client.rank(1, [1], explain="yes")


def test_weights_that_overflowed_are_numbers_of_json():
    """Infinity counts as the largest number there is, and what is no number is left out."""
    weights = np.array([[np.inf, 1, np.nan, 0], [0, 0, 0, 0]], dtype=np.float32)
    pairs = json.loads(orjson.dumps(explain(weights, np.array([5, 6, 7, 8]))))
    assert pairs == [[[5, float(np.finfo(np.float32).max)], [6, 1.0]], []]
