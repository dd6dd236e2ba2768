"""Golden rows: a few rankings with every case that is easy to get wrong, and what the trained model gives for them.

Items without tags, with repeated tags and with a tag that the vocabulary lacks; item 0 as a candidate; a cold item;
an unknown item. Histories that are empty, full, shorter, repeating, with holes, with the candidate inside.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from contract.bundle import Golden
from contract.mmctr import ItemInfo
from contract.schema import Schema
from training.model import QIN, Batch, ItemTable

_NUM_SAMPLED = 16
_BEYOND_VOCABULARY = 2**40


@dataclass(frozen=True, slots=True)
class GoldenInputs:
    """Items and rows to be scored, in the shapes of `contract.bundle.Golden`."""

    item_id: NDArray[np.int64]
    tags: NDArray[np.int64]
    embedding: NDArray[np.float32]
    candidate_rows: NDArray[np.int64]
    history_rows: NDArray[np.int64]
    levels: NDArray[np.int64]


def golden_inputs(items: ItemInfo, schema: Schema) -> GoldenInputs:
    """Choose golden rows from a catalogue; the same catalogue gives the same rows."""
    generator = np.random.default_rng(20242025)
    sampled = generator.choice(len(items), size=min(_NUM_SAMPLED, len(items)), replace=False)
    sampled = sampled[items.item_id[sampled] != 0]
    ids, tags, embedding = items.item_id[sampled], items.tags[sampled].copy(), items.embedding[sampled]
    if len(sampled) >= 3:
        tags[0] = 0
        tags[1] = tags[1][0] or 1
        tags[2, -1] = schema.num_tags + 7
    # Item 0 and a cold item get features of their own, so that a mask or a look-up gone wrong shows.
    special = generator.normal(size=(2, schema.embedding_width)).astype(np.float32)
    special_tags = np.zeros((2, schema.max_tags), dtype=np.int64)
    special_tags[:, 0] = min(1, schema.num_tags - 1)
    item_id = np.concatenate([ids, [0, _BEYOND_VOCABULARY]])
    histories = _histories(len(item_id), schema.history_length, generator)
    candidates = np.tile(np.arange(len(item_id) + 1), (len(histories), 1))
    return GoldenInputs(
        item_id,
        np.concatenate([tags, special_tags]),
        np.concatenate([embedding, special]),
        candidates,
        histories,
        np.stack([generator.integers(0, size, candidates.shape) for size in _num_levels(schema)], axis=-1),
    )


def _num_levels(schema: Schema) -> tuple[int, int]:
    return schema.num_likes_levels, schema.num_views_levels


def _histories(num_items: int, length: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return (U, H) rows: empty, full, half, repeating, with holes, one item, the last item alone."""
    full = generator.integers(1, num_items + 1, length)
    half = np.where(np.arange(length) < length // 2, 0, full)
    repeating = np.where(np.arange(length) % 3 == 0, full, full[-1])
    holes = np.where(generator.random(length) < 0.5, 0, full)
    one, last = np.zeros((2, length), dtype=np.int64)
    one[-1], last[-1] = 1, num_items
    return np.stack([np.zeros(length, dtype=np.int64), full, half, repeating, holes, one, last])


@torch.no_grad()
def golden_outputs(
    model: QIN, vocabulary_rows: NDArray[np.int64], inputs: GoldenInputs, dtype: torch.dtype = torch.float64
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scores (U, N) and attention weights (U, N, H) as the model computes them in `dtype`.

    `vocabulary_rows` is (G,), the vocabulary row of each golden item.
    """
    model = _copy(model, dtype)
    users, candidates = inputs.candidate_rows.shape
    batch = Batch(
        torch.from_numpy(inputs.candidate_rows.reshape(-1)),
        torch.from_numpy(np.repeat(inputs.history_rows, candidates, axis=0)),
        torch.from_numpy(inputs.levels.reshape(-1, 2)),
    )
    trace = model.trace(_item_table(model.schema, vocabulary_rows, inputs).to("cpu", dtype), batch)
    scores = torch.sigmoid(trace.logit).reshape(users, candidates)
    weights = trace.weights.reshape(users, candidates, -1)
    return scores.double().numpy(), weights.double().numpy()


def _copy(model: QIN, dtype: torch.dtype) -> QIN:
    copy = QIN(model.schema, model.config)
    copy.load_state_dict(model.state_dict())
    return copy.to(dtype).eval()


def _item_table(schema: Schema, vocabulary_rows: NDArray[np.int64], inputs: GoldenInputs) -> ItemTable:
    """Return the golden items below a row of zeros; tags outside the vocabulary are dropped."""
    known = np.where(inputs.tags < schema.num_tags, inputs.tags, 0)
    return ItemTable(
        torch.from_numpy(np.concatenate([[0], vocabulary_rows])),
        torch.from_numpy(np.concatenate([np.zeros_like(known[:1]), known])),
        torch.from_numpy(np.concatenate([np.zeros_like(inputs.embedding[:1]), inputs.embedding])),
    )


def golden_rows(inputs: GoldenInputs, scores: NDArray[np.float64], weights: NDArray[np.float64]) -> Golden:
    """Return inputs and outputs as a bundle carries them."""
    return Golden(
        inputs.item_id,
        inputs.tags,
        inputs.embedding,
        inputs.candidate_rows,
        inputs.history_rows,
        inputs.levels,
        scores,
        weights,
    )
