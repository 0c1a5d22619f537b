"""What runs where models are trained: from a framework's model to the files that tinyrnn loads.

`pytorch` writes .onnx and .npz files from PyTorch modules. The other modules are recipes: each trains one
small model from a public data set and exports it, as `python -m tinyrnn_export.char_lm --help` shows. Nothing
in tinyrnn imports this package, and only this package imports a training framework.
"""
