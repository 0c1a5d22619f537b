"""Sine, cosine and tangent of numbers up to 6500000 in magnitude; of larger ones the result is NaN."""

from __future__ import annotations

import numpy as np

from tinyrnn.lanes import trigonometry as lanes_trig  # noqa: F401  (registers the functions)
from tinyrnn.ops.elementwise.operators import define

define("Sin", ("input",), np.sin, "sin({0})")
define("Cos", ("input",), np.cos, "cos({0})")
define("Tan", ("input",), np.tan, "tan({0})")
