"""QIN in the published order of computation, to compare results and speed with.

Every row brings the features of all its items, a history is repeated for each row, attention projects every history
item, all R rows of a quadratic layer are kept, and whole tables go through autograd for the L2 term. Parameters have
the names and shapes of `training.model.QIN`, so one state dict fits both. Written from the description of the
authors' code for arXiv 2504.17699.

Shapes: B rows, H history length, I = H + 1 items of a row, the candidate last, T tag slots, F width of the frozen
embedding, D item width, X input width, R rows of a quadratic layer.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from contract.schema import Schema
from training.model import ModelConfig


class PublishedBatch(NamedTuple):
    """Clicks with the features of every item of every row."""

    item: Tensor  # (B * I,) vocabulary rows
    tags: Tensor  # (B * I, T)
    embedding: Tensor  # (B * I, F)
    mask: Tensor  # (B, H) where the history holds an item
    levels: Tensor  # (B, 2)
    label: Tensor  # (B,)


class PublishedLoader:
    """Batches as published: rows collated one by one, features of 65 items a row gathered from a data frame.

    Parameters
    ----------
    items
        Columns `item_id` (vocabulary row), `item_tags` and `item_emb_d128`, the latter two of lists; row i is item i.
    history, candidate, levels, label
        (n, H), (n,), (n, 2), (n,) clicks; items as row numbers of `items`.
    """

    def __init__(
        self,
        items: pd.DataFrame,
        history: NDArray[np.integer],
        candidate: NDArray[np.integer],
        levels: NDArray[np.integer],
        label: NDArray[np.floating],
    ) -> None:
        self.items, self.length = items, history.shape[1]
        self.rows = np.column_stack([history, candidate, levels, label])

    def batch(self, rows: NDArray[np.integer]) -> PublishedBatch:
        """Return the batch of these (B,) rows."""
        collated = torch.from_numpy(np.stack([self.rows[row] for row in rows]))
        history, rest = collated[:, : self.length].long(), collated[:, self.length :]
        item = torch.cat([history, rest[:, :1].long()], dim=1)
        features = self.items.iloc[item.flatten().numpy()]
        return PublishedBatch(
            torch.from_numpy(np.array(features["item_id"].to_list())),
            torch.from_numpy(np.array(features["item_tags"].to_list())),
            torch.from_numpy(np.array(features["item_emb_d128"].to_list())),
            history > 0,
            rest[:, 1:3].long(),
            rest[:, 3],
        )


class PublishedQIN(nn.Module):
    """The network; see the module."""

    def __init__(self, schema: Schema, config: ModelConfig) -> None:
        super().__init__()
        dim, width = config.embedding_dim, config.input_width
        self.likes_embedding = nn.Embedding(schema.num_likes_levels, dim, padding_idx=0)
        self.views_embedding = nn.Embedding(schema.num_views_levels, dim, padding_idx=0)
        self.item_embedding = nn.Embedding(schema.num_items, dim, padding_idx=0)
        self.tag_embedding = nn.Embedding(schema.num_tags, dim, padding_idx=0)
        self.projection = nn.Linear(schema.embedding_width, dim, bias=False)
        self.attention = PublishedAttention(config.item_width)
        self.layers = nn.ModuleList(
            PublishedLayer(width, config.num_rows, config.batch_norm, config.dropout)
            for _ in range(config.num_layers)
        )
        self.output = nn.Linear(width, 1)

    def forward(self, batch: PublishedBatch) -> Tensor:
        """Return (B,) click probabilities."""
        tags = self.tag_embedding(batch.tags)
        count = (tags != 0).any(-1).sum(-1, keepdim=True).to(tags.dtype)
        parts = [self.item_embedding(batch.item), tags.sum(-2) / (count + 1e-12), self.projection(batch.embedding)]
        items_BID = torch.cat(parts, dim=-1).view(len(batch.mask), -1, 3 * parts[0].shape[-1])
        target_BD = items_BID[:, -1]
        pooled_BD = self.attention(target_BD, items_BID[:, :-1], batch.mask)
        likes_BE, views_BE = self.likes_embedding(batch.levels[:, 0]), self.views_embedding(batch.levels[:, 1])
        x_BX = torch.cat([likes_BE, views_BE, target_BD, pooled_BD], dim=-1)
        for layer in self.layers:
            x_BX = layer(x_BX)
        return torch.sigmoid(self.output(x_BX)).squeeze(-1)


class PublishedAttention(nn.Module):
    """Target attention that projects every history item."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 2 * width, bias=False)
        self.key = nn.Linear(width, 2 * width, bias=False)
        self.value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(2 * width, width, bias=False)

    def forward(self, target_BD: Tensor, history_BHD: Tensor, mask_BH: Tensor) -> Tensor:
        """Return (B, D) the pooled history plus the target."""
        query, key, value = self.query(target_BD).unsqueeze(1), self.key(history_BHD), self.value(history_BHD)
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        weights = functional.relu(scores * mask_BH.unsqueeze(1).to(scores.dtype))
        mapped: Tensor = self.output((weights @ value).squeeze(1))
        return mapped + target_BD


class PublishedLayer(nn.Module):
    """A quadratic layer that keeps all R rows."""

    def __init__(self, width: int, num_rows: int, batch_norm: bool, dropout: float) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.linear = nn.Linear(width, num_rows * width)
        self.norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        self.activation = nn.PReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return (B, X) the layer's output."""
        h_BRX = self.dropout(self.linear(x_BX)).view(len(x_BX), self.num_rows, -1)
        product_BX = (x_BX.unsqueeze(1) * h_BRX).sum(1)
        change_BX: Tensor = self.dropout(self.activation(self.norm(product_BX)))
        return change_BX + x_BX


class PublishedTrainer:
    """One step after another with the L2 term in autograd, clipping, and Adam as torch's default makes it."""

    def __init__(self, model: PublishedQIN, learning_rate: float, l2: float, max_grad_norm: float) -> None:
        self.model, self.l2, self.max_grad_norm = model, l2, max_grad_norm
        self.adam = torch.optim.Adam(model.parameters(), lr=learning_rate)

    def penalty(self) -> Tensor:
        """Return the L2 term: over whole tables and the projection."""
        model = self.model
        parts = (
            model.likes_embedding,
            model.views_embedding,
            model.item_embedding,
            model.tag_embedding,
            model.projection,
        )
        total = torch.zeros(())
        for part in parts:
            total = total + self.l2 / 2 * torch.norm(part.weight, 2) ** 2
        return total

    def loss(self, batch: PublishedBatch) -> Tensor:
        """Return cross-entropy on the probability plus the L2 term."""
        probability_B = self.model(batch)
        label_B = batch.label.to(probability_B.dtype)
        return functional.binary_cross_entropy(probability_B, label_B) + self.penalty()

    def update(self) -> None:
        """Clip the gradients, and change the weights by them."""
        nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        self.adam.step()

    def step(self, batch: PublishedBatch) -> float:
        """Change the weights by one batch and return its loss."""
        self.adam.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        self.update()
        return float(loss.detach())
