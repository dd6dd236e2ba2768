"""The graphs of a folded bundle: item encoder, ranker and explanation.

Shapes in the graphs: n items or table rows, U users, N candidates, H history length, T tag slots, F width of the
frozen embedding, D item width, X input width.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from contract.bundle import EXPLAIN, ITEM_ENCODER, RANKER
from contract.manifest import TableSpec
from export.fold import FoldedModel
from export.functions import model_with, quadratic_tower, sparse_target_attention

ROW_INPUTS = "int64[U,N] candidate_rows, int64[U,H] history_rows, int64[U,N,2] levels"


def folded_tables(folded: FoldedModel, split: bool) -> tuple[TableSpec, ...]:
    """Return the tables that the ranker of a folded model gathers from."""
    item_width, input_width = len(folded.attention.key), folded.tower.bias.shape[1]
    tables = [TableSpec(name=name, width=item_width) for name in ("target", "key", "value")]
    if split:
        tables += [TableSpec(name=name, width=input_width) for name in ("input_part", "history_part")]
    return tuple(tables)


def folded_graphs(folded: FoldedModel, split: bool) -> dict[str, bytes]:
    """Return the serialised graphs of a folded model.

    Parameters
    ----------
    folded
        The network in float64; every number is rounded to float32 once, here.
    split
        Take layer 1 apart, so that its linear map is looked up instead of computed.
    """
    tables = folded_tables(folded, split)
    return {
        ITEM_ENCODER: _item_encoder(folded, tables),
        RANKER: _split_ranker(folded, tables) if split else _ranker(folded, tables),
        EXPLAIN: _explain(tables),
    }


def _item_encoder(folded: FoldedModel, tables: tuple[TableSpec, ...]) -> bytes:
    split = len(tables) > 3
    body = f"""
        id_part = Gather <axis = 0> (item, vocabulary_row)
        tag_parts = Gather <axis = 0> (tag, tags)
        slots = Constant <value_ints = [1]> ()
        tag_sum = ReduceSum <keepdims = 0> (tag_parts, slots)
        present = Gather <axis = 0> (tag_present, tags)
        count = ReduceSum <keepdims = 1> (present, slots)
        divisor = Add (count, tiny)
        tag_part = Div (tag_sum, divisor)
        embedding_part = MatMul (embedding, projection)
        target = Concat <axis = 1> (id_part, tag_part, embedding_part)
        key = MatMul (target, key_matrix)
        value = MatMul (target, value_matrix)
        {"input_part = MatMul (target, input_matrix)" if split else ""}
        {"history_part = MatMul (target, history_matrix)" if split else ""}
    """
    inputs = f"int64[n] vocabulary_row, int64[n,T] tags, float[n,{len(folded.projection)}] embedding"
    weights = {
        "item": folded.item,
        "tag": folded.tag,
        "tag_present": (folded.tag != 0).any(axis=1),
        "tiny": np.float64(1e-12),
        "projection": folded.projection,
        "key_matrix": folded.attention.key,
        "value_matrix": folded.attention.value,
    }
    if split:
        weights |= {"input_matrix": folded.first_layer.input, "history_matrix": folded.first_layer.history}
    graph = parse_graph("item_encoder", inputs, table_list(tables), body, weights)
    return model_with(graph, [])


def _ranker(folded: FoldedModel, tables: tuple[TableSpec, ...]) -> bytes:
    body = f"""
        candidates = Gather <axis = 0> (target, candidate_rows)
        keys = Gather <axis = 0> (key, history_rows)
        values = Gather <axis = 0> (value, history_rows)
        pooled = qin.SparseTargetAttention (candidates, keys, values, candidates)
        {_gather_levels("likes", "views")}
        x = Concat <axis = 2> (likes_of, views_of, candidates, pooled)
        scores = qin.QuadraticTower (x, weight, bias, shift, slope, output_weight, output_bias)
    """
    weights = {"likes": folded.likes, "views": folded.views, **_tower(folded, first=0)}
    graph = parse_graph("ranker", f"{table_list(tables)}, {ROW_INPUTS}", "float[U,N] scores", body, weights)
    return model_with(graph, [sparse_target_attention(), quadratic_tower(len(folded.tower.weight), split=False)])


def _split_ranker(folded: FoldedModel, tables: tuple[TableSpec, ...]) -> bytes:
    body = f"""
        candidates = Gather <axis = 0> (target, candidate_rows)
        candidate_parts = Gather <axis = 0> (input_part, candidate_rows)
        residual = Concat <axis = 2> (candidates, candidate_parts)
        keys = Gather <axis = 0> (key, history_rows)
        values = Gather <axis = 0> (value, history_rows)
        history_parts = Gather <axis = 0> (history_part, history_rows)
        wide_values = Concat <axis = 2> (values, history_parts)
        wide = qin.SparseTargetAttention (candidates, keys, wide_values, residual)
        pooled, partial = Split <axis = 2> (wide, widths)
        {_gather_levels("likes", "views", "likes_first", "views_first")}
        with_likes = Add (partial, likes_first_of)
        first = Add (with_likes, views_first_of)
        x = Concat <axis = 2> (likes_of, views_of, candidates, pooled)
        scores = qin.QuadraticTower (x, weight, bias, shift, slope, output_weight, output_bias, first)
    """
    weights = {
        "likes": folded.likes,
        "views": folded.views,
        "likes_first": folded.first_layer.likes,
        "views_first": folded.first_layer.views,
        "widths": np.array([tables[2].width, tables[4].width], dtype=np.int64),
        **_tower(folded, first=1),
    }
    graph = parse_graph("ranker", f"{table_list(tables)}, {ROW_INPUTS}", "float[U,N] scores", body, weights)
    return model_with(graph, [sparse_target_attention(), quadratic_tower(len(folded.tower.weight), split=True)])


def _explain(tables: tuple[TableSpec, ...]) -> bytes:
    """Return the attention weights' own graph: the hot one never stores them."""
    body = """
        candidates = Gather <axis = 0> (target, candidate_rows)
        keys = Gather <axis = 0> (key, history_rows)
        key_columns = Transpose <perm = [0, 2, 1]> (keys)
        scores = MatMul (candidates, key_columns)
        weights = Relu (scores)
    """
    graph = parse_graph("explain", f"{table_list(tables)}, {ROW_INPUTS}", "float[U,N,H] weights", body, {})
    return model_with(graph, [])


def _tower(folded: FoldedModel, first: int) -> dict[str, NDArray[np.float64]]:
    """Return the tower's operands, with the weights of the layers from `first` on."""
    tower = folded.tower
    return {
        "weight": tower.weight[first:],
        "bias": tower.bias[first:],
        "shift": tower.shift,
        "slope": tower.slope,
        "output_weight": tower.output_weight,
        "output_bias": tower.output_bias,
    }


def _gather_levels(likes: str, views: str, *more: str) -> str:
    """Return nodes that look both levels up: `likes_of`, `views_of` and so on for the further pair."""
    lines = [
        "zero = Constant <value_int = 0> ()",
        "one = Constant <value_int = 1> ()",
        "likes_level = Gather <axis = 2> (levels, zero)",
        "views_level = Gather <axis = 2> (levels, one)",
    ]
    for position, table in enumerate((likes, views, *more)):
        level = "views_level" if position % 2 else "likes_level"
        lines.append(f"{table}_of = Gather <axis = 0> ({table}, {level})")
    return "\n".join(lines)


def table_list(tables: tuple[TableSpec, ...]) -> str:
    """Return the tables as a list of inputs or outputs in ONNX text."""
    kinds = {"float32": "float", "int64": "int64"}
    return ", ".join(f"{kinds[table.dtype]}[n,{table.width}] {table.name}" for table in tables)


def parse_graph(
    name: str, inputs: str, outputs: str, body: str, weights: Mapping[str, NDArray[np.generic] | np.generic]
) -> onnx.GraphProto:
    """Return a graph from ONNX text; weights that are not int64 are rounded to float32."""
    graph = parser.parse_graph(f"{name} ({inputs}) => ({outputs}) {{ {body} }}")
    for weight_name, weight in weights.items():
        values = np.asarray(weight)
        values = values if values.dtype == np.int64 else values.astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), weight_name))
    return graph
