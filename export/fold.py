"""The exact algebra that makes QIN cheap to serve: float64 in, arrays to be rounded once out.

Three facts, each an identity in exact arithmetic (the network is that of arXiv 2504.17699, section 3):

- The R rows of a quadratic layer are only ever summed, and a sum of linear maps is one linear map. BatchNorm at
  inference is a scale a and a shift c per column, and a goes into W and b:
  x + prelu(a * (x * (x W + b)) + c) = x + prelu(x * (x (W a) + a b) + c).
- Attention scores are t M h with M = W_q^T W_k / sqrt(2D), and the pooled value is W_o W_v times the weighted sum
  of h: `key` = h M^T and `value` = h (W_o W_v)^T depend on the item alone and are computed once per item.
- Layer 1 is linear in its input before it multiplies by it, so its product splits into a part per likes level, per
  views level, per candidate (`input_part`) and per history item (`history_part`), all of them table look-ups.

Shapes: E embedding_dim, D item width, X input width, L layers. Weights are (inputs, outputs).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.layers import QuadraticLayer
from training.model import QIN

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FoldedTower:
    """All quadratic layers and the output: x = x + prelu(x * (x weight + bias) + shift), then x output + bias."""

    weight: Array  # (L, X, X)
    bias: Array  # (L, X)
    shift: Array  # (L, X)
    slope: Array  # (L, 1)
    output_weight: Array  # (X, 1)
    output_bias: Array  # (1,)


@dataclass(frozen=True, slots=True)
class FoldedAttention:
    """What turns an item vector into its key and its value: vector @ matrix."""

    key: Array  # (D, D)
    value: Array  # (D, D)


@dataclass(frozen=True, slots=True)
class FirstLayerParts:
    """Layer 1's linear map, split by where its input comes from; the bias is in the likes table."""

    likes: Array  # (levels, X)
    views: Array  # (levels, X)
    input: Array  # (D, X): item vector -> input_part
    history: Array  # (D, X): item vector -> history_part


@dataclass(frozen=True, slots=True)
class FoldedModel:
    """A QIN network in the form that is served."""

    likes: Array  # (levels, E)
    views: Array  # (levels, E)
    item: Array  # (num_items, E)
    tag: Array  # (num_tags, E)
    projection: Array  # (F, E)
    attention: FoldedAttention
    tower: FoldedTower
    first_layer: FirstLayerParts


def fold(model: QIN) -> FoldedModel:
    """Fold a trained network; exact but for the rounding of float64."""
    attention = _fold_attention(model)
    tower = _fold_tower(model)
    return FoldedModel(
        likes=_array(model.likes_embedding.weight),
        views=_array(model.views_embedding.weight),
        item=_array(model.item_embedding.weight),
        tag=_array(model.tag_embedding.weight),
        projection=_array(model.projection.weight).T,
        attention=attention,
        tower=tower,
        first_layer=_split_first_layer(model, attention, tower),
    )


def _fold_attention(model: QIN) -> FoldedAttention:
    query, key = _array(model.attention.query.weight), _array(model.attention.key.weight)
    value, output = _array(model.attention.value.weight), _array(model.attention.output.weight)
    scores = query.T @ key / math.sqrt(len(query))
    return FoldedAttention(key=scores.T, value=(output @ value).T)


def _fold_tower(model: QIN) -> FoldedTower:
    layers = [_fold_layer(layer) for layer in model.layers if isinstance(layer, QuadraticLayer)]
    weight, bias, shift, slope = (np.stack(parts) for parts in zip(*layers, strict=True))
    return FoldedTower(weight, bias, shift, slope, _array(model.output.weight).T, _array(model.output.bias))


def _fold_layer(layer: QuadraticLayer) -> tuple[Array, Array, Array, Array]:
    """Return weight (X, X), bias (X,), shift (X,) and slope (1,) of one layer."""
    width = layer.linear.in_features
    weight = _array(layer.linear.weight).reshape(layer.num_rows, width, width).sum(0)
    bias = _array(layer.linear.bias).reshape(layer.num_rows, width).sum(0)
    scale, shift = np.ones(width), np.zeros(width)
    if isinstance(layer.norm, torch.nn.BatchNorm1d):
        assert layer.norm.running_mean is not None
        assert layer.norm.running_var is not None
        scale = _array(layer.norm.weight) / np.sqrt(_array(layer.norm.running_var) + layer.norm.eps)
        shift = _array(layer.norm.bias) - _array(layer.norm.running_mean) * scale
    return (weight * scale[:, None]).T, bias * scale, shift, _array(layer.activation.weight)


def _split_first_layer(model: QIN, attention: FoldedAttention, tower: FoldedTower) -> FirstLayerParts:
    dim, width = model.config.embedding_dim, model.config.item_width
    likes, views, target, pooled = np.split(tower.weight[0], np.cumsum([dim, dim, width]))
    return FirstLayerParts(
        likes=_array(model.likes_embedding.weight) @ likes + tower.bias[0],
        views=_array(model.views_embedding.weight) @ views,
        input=target + pooled,  # the pooled history includes the target itself
        history=attention.value @ pooled,
    )


def _array(parameter: torch.Tensor) -> Array:
    return parameter.detach().cpu().double().numpy()
