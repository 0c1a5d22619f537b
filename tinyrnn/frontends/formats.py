"""The format of a model file, by its content and, where that does not tell, by its suffix; what to do with unsupported ones."""

from __future__ import annotations

import io
import re
import shlex
import struct
import zipfile
from pathlib import Path

SIGNATURES = (
    (0, b"\x89HDF\r\n\x1a\n", "hdf5"),
    (4, b"TFL3", "tflite"),
    (4, b"ORTM", "ort"),
    (0, b"\x93NUMPY", "npy"),
    (0, b"GGUF", "gguf"),
)
SUFFIXES = {
    ".onnx": "onnx",
    ".npz": "npz",
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".ckpt": "torch",
    ".pt2": "pt2",
    ".keras": "keras",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".tflite": "tflite",
    ".ort": "ort",
    ".nam": "nam",
    ".pb": "pb",
    ".mlmodel": "mlmodel",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".joblib": "pickle",
    ".npy": "npy",
    ".gguf": "gguf",
}
READ = ("onnx", "npz", "safetensors")
START = 256
"""bytes at the start of a file that determine its format, unless it is a zip archive"""
MOST_MEMBERS = 4096
LARGEST_DIRECTORY = 1 << 22

_KERAS = (
    'python -c "import keras; from tinyrnn_export.keras import to_onnx; '
    'to_onnx(keras.saving.load_model({path!r}, compile=False), {onnx!r})"'
)
HINTS = {
    "torch": 'a PyTorch file. If it holds a state_dict, its weights load after python -c "import numpy, torch; '
    "s = torch.load({path!r}, map_location='cpu', weights_only=True); s = s.get('state_dict', s); "
    'numpy.savez({npz!r}, **{{k: v.float().numpy() for k, v in s.items() if torch.is_tensor(v)}})"; '
    "a whole module is exported where its class is: from tinyrnn_export.pytorch import export_sequence",
    "torchscript": "a TorchScript file; write, with an input [1, time, features] of its own size, "
    'python -c "import torch; torch.onnx.export(torch.jit.load({path!r}), (torch.zeros(1, 20, 8),), {onnx!r}, dynamo=False, '
    "input_names=['x'], dynamic_axes={{'x': {{1: 'time'}}}})\"",
    "pt2": "a program saved by torch.export; write python -c "
    '"import torch; torch.onnx.export(torch.export.load({path!r}), dynamo=True).save({onnx!r})" (needs onnxscript)',
    "keras": "a Keras model; write " + _KERAS,
    "hdf5": "an HDF5 file. If it holds a whole Keras model, write "
    + _KERAS
    + "; if it holds weights alone, make the model first: model.load_weights({path!r}); to_onnx(model, {onnx!r})",
    "tflite": "a TensorFlow Lite model; write python -m tf2onnx.convert --tflite {shell_path} --output {shell_onnx} "
    "(needs tf2onnx), or export the Keras model that it was made from",
    "ort": "onnxruntime's own format, made from an .onnx file: load that one, or write python -c \"import onnxruntime as r; "
    "o = r.SessionOptions(); o.optimized_model_filepath = {onnx!r}; "
    "o.add_session_config_entry('session.save_model_format', 'ONNX'); "
    'o.graph_optimization_level = r.GraphOptimizationLevel.ORT_DISABLE_ALL; r.InferenceSession({path!r}, o)"',
    "nam": "a Neural Amp Modeler file, weights in a form of its own; export the PyTorch model of its training checkpoint: "
    "from tinyrnn_export.pytorch import export_sequence",
    "pb": "a TensorFlow graph; write python -m tf2onnx.convert --saved-model FOLDER --output {shell_onnx}, FOLDER being that of "
    "saved_model.pb, or --graphdef {shell_path} --output {shell_onnx} --inputs x:0 --outputs y:0 for a frozen graph "
    "(needs tf2onnx)",
    "mlmodel": "a Core ML model, which cannot be converted back; export the model that it was made from to .onnx",
    "pickle": "a pickle, which could run code and is never read. Open it where you trust it and save the weights: "
    "numpy.savez({npz!r}, **{{name: array}}), or export the model to .onnx (scikit-learn: skl2onnx)",
    "npy": "one array, no model; it is an input of tinyrnn run",
    "gguf": "a GGUF file, which holds quantised weights; export the model that it was made from to .onnx",
}


def memory_name(graph: str) -> str:
    """The name of a model without a file: that of its graph, fit for a file name."""
    return re.sub(r"[/\\.]", "_", graph) or "model"


def format_of(start: bytes, archive: io.BufferedIOBase | None, suffix: str) -> str | None:
    """The format, one of `READ` or `HINTS`; None where it cannot be told.

    start: the first `START` bytes; archive: the whole, to look into where it is a zip archive; suffix: such as ".onnx".
    """
    for place, signature, kind in SIGNATURES:
        if start[place : place + len(signature)] == signature:
            return "keras" if kind == "hdf5" and suffix == ".keras" else kind
    if start.startswith(b"PK\x03\x04"):
        return _zip_format(archive) or SUFFIXES.get(suffix) or "npz"
    if re.match(rb"\x80[\x02-\x05][\x00-\xff]", start) and suffix not in READ:
        return "torch" if b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." in start else SUFFIXES.get(suffix, "pickle")
    if len(start) > 9 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < 1 << 32:
        return "safetensors"
    if re.match(rb"\s*\{", start) and b'"architecture"' in start:
        return "nam"
    if re.match(rb"\x08[\x01-\x1f][\x10-\x7f]", start) and suffix not in (".pb", ".mlmodel"):
        return "onnx"
    return SUFFIXES.get(suffix)


def _zip_format(file: io.BufferedIOBase | None) -> str | None:
    """The format of a zip archive by the names in it; None where they do not tell or cannot be read."""
    if file is None:
        return None
    try:
        file.seek(0, io.SEEK_END)
        size = file.tell()
        file.seek(max(0, size - (1 << 16)))
        tail = file.read(1 << 16)
        end = tail.rfind(b"PK\x05\x06")
        if end < 0 or struct.unpack("<I", tail[end + 12 : end + 16])[0] > LARGEST_DIRECTORY:
            return None
        file.seek(0)
        names = zipfile.ZipFile(file).namelist()[:MOST_MEMBERS]  # type: ignore[arg-type]
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError):
        return None
    ends = {name.rpartition("/")[2] for name in names}
    if "model.weights.h5" in ends:
        return "keras"
    if "archive_format" in ends or "serialized_exported_program.json" in ends:
        return "pt2"
    if "data.pkl" in ends:
        return "torchscript" if "constants.pkl" in ends else "torch"
    return "npz" if any(name.endswith(".npy") for name in names) else None


def hint(kind: str, path: Path) -> str:
    """A description of an unsupported format, and the command that converts it to a supported one."""
    names = {end: str(path.with_suffix(f".{end}")) for end in ("onnx", "npz")}
    shell = {"shell_path": shlex.quote(str(path)), "shell_onnx": shlex.quote(names["onnx"])}
    return HINTS[kind].format(path=_Text(path), onnx=_Text(names["onnx"]), npz=_Text(names["npz"]), **shell)


class _Text(str):
    """A name whose repr is a Python literal in single quotes, safe between the shell's double quotes."""

    def __repr__(self) -> str:
        literal = "'" + self.replace("\\", "\\\\").replace("'", "\\'") + "'"
        return re.sub(r'([$`"])', r"\\\1", literal)
