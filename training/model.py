"""QIN, the Quadratic Interest Network: a pure, single-device module.

Shapes: B rows, H history length, N items, T tag slots, F width of the frozen embedding, E embedding_dim,
D = 3 E item width, X = 2 E + 2 D input width.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from contract.schema import Schema
from training.layers import QuadraticLayer, SparseTargetAttention
from training.ragged import RaggedHistory
from training.tags import mean_of_tags


class ModelConfig(BaseModel):
    """The sizes of a QIN network that its data does not determine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding_dim: int = Field(default=128, ge=1)
    num_layers: int = Field(default=4, ge=1)
    num_rows: int = Field(default=4, ge=1)
    batch_norm: bool = True
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @property
    def item_width(self) -> int:
        """D: id embedding, mean tag embedding and projected frozen embedding side by side."""
        return 3 * self.embedding_dim

    @property
    def input_width(self) -> int:
        """X: both levels, the target and the pooled history side by side."""
        return 2 * self.embedding_dim + 2 * self.item_width


@dataclass(frozen=True, slots=True)
class ItemTable:
    """The features of all items, on the model's device; batches refer to them by row.

    Row 0 is all zeros: padding, whose vector is the zero vector.
    """

    vocabulary_row: Tensor  # (N,) row of the item id embedding, 0 where the id was not in training
    tags: Tensor  # (N, T) rows of the tag embedding
    embedding: Tensor  # (N, F) frozen

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "ItemTable":
        """Return the same features on a device; the frozen embedding as `dtype`."""
        return ItemTable(self.vocabulary_row.to(device), self.tags.to(device), self.embedding.to(device, dtype))


class Batch(NamedTuple):
    """Clicks as row numbers of an item table."""

    candidate: Tensor  # (B,)
    history: Tensor  # (B, H), 0 is padding
    levels: Tensor  # (B, 2) likes and views level of the candidate
    label: Tensor | None = None  # (B,)


class Trace(NamedTuple):
    """The intermediate values of one forward pass."""

    target: Tensor  # (B, D)
    weights: Tensor  # (B, H) attention weights, 0 on padding
    pooled: Tensor  # (B, D)
    layers: tuple[Tensor, ...]  # (B, X) the input of each layer, then the output of the last
    logit: Tensor  # (B,)


class QIN(nn.Module):
    """Click probability of a candidate item, given the items that a user met before.

    Source: Quadratic Interest Network for Multimodal Click-Through Rate Prediction, arXiv 2504.17699.
    """

    def __init__(self, schema: Schema, config: ModelConfig) -> None:
        super().__init__()
        self.schema, self.config = schema, config
        dim, width = config.embedding_dim, config.input_width
        self.likes_embedding = nn.Embedding(schema.num_likes_levels, dim, padding_idx=0)
        self.views_embedding = nn.Embedding(schema.num_views_levels, dim, padding_idx=0)
        self.item_embedding = nn.Embedding(schema.num_items, dim, padding_idx=0)
        self.tag_embedding = nn.Embedding(schema.num_tags, dim, padding_idx=0)
        self.projection = nn.Linear(schema.embedding_width, dim, bias=False)
        self.attention = SparseTargetAttention(config.item_width)
        self.layers = nn.ModuleList(
            QuadraticLayer(width, config.num_rows, config.batch_norm, config.dropout)
            for _ in range(config.num_layers)
        )
        self.output = nn.Linear(width, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published: Xavier normal weights, zero biases, embeddings N(0, 1e-4), row 0 zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight[1:], std=1e-4)
                nn.init.zeros_(module.weight[:1])

    def item_vectors(self, items: ItemTable, rows: Tensor) -> Tensor:
        """Return (n, D) the vectors of the items in the given (n,) rows."""
        return torch.cat(
            [
                self.item_embedding(items.vocabulary_row[rows]),
                mean_of_tags(self.tag_embedding.weight, items.tags[rows]),
                self.projection(items.embedding[rows]),
            ],
            dim=-1,
        )

    def _inputs(self, items: ItemTable, batch: Batch) -> tuple[Tensor, Tensor, RaggedHistory]:
        """Return the batch's distinct item vectors, the candidates' rows in them, and the histories."""
        owner, slot = batch.history.nonzero(as_tuple=True)
        rows, position = torch.unique(torch.cat([batch.candidate, batch.history[owner, slot]]), return_inverse=True)
        candidate, item = position.split([len(batch.candidate), len(owner)])
        lengths = (batch.history != 0).sum(1)
        history = RaggedHistory(item, owner, lengths.cumsum(0) - lengths)
        return self.item_vectors(items, rows), candidate, history

    def _assemble(self, batch: Batch, target_BD: Tensor, pooled_BD: Tensor) -> Tensor:
        likes_BE = self.likes_embedding(batch.levels[:, 0])
        views_BE = self.views_embedding(batch.levels[:, 1])
        return torch.cat([likes_BE, views_BE, target_BD, pooled_BD], dim=-1)

    def logits(self, items: ItemTable, batch: Batch) -> Tensor:
        """Return (B,) log-odds of a click."""
        vectors, candidate, history = self._inputs(items, batch)
        target_BD = nn.functional.embedding(candidate, vectors)
        x_BX = self._assemble(batch, target_BD, self.attention(target_BD, vectors, history))
        for layer in self.layers:
            x_BX = layer(x_BX)
        logit_B1: Tensor = self.output(x_BX)
        return logit_B1.squeeze(-1)

    def forward(self, items: ItemTable, batch: Batch) -> Tensor:
        """Return (B,) click probabilities."""
        return torch.sigmoid(self.logits(items, batch))

    @torch.no_grad()
    def trace(self, items: ItemTable, batch: Batch) -> Trace:
        """Return every intermediate value of a forward pass, for comparison and explanation."""
        vectors, candidate, history = self._inputs(items, batch)
        target_BD = vectors[candidate]
        weights_BH = torch.zeros(batch.history.shape, dtype=vectors.dtype, device=vectors.device)
        weights_BH[batch.history != 0] = self.attention.weights(target_BD, vectors, history)
        pooled_BD = self.attention(target_BD, vectors, history)
        inputs = [self._assemble(batch, target_BD, pooled_BD)]
        for layer in self.layers:
            inputs.append(layer(inputs[-1]))
        logit_B = self.output(inputs[-1]).squeeze(-1)
        return Trace(target_BD, weights_BH, pooled_BD, tuple(inputs), logit_B)

    def penalised(self) -> list[Tensor]:
        """Return what the L2 term covers: all embedding tables and the projection."""
        modules = (
            self.likes_embedding,
            self.views_embedding,
            self.item_embedding,
            self.tag_embedding,
            self.projection,
        )
        return [module.weight for module in modules]

    def penalty(self) -> Tensor:
        """Return the squared L2 norm of what the L2 term covers."""
        return torch.stack([weight.square().sum() for weight in self.penalised()]).sum()
