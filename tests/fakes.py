"""Models and catalogues small enough to make in a test, and real all the same."""

from pathlib import Path

import numpy as np
import torch

from contract.manifest import Provenance
from contract.mmctr import ItemInfo
from contract.schema import Schema
from export.exporter import TrainedModel, export_model
from training.model import QIN, ModelConfig


def make_items(num_items: int = 200, num_tags: int = 50, embedding_width: int = 8, seed: int = 7) -> ItemInfo:
    """Return items 0 to num_items - 1 with 0 to 5 tags each; item 0 has features like any other."""
    generator = np.random.default_rng(seed)
    tags = generator.integers(1, num_tags, size=(num_items, 5))
    tags[np.arange(5) >= generator.integers(0, 6, size=(num_items, 1))] = 0
    embedding = generator.normal(size=(num_items, embedding_width)).astype(np.float32)
    return ItemInfo(np.arange(num_items), tags, embedding)


def make_network(
    schema: Schema,
    *,
    seed: int = 0,
    embedding_dim: int = 8,
    num_layers: int = 2,
    num_rows: int = 2,
    batch_norm: bool = True,
) -> QIN:
    """Return a network whose every weight matters: large embeddings, used BatchNorm, a negative PReLU slope."""
    generator = torch.Generator().manual_seed(seed)
    config = ModelConfig(embedding_dim=embedding_dim, num_layers=num_layers, num_rows=num_rows, batch_norm=batch_norm)
    network = QIN(schema, config)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if name.endswith("num_batches_tracked"):
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("embedding.weight"):
                value.copy_(noise)
                value[0] = 0
            elif name.endswith("running_var"):
                value.copy_(noise.abs() + 0.5)
            elif name.endswith("activation.weight"):
                value.copy_(noise * 0.5)
            elif value.ndim == 1:
                value.copy_(noise * 0.1 + ("norm.weight" in name))
            else:
                value.copy_(noise / value.shape[-1] ** 0.5 * 0.7)
    return network.eval()


def make_trained(
    *,
    seed: int = 0,
    num_items: int = 200,
    num_tags: int = 50,
    embedding_width: int = 8,
    history_length: int = 8,
    num_likes_levels: int = 11,
    **sizes: int | bool,
) -> TrainedModel:
    """Return a network of random weights with its vocabulary, as a checkpoint would give it."""
    schema = Schema(
        num_items=num_items,
        num_tags=num_tags,
        embedding_width=embedding_width,
        history_length=history_length,
        num_likes_levels=num_likes_levels,
    )
    network = make_network(schema, seed=seed, **sizes)  # type: ignore[arg-type]
    return TrainedModel(network, np.arange(num_items), Provenance(recipe="random", auc=0.5, log_loss=0.7))


def make_bundle(
    store: Path,
    *,
    model: str = "qin",
    num_items: int = 200,
    num_tags: int = 50,
    embedding_width: int = 8,
    **options: int | bool,
) -> Path:
    """Publish a bundle of random weights and return its folder; `options` are those of `make_trained`."""
    trained = make_trained(num_items=num_items, num_tags=num_tags, embedding_width=embedding_width, **options)
    return export_model(trained, make_items(num_items, num_tags, embedding_width), store, model)
