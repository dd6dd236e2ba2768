"""The graphs of an unfolded bundle: the model in the order of computation that its authors published.

The tables hold raw features, and every request repeats the user's history for each candidate, looks all
embeddings up, projects every history item to keys and values, and keeps the R rows of each layer. It is there to be
compared with: same numbers, many times the work. One row of the batch is one (user, candidate) pair, as in training.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from contract.bundle import ITEM_ENCODER, RANKER
from contract.manifest import TableSpec
from contract.schema import Schema
from export.functions import model_with
from export.graph import ROW_INPUTS, parse_graph, table_list
from training.layers import QuadraticLayer
from training.model import QIN


def published_tables(schema: Schema) -> tuple[TableSpec, ...]:
    """Return the raw features of an item as tables."""
    return (
        TableSpec(name="vocabulary_row_of", width=1, dtype="int64"),
        TableSpec(name="tags_of", width=schema.max_tags, dtype="int64"),
        TableSpec(name="embedding_of", width=schema.embedding_width),
    )


def published_graphs(model: QIN) -> dict[str, bytes]:
    """Return the serialised graphs of the model as published."""
    tables = published_tables(model.schema)
    return {ITEM_ENCODER: _passthrough(model.schema, tables), RANKER: _ranker(model, tables)}


def _passthrough(schema: Schema, tables: tuple[TableSpec, ...]) -> bytes:
    inputs = f"int64[n] vocabulary_row, int64[n,{schema.max_tags}] tags, float[n,{schema.embedding_width}] embedding"
    body = """
        last_axis = Constant <value_ints = [1]> ()
        vocabulary_row_of = Unsqueeze (vocabulary_row, last_axis)
        tags_of = Identity (tags)
        embedding_of = Identity (embedding)
    """
    return model_with(parse_graph("item_encoder", inputs, table_list(tables), body, {}), [])


def _ranker(model: QIN, tables: tuple[TableSpec, ...]) -> bytes:
    num_layers = model.config.num_layers
    body = f"""
        last_axis = Constant <value_ints = [-1]> ()
        {_pairs()}
        {_item_vectors()}
        {_attention()}
        likes_of = Gather <axis = 0> (likes, likes_level)
        views_of = Gather <axis = 0> (views, views_level)
        x_0 = Concat <axis = 1> (likes_of, views_of, target_vector, pooled)
        {"".join(_layer(number, model.config.batch_norm) for number in range(num_layers))}
        output = Gemm <transB = 1> (x_{num_layers}, output_weight, output_bias)
        probability = Sigmoid (output)
        shape = Shape (candidate_rows)
        scores = Reshape (probability, shape)
    """
    inputs = f"{table_list(tables)}, {ROW_INPUTS}"
    return model_with(parse_graph("ranker", inputs, "float[U,N] scores", body, _weights(model)), [])


def _pairs() -> str:
    """Each (user, candidate) as a row of its own: item, levels, and the user's history once more."""
    return """
        column = Constant <value_ints = [-1, 1]> ()
        rows_of_levels = Constant <value_ints = [-1, 2]> ()
        second = Constant <value_ints = [1]> ()
        zero = Constant <value_int = 0> ()
        one = Constant <value_int = 1> ()
        zero_list = Constant <value_ints = [0]> ()
        candidate = Reshape (candidate_rows, column)
        level_rows = Reshape (levels, rows_of_levels)
        likes_level = Gather <axis = 1> (level_rows, zero)
        views_level = Gather <axis = 1> (level_rows, one)
        history_once = Unsqueeze (history_rows, second)
        candidate_shape = Shape (candidate_rows)
        tail = Constant <value_ints = [1]> ()
        repeats = Concat <axis = 0> (candidate_shape, tail)
        repeated = Expand (history_once, repeats)
        history_shape = Shape <start = 1> (history_rows)
        minus_one = Constant <value_ints = [-1]> ()
        flat_shape = Concat <axis = 0> (minus_one, history_shape)
        history = Reshape (repeated, flat_shape)
        is_item = Greater (history, zero)
        mask = Cast <to = 1> (is_item)
        row = Concat <axis = 1> (candidate, history)
    """


def _item_vectors() -> str:
    """Each pair's vectors of its candidate and of every history item, from raw features."""
    return """
        vocabulary_rows = Gather <axis = 0> (vocabulary_row_of, row)
        vocabulary = Squeeze (vocabulary_rows, last_axis)
        id_part = Gather <axis = 0> (item, vocabulary)
        tags = Gather <axis = 0> (tags_of, row)
        tag_parts = Gather <axis = 0> (tag, tags)
        slot_axis = Constant <value_ints = [2]> ()
        tag_sum = ReduceSum <keepdims = 0> (tag_parts, slot_axis)
        tag_absolute = Abs (tag_parts)
        tag_norm = ReduceSum <keepdims = 0> (tag_absolute, last_axis)
        nothing = Constant <value_float = 0.0> ()
        tag_is_there = Greater (tag_norm, nothing)
        present = Cast <to = 1> (tag_is_there)
        count = ReduceSum <keepdims = 1> (present, last_axis)
        divisor = Add (count, tiny)
        tag_part = Div (tag_sum, divisor)
        embedding = Gather <axis = 0> (embedding_of, row)
        embedding_part = MatMul (embedding, projection)
        vectors = Concat <axis = 2> (id_part, tag_part, embedding_part)
        target_vector = Gather <axis = 1> (vectors, zero)
        ends = Constant <value_ints = [9223372036854775807]> ()
        sequence = Slice (vectors, second, ends, second)
    """


def _attention() -> str:
    return """
        query = MatMul (target_vector, query_matrix)
        query_row = Unsqueeze (query, second)
        keys = MatMul (sequence, key_matrix)
        values = MatMul (sequence, value_matrix)
        key_columns = Transpose <perm = [0, 2, 1]> (keys)
        products = MatMul (query_row, key_columns)
        scaled = Mul (products, scale)
        mask_row = Unsqueeze (mask, second)
        masked = Mul (scaled, mask_row)
        weights = Relu (masked)
        summed = MatMul (weights, values)
        summed_flat = Squeeze (summed, second)
        context = MatMul (summed_flat, output_matrix)
        pooled = Add (context, target_vector)
    """


def _layer(number: int, batch_norm: bool) -> str:
    normalised = f"product_{number}"
    norm = ""
    if batch_norm:
        normalised = f"normalised_{number}"
        operands = ", ".join(f"{name}_{number}" for name in ("product", "gamma", "beta", "mean", "variance"))
        norm = f"{normalised} = BatchNormalization <epsilon = 1e-5> ({operands})"
    return f"""
        h_{number} = Gemm <transB = 1> (x_{number}, weight_{number}, bias_{number})
        h_rows_{number} = Reshape (h_{number}, rows_shape)
        x_row_{number} = Unsqueeze (x_{number}, second)
        products_{number} = Mul (x_row_{number}, h_rows_{number})
        product_{number} = ReduceSum <keepdims = 0> (products_{number}, second)
        {norm}
        activated_{number} = PRelu ({normalised}, slope_{number})
        x_{number + 1} = Add (x_{number}, activated_{number})
    """


def _weights(model: QIN) -> Mapping[str, NDArray[np.generic] | np.generic]:
    state = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    weights: dict[str, NDArray[np.generic] | np.generic] = {
        "likes": state["likes_embedding.weight"],
        "views": state["views_embedding.weight"],
        "item": state["item_embedding.weight"],
        "tag": state["tag_embedding.weight"],
        "tiny": np.float32(1e-12),
        "projection": state["projection.weight"].T,
        "scale": np.float32(1 / np.sqrt(2 * model.config.item_width)),
        "rows_shape": np.array([-1, model.config.num_rows, model.config.input_width], dtype=np.int64),
        "output_weight": state["output.weight"],
        "output_bias": state["output.bias"],
    }
    for part in ("query", "key", "value", "output"):
        weights[f"{part}_matrix"] = state[f"attention.{part}.weight"].T
    for number, layer in enumerate(model.layers):
        assert isinstance(layer, QuadraticLayer)
        names = {"weight": "linear.weight", "bias": "linear.bias", "slope": "activation.weight"}
        if model.config.batch_norm:
            names |= {
                "gamma": "norm.weight",
                "beta": "norm.bias",
                "mean": "norm.running_mean",
                "variance": "norm.running_var",
            }
        weights |= {f"{ours}_{number}": state[f"layers.{number}.{theirs}"] for ours, theirs in names.items()}
    return weights
