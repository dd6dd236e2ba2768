"""Models and catalogues small enough to make in a test, and real all the same."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from onnx import TensorProto

from contract.manifest import Precision, Provenance
from contract.mmctr import ItemInfo
from contract.schema import Schema
from export.exporter import TrainedModel, export_model
from export.functions import attention_call, model_with, quadratic_tower, sparse_target_attention, tower_call
from export.graph import parse_graph
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


def write_clicks(
    path: Path, *, num_rows: int = 300, num_items: int = 200, history_length: int = 8, seed: int = 11
) -> Path:
    """Write clicks on items 0 to num_items - 1 with random histories, levels and labels, and return their path."""
    generator = np.random.default_rng(seed)
    columns = {
        "user_id": np.arange(num_rows),
        "item_id": generator.integers(0, num_items, num_rows),
        "item_seq": list(generator.integers(0, num_items, (num_rows, history_length))),
        "likes_level": generator.integers(0, 11, num_rows),
        "views_level": generator.integers(0, 11, num_rows),
        "label": generator.integers(0, 2, num_rows),
    }
    pq.write_table(pa.table(columns), path)
    return path


def make_bundle(
    store: Path,
    *,
    model: str = "qin",
    num_items: int = 200,
    num_tags: int = 50,
    embedding_width: int = 8,
    precision: Precision = "float32",
    split_first_layer: bool = True,
    **options: int | bool,
) -> Path:
    """Publish a bundle of random weights and return its folder; `options` are those of `make_trained`.

    A precision below float32 may cost any AUC: random weights have none to lose.
    """
    trained = make_trained(num_items=num_items, num_tags=num_tags, embedding_width=embedding_width, **options)
    items = make_items(num_items, num_tags, embedding_width)
    with tempfile.TemporaryDirectory() as folder:
        reduced = precision != "float32"
        return export_model(
            trained,
            items,
            store,
            model,
            split_first_layer=split_first_layer,
            precision=precision,
            validation=write_clicks(Path(folder) / "clicks.parquet", num_items=num_items) if reduced else None,
            max_auc_loss=1,
        )


def attention_model(split: bool) -> bytes:
    """Return a model of one call of `qin.SparseTargetAttention`; all operands are inputs."""
    inputs = "float[n,D] target, float[n,D] key, float[n,D] value, int64[U,N] candidate_rows, int64[U,H] history_rows"
    outputs = "float[U,N,D] pooled"
    if split:
        inputs += ", float[n,X] input_part, float[n,X] history_part"
        outputs += ", float[U,N,X] partial"
    graph = parse_graph("attention", inputs, outputs, attention_call(split), {})
    return model_with(graph, [sparse_target_attention(split)])


def tower_model(
    num_layers: int, split: bool, precision: Precision = "float32", constants: Sequence[TensorProto] = ()
) -> bytes:
    """Return a model of one call of `qin.QuadraticTower`; operands that are not among `constants` are inputs."""
    inputs = {
        "target": "float[n,D]",
        "pooled": "float[U,N,D]",
        "candidate_rows": "int64[U,N]",
        "levels": "int64[U,N,2]",
        "likes": "float[num_likes,E]",
        "views": "float[num_views,E]",
        "weight": {"float32": "float", "bfloat16": "bfloat16", "int8": "int8"}[precision] + "[G,X,X]",
        "bias": "float[G,X]",
        "shift": "float[L,X]",
        "slope": "float[L,1]",
        "output_weight": "float[X,1]",
        "output_bias": "float[1]",
    }
    if split:
        inputs |= {
            "partial": "float[U,N,X]",
            "likes_first": "float[num_likes,X]",
            "views_first": "float[num_views,X]",
        }
    if precision == "int8":
        inputs["weight_scale"] = "float[G,X]"
    held = {tensor.name for tensor in constants}
    given = ", ".join(f"{kind} {name}" for name, kind in inputs.items() if name not in held)
    graph = parse_graph("tower", given, "float[U,N] scores", tower_call(split, precision), {})
    graph.initializer.extend(constants)
    return model_with(graph, [quadratic_tower(num_layers, split, precision)])
