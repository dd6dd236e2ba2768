from pathlib import Path

import pytest
import torch

from contract.schema import Schema
from tests.training.oracle import Oracle, load_oracle
from training.model import QIN, ModelConfig


@pytest.fixture
def oracle(tmp_path: Path) -> Oracle:
    return load_oracle(tmp_path)


def test_the_paper_network_has_the_published_number_of_parameters() -> None:
    """31,244,293 with four rows a layer, 27,045,893 with three, at MicroLens-1M's vocabularies."""
    schema = Schema(num_items=91_718, num_tags=11_740, embedding_width=128)
    for num_rows, expected in ((4, 31_244_293), (3, 27_045_893)):
        with torch.device("meta"):
            model = QIN(schema, ModelConfig(num_rows=num_rows))
        assert sum(value.numel() for value in model.parameters()) == expected


def test_a_trace_ends_in_what_forward_gives(oracle: Oracle) -> None:
    """The intermediate values are those of the same pass."""
    trace = oracle.model.trace(oracle.items, oracle.batch)
    assert torch.equal(torch.sigmoid(trace.logit), oracle.model(oracle.items, oracle.batch))
    assert trace.weights.shape == oracle.batch.history.shape
    assert len(trace.layers) == oracle.model.config.num_layers + 1


def test_padding_anywhere_in_a_history_counts_for_nothing(oracle: Oracle) -> None:
    """Zeros between items, at the end or left out altogether give the same probability."""
    short = oracle.batch.history[:, -20:]
    holed = torch.zeros(len(short), 40, dtype=short.dtype)
    holed[:, ::2] = short
    ours = [oracle.model(oracle.items, oracle.batch._replace(history=history)) for history in (short, holed)]
    torch.testing.assert_close(ours[0], ours[1], rtol=0, atol=1e-14)


def test_row_numbers_may_be_int32_or_int64(oracle: Oracle) -> None:
    """Compact rows give the same numbers."""
    wide = oracle.batch._replace(history=oracle.batch.history.long(), levels=oracle.batch.levels.long())
    compact = oracle.batch._replace(history=oracle.batch.history.int(), levels=oracle.batch.levels.int())
    assert torch.equal(oracle.model(oracle.items, wide), oracle.model(oracle.items, compact))


def test_dropout_acts_in_training_only() -> None:
    """Two passes differ while training and agree in evaluation."""
    torch.manual_seed(0)
    layer = QIN(Schema(num_items=2, num_tags=2, embedding_width=2), ModelConfig(embedding_dim=4)).layers[0]
    x_BX = torch.randn(5, 32)
    assert not torch.equal(layer(x_BX), layer(x_BX))
    layer.eval()
    assert torch.equal(layer(x_BX), layer(x_BX))
