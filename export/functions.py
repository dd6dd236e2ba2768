"""The fused operations as ONNX functions: domain `qin`, bodies of standard ONNX.

Any runtime can run the bodies; one that has a kernel registered under the same name takes the kernel instead. An
operation's version is the version of its domain in a model's imports.
"""

import onnx
from onnx import FunctionProto, parser

OPSET = 20
DOMAIN = "qin"
OPS = {"qin.SparseTargetAttention": 1, "qin.QuadraticTower": 1}
DOMAIN_VERSION = 1


def sparse_target_attention() -> FunctionProto:
    """Return relu(target key^T) value + residual.

    target (U, N, D), key (U, H, D), value (U, H, W), residual (U, N, W) -> (U, N, W). W is D, or wider where more
    than the pooled item is summed with the same weights.
    """
    return _function("""
        SparseTargetAttention (target, key, value, residual) => (pooled)
        {
            key_columns = Transpose <perm = [0, 2, 1]> (key)
            scores = MatMul (target, key_columns)
            weights = Relu (scores)
            summed = MatMul (weights, value)
            pooled = Add (summed, residual)
        }
    """)


def quadratic_tower(num_layers: int, split: bool) -> FunctionProto:
    """Return all quadratic layers and the output, with the operands of `export.fold.FoldedTower`.

    x (U, N, X) -> (U, N) probabilities. Each layer is x + prelu(x * (x weight + bias) + shift). Where layer 1 is
    split its linear map, bias included, comes as the last operand `first` (U, N, X); `weight` and `bias` then begin
    with layer 2.
    """
    layers = "\n".join(_layer(number, split) for number in range(num_layers))
    first = ", first" if split else ""
    return _function(f"""
        QuadraticTower (x, weight, bias, shift, slope, output_weight, output_bias{first}) => (scores)
        {{
            x_0 = Identity (x)
            {layers}
            output = MatMul (x_{num_layers}, output_weight)
            logits = Add (output, output_bias)
            last_axis = Constant <value_ints = [-1]> ()
            logit = Squeeze (logits, last_axis)
            scores = Sigmoid (logit)
        }}
    """)


def _layer(number: int, split: bool) -> str:
    """Return the body of one layer, from x_{number} to x_{number + 1}."""
    weights = number - 1 if split else number
    linear = (
        f"linear_{number} = Identity (first)"
        if weights < 0
        else f"""
            weights_{number} = Constant <value_int = {weights}> ()
            weight_{number} = Gather <axis = 0> (weight, weights_{number})
            bias_{number} = Gather <axis = 0> (bias, weights_{number})
            mapped_{number} = MatMul (x_{number}, weight_{number})
            linear_{number} = Add (mapped_{number}, bias_{number})"""
    )
    return f"""
            layer_{number} = Constant <value_int = {number}> (){linear if weights >= 0 else chr(10) + linear}
            shift_{number} = Gather <axis = 0> (shift, layer_{number})
            slope_{number} = Gather <axis = 0> (slope, layer_{number})
            product_{number} = Mul (x_{number}, linear_{number})
            shifted_{number} = Add (product_{number}, shift_{number})
            activated_{number} = PRelu (shifted_{number}, slope_{number})
            x_{number + 1} = Add (x_{number}, activated_{number})"""


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
