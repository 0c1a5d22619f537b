"""Comparison with onnxruntime."""
