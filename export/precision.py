"""The tower's matrices in less than float32: how they are rounded, stored and multiplied by.

Only these matrices and the rows that meet them lose digits; all else of the tower stays float32. Rows are rounded one
by one, so a candidate's score never depends on the candidates beside it.

Shapes: G matrices, X input width, U users, N candidates.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from contract.manifest import Precision

CONSTANTS: dict[Precision, str] = {
    "float32": "",
    "bfloat16": "",
    "int8": """
            row_axis = Constant <value_ints = [-1]> ()
            nothing = Constant <value_float = 0.0> ()
            full = Constant <value_float = 127.0> ()
            middle = Constant <value_float = 128.0> ()
            whole_middle = Constant <value = int32 {128}> ()
            zero_point = Constant <value = uint8 {128}> ()""",
}
"""What `product` needs once for all layers, in ONNX text."""


def product(precision: Precision, number: int) -> str:
    """Return ONNX text of mapped_{number} = x_{number} (U, N, X) times weight_{number} (X, X).

    bfloat16 rounds both to the nearest, ties to even, and sums in float32. int8 scales each row to -127 ... 127,
    rounds it likewise, and sums in int32, which is exact. A row of zeros gives zeros; a row that holds a NaN or an
    infinity gives NaN in int8, which has no number for it.
    """
    x, weight, mapped = f"x_{number}", f"weight_{number}", f"mapped_{number}"
    match precision:
        case "float32":
            return f"{mapped} = MatMul ({x}, {weight})"
        case "bfloat16":
            return f"""rounded_{number} = Cast <to = {TensorProto.BFLOAT16}> ({x})
            row_{number} = Cast <to = {TensorProto.FLOAT}> (rounded_{number})
            matrix_{number} = Cast <to = {TensorProto.FLOAT}> ({weight})
            {mapped} = MatMul (row_{number}, matrix_{number})"""
        case "int8":
            return _int8_product(number)


def _int8_product(number: int) -> str:
    """Return the product with int8 weights.

    Both operands are lifted by 128 to unsigned numbers with that zero point. The product is the same, and ONNX
    Runtime computes it exactly on every processor; without the lift it adds pairs of products in 16 bits, which
    overflow, on processors that have AVX2 but not VNNI.
    """
    return f"""absolute_{number} = Abs (x_{number})
            magnitude_{number} = ReduceMax <keepdims = 1> (absolute_{number}, row_axis)
            unbounded_{number} = Div (full, magnitude_{number})
            is_unbounded_{number} = IsInf (unbounded_{number})
            inverse_{number} = Where (is_unbounded_{number}, nothing, unbounded_{number})
            scaled_{number} = Mul (x_{number}, inverse_{number})
            rounded_{number} = Round (scaled_{number})
            lifted_{number} = Add (rounded_{number}, middle)
            row_{number} = Cast <to = {TensorProto.UINT8}> (lifted_{number})
            wide_{number} = Cast <to = {TensorProto.INT32}> (weight_{number})
            lifted_wide_{number} = Add (wide_{number}, whole_middle)
            matrix_{number} = Cast <to = {TensorProto.UINT8}> (lifted_wide_{number})
            whole_{number} = MatMulInteger (row_{number}, matrix_{number}, zero_point, zero_point)
            sums_{number} = Cast <to = {TensorProto.FLOAT}> (whole_{number})
            zeros_{number} = Mul (x_{number}, nothing)
            poison_{number} = ReduceSum <keepdims = 1> (zeros_{number}, row_axis)
            step_{number} = Div (magnitude_{number}, full)
            row_scale_{number} = Add (step_{number}, poison_{number})
            in_steps_{number} = Mul (sums_{number}, row_scale_{number})
            weight_scale_{number} = Gather <axis = 0> (weight_scale, weights_{number})
            mapped_{number} = Mul (in_steps_{number}, weight_scale_{number})"""


def weight_tensors(weight: NDArray[np.float64], precision: Precision) -> list[TensorProto]:
    """Return the initializer `weight` (G, X, X) in a precision, and with int8 `weight_scale` (G, X)."""
    match precision:
        case "float32":
            return [numpy_helper.from_array(np.ascontiguousarray(weight, dtype=np.float32), "weight")]
        case "bfloat16":
            bits = bfloat16_bits(weight)
            return [onnx.helper.make_tensor("weight", TensorProto.BFLOAT16, bits.shape, bits.tobytes(), raw=True)]
        case "int8":
            whole, scale = int8_weights(weight)
            return [numpy_helper.from_array(whole, "weight"), numpy_helper.from_array(scale, "weight_scale")]


def bfloat16_bits(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Return the upper halves of float32 numbers, rounded to the nearest and ties to even; NaN is not expected."""
    bits = values.astype("<f4").view("<u4")
    rounded: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return rounded


def int8_weights(weight: NDArray[np.float64]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return matrices (G, X, X) as whole numbers and the step (G, X) of each output column.

    The largest number of a column is 127 or -127 steps; a column of zeros has step 1.
    """
    scale = (np.abs(weight).max(axis=1, initial=0) / 127).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1))
    whole = np.rint(weight / scale[:, None].astype(np.float64))
    return np.clip(whole, -127, 127).astype(np.int8), scale
