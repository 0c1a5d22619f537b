"""The tests, in the rooms of the package. What many of them use stands here; what holds for all rooms is in `whole`."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "tests" / "models"
"""files that PyTorch and Keras wrote"""
SHARED = ROOT.parent / "shared"
"""models and data that are not part of the project, where they are present"""
