"""What runs where models are trained: from a framework's model to the files that tinyrnn loads.

`pytorch` and `keras` write .onnx and .npz files, as README.md beside them shows. The other modules are recipes: each
trains one small model from a public data set and exports it, as `python -m tinyrnn_export.char_lm --help` shows;
`gradient_flow` shows why LSTM replaced the vanilla RNN. Nothing in tinyrnn imports this package, and only this package
imports a training framework.
"""
