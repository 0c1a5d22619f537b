"""An emulator of GPUs: runs PTX on NumPy, so that the bits of the cuda target can be tested on any machine."""

from tinyrnn.targets.emulator.grid import Fault, launch
from tinyrnn.targets.emulator.ptx_text import parse

__all__ = ["Fault", "launch", "parse"]
