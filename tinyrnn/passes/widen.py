"""Half precision becomes float32: weights, values, inputs and outputs of float16 and bfloat16.

What the file computes in half precision is computed in float32 instead, so results differ from it by its own rounding.
Inputs may still be given as float16; outputs come as float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyrnn.ir import Graph, Spec

NARROW_CODES = (10, 16)
"""TensorProto.DataType of FLOAT16 and BFLOAT16"""
FLOAT_CODE = 1
TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "stash_type", "softmax_precision")
"""attributes that are element types, wherever they stand"""


def _narrow(dtype: np.dtype[Any]) -> bool:
    return dtype == np.float16 or dtype.name == "bfloat16"


def widen(graph: Graph) -> None:
    """Give everything of half precision the type float32."""
    for name, array in graph.constants.items():
        if _narrow(array.dtype):
            graph.constants[name] = array.astype(np.float32)
    for name, spec in graph.specs.items():
        if _narrow(spec.dtype):
            graph.specs[name] = Spec(np.dtype(np.float32), spec.shape)
    for node in graph.nodes:
        for key, value in node.attributes.items():
            if isinstance(value, np.ndarray) and _narrow(value.dtype):
                node.attributes[key] = value.astype(np.float32)
            elif key in TYPE_ATTRIBUTES and value in NARROW_CODES:
                node.attributes[key] = FLOAT_CODE
