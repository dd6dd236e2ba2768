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
from contract.manifest import Precision, TableSpec
from export.fold import FoldedModel
from export.functions import attention_call, model_with, quadratic_tower, sparse_target_attention, tower_call
from export.precision import weight_tensors

ROW_INPUTS = "int64[U,N] candidate_rows, int64[U,H] history_rows, int64[U,N,2] levels"


def folded_tables(folded: FoldedModel, split: bool) -> tuple[TableSpec, ...]:
    """Return the tables that the ranker of a folded model gathers from."""
    item_width, input_width = len(folded.attention.key), folded.tower.bias.shape[1]
    tables = [TableSpec(name=name, width=item_width) for name in ("target", "key", "value")]
    if split:
        tables += [TableSpec(name=name, width=input_width) for name in ("input_part", "history_part")]
    return tuple(tables)


def folded_graphs(folded: FoldedModel, split: bool, precision: Precision = "float32") -> dict[str, bytes]:
    """Return the serialised graphs of a folded model.

    Parameters
    ----------
    folded
        The network in float64; every number is rounded once, here, all but the tower's matrices to float32.
    split
        Take layer 1 apart, so that its linear map is looked up instead of computed.
    precision
        Of the tower's matrices.
    """
    tables = folded_tables(folded, split)
    return {
        ITEM_ENCODER: _item_encoder(folded, tables),
        RANKER: _ranker(folded, tables, split, precision),
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


def _ranker(folded: FoldedModel, tables: tuple[TableSpec, ...], split: bool, precision: Precision) -> bytes:
    """Return the graph that serves: two calls, so that a kernel can take everything between tables and scores."""
    tower, first = folded.tower, 1 if split else 0
    weights = {
        "likes": folded.likes,
        "views": folded.views,
        "bias": tower.bias[first:],
        "shift": tower.shift,
        "slope": tower.slope,
        "output_weight": tower.output_weight,
        "output_bias": tower.output_bias,
    }
    if split:
        weights |= {"likes_first": folded.first_layer.likes, "views_first": folded.first_layer.views}
    body = f"""
        {attention_call(split)}
        {tower_call(split, precision)}
    """
    graph = parse_graph("ranker", f"{table_list(tables)}, {ROW_INPUTS}", "float[U,N] scores", body, weights)
    graph.initializer.extend(weight_tensors(tower.weight[first:], precision))
    return model_with(graph, [sparse_target_attention(split), quadratic_tower(len(tower.weight), split, precision)])


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
