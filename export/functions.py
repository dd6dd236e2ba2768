"""The fused operations as ONNX functions: domain `qin`, bodies of standard ONNX.

Any runtime can run the bodies; one that has a kernel registered under the same name takes the kernel instead. So the
look-ups that feed an operation belong to its body: a kernel reads the tables where they lie. An operation's version
is the version of its domain in a model's imports.

Shapes: n table rows, U users, N candidates, H history length, E embedding_dim, D item width, X = 2E + 2D input width,
L layers, G layers whose linear map is a matrix product: L, or L - 1 with layer 1 split.
"""

import onnx
from onnx import FunctionProto, parser

from contract.manifest import Precision
from export.precision import CONSTANTS, product

OPSET = 20
DOMAIN = "qin"
DOMAIN_VERSION = 2
OPS = {"qin.SparseTargetAttention": DOMAIN_VERSION, "qin.QuadraticTower": DOMAIN_VERSION}

_ATTENTION = "target, key, value, candidate_rows, history_rows"
_ATTENTION_PARTS = "input_part, history_part"
_TOWER = (
    "target, pooled, candidate_rows, levels, likes, views, weight, bias, shift, slope, output_weight, output_bias"
)
_TOWER_PARTS = "partial, likes_first, views_first"


def attention_call(split: bool) -> str:
    """Return the node that calls `sparse_target_attention`, in ONNX text, over values of its inputs' names."""
    if split:
        return f"pooled, partial = qin.SparseTargetAttention ({_ATTENTION}, {_ATTENTION_PARTS})"
    return f"pooled = qin.SparseTargetAttention ({_ATTENTION})"


def tower_call(split: bool, precision: Precision = "float32") -> str:
    """Return the node that calls `quadratic_tower`, in ONNX text, over values of its inputs' names.

    Inputs that this form lacks are empty names, or left off behind the last one that it has.
    """
    inputs = [_TOWER]
    if split:
        inputs.append(_TOWER_PARTS)
    elif precision == "int8":
        inputs.append('"", "", ""')
    if precision == "int8":
        inputs.append("weight_scale")
    return f"scores = qin.QuadraticTower ({', '.join(inputs)})"


def sparse_target_attention(split: bool) -> FunctionProto:
    """Return relu(candidates key[history]^T) value[history] + candidates, where candidates = target[candidate_rows].

    target, key, value (n, D); candidate_rows (U, N), history_rows (U, H) int64 -> pooled (U, N, D). Where layer 1 is
    split also input_part, history_part (n, X) -> partial (U, N, X): what candidates and histories add to layer 1's
    linear map, summed with the same weights.
    """
    parts = """
            history_parts = Gather <axis = 0> (history_part, history_rows)
            candidate_parts = Gather <axis = 0> (input_part, candidate_rows)
            summed_parts = MatMul (weights, history_parts)
            partial = Add (summed_parts, candidate_parts)"""
    signature = f"{_ATTENTION}, {_ATTENTION_PARTS}) => (pooled, partial" if split else f"{_ATTENTION}) => (pooled"
    return _function(f"""
        SparseTargetAttention ({signature})
        {{
            candidates = Gather <axis = 0> (target, candidate_rows)
            keys = Gather <axis = 0> (key, history_rows)
            values = Gather <axis = 0> (value, history_rows)
            key_columns = Transpose <perm = [0, 2, 1]> (keys)
            attention_scores = MatMul (candidates, key_columns)
            weights = Relu (attention_scores)
            summed = MatMul (weights, values)
            pooled = Add (summed, candidates)
            {parts if split else ""}
        }}
    """)


def quadratic_tower(num_layers: int, split: bool, precision: Precision = "float32") -> FunctionProto:
    """Return all quadratic layers and the output, with the operands of `export.fold.FoldedTower`.

    target (n, D); pooled (U, N, D); candidate_rows (U, N), levels (U, N, 2) int64; likes, views (levels, E); weight
    (G, X, X) in `precision`; bias (G, X); shift (L, X); slope (L, 1); output_weight (X, 1); output_bias (1,) ->
    scores (U, N), probabilities. With x = [likes | views | candidates | pooled], each layer is
    x + prelu(x * (x weight + bias) + shift). Where layer 1 is split its linear map, bias included, is
    partial (U, N, X) + likes_first + views_first (levels, X), looked up by the same levels; `weight` and `bias` then
    begin with layer 2. int8 weights come with their steps, weight_scale (G, X).
    """
    layers = "\n".join(_layer(number, split, precision) for number in range(num_layers))
    parts = f", {_TOWER_PARTS}" if split or precision == "int8" else ""
    scale = ", weight_scale" if precision == "int8" else ""
    return _function(f"""
        QuadraticTower ({_TOWER}{parts}{scale}) => (scores)
        {{
            zero = Constant <value_int = 0> ()
            one = Constant <value_int = 1> ()
            likes_level = Gather <axis = 2> (levels, zero)
            views_level = Gather <axis = 2> (levels, one)
            likes_of = Gather <axis = 0> (likes, likes_level)
            views_of = Gather <axis = 0> (views, views_level)
            candidates = Gather <axis = 0> (target, candidate_rows)
            x_0 = Concat <axis = 2> (likes_of, views_of, candidates, pooled)
            {CONSTANTS[precision]}
            {layers}
            output = MatMul (x_{num_layers}, output_weight)
            logits = Add (output, output_bias)
            last_axis = Constant <value_ints = [-1]> ()
            logit = Squeeze (logits, last_axis)
            scores = Sigmoid (logit)
        }}
    """)


def _layer(number: int, split: bool, precision: Precision) -> str:
    """Return the body of one layer, from x_{number} to x_{number + 1}."""
    weights = number - 1 if split else number
    return f"""
            {_linear(number, weights, precision) if weights >= 0 else _first_linear()}
            layer_{number} = Constant <value_int = {number}> ()
            shift_{number} = Gather <axis = 0> (shift, layer_{number})
            slope_{number} = Gather <axis = 0> (slope, layer_{number})
            product_{number} = Mul (x_{number}, linear_{number})
            shifted_{number} = Add (product_{number}, shift_{number})
            activated_{number} = PRelu (shifted_{number}, slope_{number})
            x_{number + 1} = Add (x_{number}, activated_{number})"""


def _linear(number: int, weights: int, precision: Precision) -> str:
    """Return the linear map of a layer, by the matrix and bias at position `weights`."""
    return f"""weights_{number} = Constant <value_int = {weights}> ()
            weight_{number} = Gather <axis = 0> (weight, weights_{number})
            bias_{number} = Gather <axis = 0> (bias, weights_{number})
            {product(precision, number)}
            linear_{number} = Add (mapped_{number}, bias_{number})"""


def _first_linear() -> str:
    """Return the linear map of a split layer 1: a sum of look-ups."""
    return """likes_first_of = Gather <axis = 0> (likes_first, likes_level)
            views_first_of = Gather <axis = 0> (views_first, views_level)
            with_likes = Add (partial, likes_first_of)
            linear_0 = Add (with_likes, views_first_of)"""


def _function(text: str) -> FunctionProto:
    return parser.parse_function(f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]> {text.strip()}')


def model_with(graph: onnx.GraphProto, functions: list[FunctionProto]) -> bytes:
    """Return a checked, serialised model of a graph and the functions that it calls."""
    imports = [onnx.helper.make_opsetid("", OPSET)]
    if functions:
        imports.append(onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    model = onnx.helper.make_model(
        graph, opset_imports=imports, functions=functions, ir_version=10, producer_name="qin-ranker"
    )
    onnx.checker.check_model(model, full_check=True)
    serialised: bytes = model.SerializeToString()
    return serialised
