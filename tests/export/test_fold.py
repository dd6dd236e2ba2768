import numpy as np
import pytest
import torch

from contract.schema import Schema
from export.fold import FoldedModel, fold
from tests.fakes import make_items, make_network
from training.model import QIN, Batch, ItemTable

SCHEMA = Schema(num_items=200, num_tags=50, embedding_width=8, history_length=12)


@pytest.fixture(scope="module", params=[True, False], ids=["batch norm", "no norm"])
def network(request: pytest.FixtureRequest) -> QIN:
    """A network in float64 whose every weight matters."""
    return make_network(SCHEMA, num_layers=3, num_rows=4, batch_norm=request.param).double()


@pytest.fixture(scope="module")
def items() -> ItemTable:
    """Items 1 to 199 in their own rows; row 0 is padding."""
    info = make_items()
    tags, embedding = info.tags.copy(), info.embedding.astype(np.float64)
    tags[0], embedding[0] = 0, 0
    return ItemTable(torch.from_numpy(info.item_id), torch.from_numpy(tags), torch.from_numpy(embedding))


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Rows with full, empty and repeating histories."""
    generator = np.random.default_rng(3)
    history = generator.integers(0, 200, (40, 12))
    history[0], history[1], history[2] = 0, generator.integers(1, 200, 12), 7
    levels = generator.integers(0, 11, (40, 2))
    return Batch(*(torch.from_numpy(a) for a in (generator.integers(1, 200, 40), history, levels)))


def score(folded: FoldedModel, vectors: np.ndarray, batch: Batch, split: bool) -> np.ndarray:
    """The folded algebra in numpy, in float64."""
    target, history = vectors[batch.candidate], vectors[batch.history]
    likes, views = batch.levels.numpy().T
    weights = np.maximum(np.einsum("bd,bhd->bh", target, history @ folded.attention.key), 0)
    pooled = np.einsum("bh,bhd->bd", weights, history @ folded.attention.value) + target
    x = np.concatenate([folded.likes[likes], folded.views[views], target, pooled], axis=1)
    tower, parts = folded.tower, folded.first_layer
    for layer in range(len(tower.weight)):
        linear = x @ tower.weight[layer] + tower.bias[layer]
        if split and layer == 0:
            linear = parts.likes[likes] + parts.views[views] + target @ parts.input
            linear += np.einsum("bh,bhx->bx", weights, history @ parts.history)
        product = x * linear + tower.shift[layer]
        x = x + np.where(product > 0, product, tower.slope[layer] * product)
    return 1 / (1 + np.exp(-(x @ tower.output_weight + tower.output_bias)[:, 0]))


@pytest.mark.parametrize("split", [False, True], ids=["computed", "layer 1 split"])
def test_the_fold_is_exact(network: QIN, items: ItemTable, batch: Batch, split: bool) -> None:
    """In float64 the folded network gives what the trained one gives, to rounding."""
    with torch.no_grad():
        wanted = network(items, batch).numpy()
        vectors = network.item_vectors(items, torch.arange(200)).numpy()
    assert np.abs(score(fold(network), vectors, batch, split) - wanted).max() < 2e-14


def test_the_published_cost_shrinks_to_one_matrix_per_layer(network: QIN) -> None:
    """Whatever num_rows is, a folded layer has one X by X matrix."""
    folded = fold(network)
    width = network.config.input_width
    assert folded.tower.weight.shape == (3, width, width)
