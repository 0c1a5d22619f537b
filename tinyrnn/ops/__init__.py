"""The operators, a folder for each family; importing this package registers all of them."""

from tinyrnn.ops.quantized import written  # isort: skip  (its rewrite is the first: it makes what others rewrite)
from tinyrnn.ops import random
from tinyrnn.ops.convolution import grid_sample, pooling, resize, spectrum, window
from tinyrnn.ops.convolution import kernels as convolve
from tinyrnn.ops.convolution import operators as convolution
from tinyrnn.ops.elementwise import arithmetic, cast, functions, logic, trigonometry
from tinyrnn.ops.elementwise import operators as elementwise
from tinyrnn.ops.linear import matmul, product
from tinyrnn.ops.linear import operators as linear
from tinyrnn.ops.loops import control_flow
from tinyrnn.ops.loops import operators as loops
from tinyrnn.ops.movement import concat, gather, rearrange, scatter, sequences, shapes, views
from tinyrnn.ops.movement import operators as movement
from tinyrnn.ops.quantized import elementwise as quantized_elementwise
from tinyrnn.ops.quantized import pooling as quantized_pooling
from tinyrnn.ops.quantized import products as quantized_products
from tinyrnn.ops.quantized import quantize, weights
from tinyrnn.ops.recurrent import cells as recurrent_cells
from tinyrnn.ops.recurrent import matching as recurrent_match
from tinyrnn.ops.recurrent import operators as recurrent
from tinyrnn.ops.recurrent import quantized as recurrent_quantized
from tinyrnn.ops.recurrent import unrolled
from tinyrnn.ops.recurrent import unrolled_cells as recurrent_unrolled
from tinyrnn.ops.reduction import along_axis, batch_normalization, normalization, softmax
from tinyrnn.ops.reduction import operators as reduction

__all__ = [
    "along_axis",
    "arithmetic",
    "batch_normalization",
    "cast",
    "concat",
    "control_flow",
    "convolution",
    "convolve",
    "elementwise",
    "functions",
    "gather",
    "grid_sample",
    "linear",
    "logic",
    "loops",
    "matmul",
    "movement",
    "normalization",
    "pooling",
    "product",
    "quantize",
    "quantized_elementwise",
    "quantized_pooling",
    "quantized_products",
    "random",
    "rearrange",
    "recurrent",
    "recurrent_cells",
    "recurrent_match",
    "recurrent_quantized",
    "recurrent_unrolled",
    "reduction",
    "resize",
    "scatter",
    "sequences",
    "shapes",
    "softmax",
    "spectrum",
    "trigonometry",
    "unrolled",
    "views",
    "weights",
    "window",
    "written",
]
