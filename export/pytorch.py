"""PyTorch modules to the two kinds of file tinyrnn loads: ONNX graphs and plain .npz weights.

The ONNX exporter is PyTorch's TorchScript-based one (`dynamo=False`): it keeps nn.LSTM, nn.GRU and nn.RNN as
one ONNX node each and leaves the time axis dynamic, both of which the dynamo-based exporter may lose.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

OPSET = 17

Layer = Sequence[Any]
"""[type, state_dict prefix], and options where needed: ["RNN", "rnn", {"nonlinearity": "relu"}]."""


def export_sequence(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    path: str | os.PathLike[str],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_axes: Mapping[str, Mapping[int, str]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `module` as one self-contained .onnx file whose `dynamic_axes` may have any length.

    The module is traced in evaluation mode on `example_inputs`, whose dynamic axes should be longer than 1 (a
    length of 1 is often taken for a constant); its own mode is restored afterwards.

    module           called as module(*example_inputs), returns a tensor or a tuple of tensors
    path             written only once the model is complete and has passed ONNX's checker
    input_names      one name per example input
    output_names     one name per output
    dynamic_axes     {input or output name: {axis: name of the axis}}, for example {"x": {1: "T"}}
    metadata         stored in the file's metadata_props

    Raises ValueError for names that do not match the inputs, and what torch.onnx.export raises for a module
    that has no ONNX form.
    """
    _one_name_each("input", example_inputs, input_names)
    unknown = sorted(set(dynamic_axes) - {*input_names, *output_names})
    if unknown:
        raise ValueError(f"dynamic_axes names {unknown}, which are neither inputs nor outputs")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="Exporting a model to ONNX with a batch_size other than 1")
        traced = os.path.join(folder, "traced.onnx")
        torch.onnx.export(
            module,
            tuple(example_inputs),
            traced,
            dynamo=False,
            external_data=False,
            opset_version=OPSET,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_axes={name: dict(axes) for name, axes in dynamic_axes.items()},
        )
        model = onnx.load(traced)
    onnx.helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, os.fspath(path))


def export_step(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    path: str | os.PathLike[str],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    states: Mapping[str, str],
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `module` with its state as inputs and outputs: whoever runs the file carries the state.

    As `export_sequence`, with `states` = {state input: state output}, for example {"h": "hn", "c": "cn"}. A
    pair must agree in shape and type, so that the output can be fed back, and has no dynamic axis. Without
    `dynamic_axes` the file takes exactly the shapes of `example_inputs`, one frame a call.

    Raises ValueError for a pair that is unknown or does not agree.
    """
    _one_name_each("input", example_inputs, input_names)
    dynamic_axes = dynamic_axes or {}
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            result = module(*example_inputs)
    finally:
        module.train(was_training)
    outputs = (result,) if isinstance(result, torch.Tensor) else tuple(result)
    _one_name_each("output", outputs, output_names)
    before = dict(zip(input_names, example_inputs, strict=True))
    after = dict(zip(output_names, outputs, strict=True))
    for source, target in states.items():
        if source not in before or target not in after:
            raise ValueError(f"state {source!r} -> {target!r}: inputs {list(before)}, outputs {list(after)}")
        if source in dynamic_axes or target in dynamic_axes:
            raise ValueError(f"state {source!r} -> {target!r}: a state has a fixed shape, no dynamic axis")
        a, b = before[source], after[target]
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(
                f"state {source!r} is {a.dtype} {list(a.shape)}, but {target!r} is {b.dtype} "
                f"{list(b.shape)}: a state's output must fit its input"
            )
    export_sequence(
        module,
        example_inputs,
        path,
        input_names=input_names,
        output_names=output_names,
        dynamic_axes=dynamic_axes,
        metadata=metadata,
    )


def to_npz(
    module: nn.Module,
    path: str | os.PathLike[str],
    layers: Sequence[Layer],
    *,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a chain of layers as an .npz file: one float32 array per state_dict entry, by the entry's name.

    One array more, `tinyrnn`, is a string of JSON: {"format": "weights", "version": 1, "layers": [...]} and,
    where given, "metadata". `layers` says in which order the layers follow each other, each as [type, prefix]
    or [type, prefix, options]: [["Embedding", "embed"], ["LSTM", "rnn"], ["Linear", "head"]]. The type is the
    name of the PyTorch class, the options are those of its arguments that the weights do not show. No pickle
    is used; read the file with np.load(path, allow_pickle=False).

    Raises ValueError for a layer without weights, a weight without a layer, or a weight that is not real.
    """
    entries = [list(layer) for layer in layers]
    for entry in entries:
        well_formed = len(entry) in (2, 3) and all(isinstance(part, str) for part in entry[:2])
        if not well_formed or not all(isinstance(options, Mapping) for options in entry[2:]):
            raise ValueError(f"layer {entry!r}: expected [type, prefix] or [type, prefix, options]")
    prefixes = tuple(f"{entry[1]}." for entry in entries)
    weights: dict[str, np.ndarray] = {}
    for name, tensor in module.state_dict().items():
        if not name.startswith(prefixes):
            raise ValueError(f"weight {name!r} belongs to none of the layers {[e[1] for e in entries]}")
        if tensor.is_complex():
            raise ValueError(f"weight {name!r} is {tensor.dtype}: only real weights can be stored")
        weights[name] = tensor.detach().cpu().to(torch.float32).numpy()
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in weights):
            raise ValueError(f"layer {prefix[:-1]!r} has no weights in the module")
    description: dict[str, Any] = {"format": "weights", "version": 1, "layers": entries}
    if metadata is not None:
        description["metadata"] = dict(metadata)
    arrays: dict[str, Any] = {**weights, "tinyrnn": np.array(json.dumps(description))}
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def _one_name_each(kind: str, tensors: Sequence[torch.Tensor], names: Sequence[str]) -> None:
    if len(tensors) != len(names) or len(set(names)) != len(names):
        raise ValueError(f"{len(tensors)} {kind}s need as many different names, got {list(names)}")
