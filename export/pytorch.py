"""PyTorch modules to the two kinds of file tinyrnn loads: ONNX graphs and plain .npz weights.

PyTorch has two ONNX exporters. The TorchScript-based one (`dynamo=False`) keeps nn.LSTM, nn.GRU and nn.RNN as one ONNX
node each and leaves the time axis dynamic, both of which the dynamo-based one may lose: it is tried first. The other one
knows more operators, and takes its place where the first has no form for a module or writes one that differs. Every file
is compared with the module in onnxruntime, at the example's sizes and at others, before it is kept.
"""

from __future__ import annotations

import inspect
import io
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from .onnx_file import Axes, Exported, ExportError, finish, verify

__all__ = ["ExportError", "Exported", "export_sequence", "export_step", "round_to_half", "to_npz"]

OPSET = 17
DYNAMO_OPSET = 18
"""the lowest that the dynamo-based exporter writes by itself"""

ANSI = re.compile(r"\x1b\[[0-9;]*m")
LONGEST_REASON = 400
"""characters of what an exporter said"""

Layer = Sequence[Any]
"""[type, state_dict prefix], and options where needed: ["RNN", "rnn", {"nonlinearity": "relu"}]."""


def export_sequence(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    path: str | os.PathLike[str],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_axes: Axes,
    metadata: Mapping[str, str] | None = None,
    half: bool = False,
) -> Exported:
    """Write `module` as one self-contained .onnx file whose `dynamic_axes` may have any length.

    The module is traced in evaluation mode on `example_inputs`, whose dynamic axes should be longer than 1 (a
    length of 1 is often taken for a constant); its own mode is restored afterwards.

    module           called as module(*example_inputs), returns tensors, alone or in tuples and lists
    path             written only once onnxruntime has given the module's results, within the tolerance "close" of
                     tinyrnn.check, for the example, for random inputs, and for other sizes of every dynamic axis
    input_names      one name per example input
    output_names     one name per output
    dynamic_axes     {input or output name: {axis: name of the axis}}, for example {"x": {1: "T"}, "y": {1: "T"}}
    metadata         stored in the file's metadata_props
    half             store the weights as float16, widened to float32 in the file: half its size, the same results. They
                     must be exact in float16: `round_to_half(module)` first, and measure the rounded module

    Raises ValueError for names that do not match the inputs or outputs, and ExportError, with what each exporter did,
    where none writes a file that computes what the module does.
    """
    _one_name_each("input", example_inputs, input_names)
    unknown = sorted(set(dynamic_axes) - {*input_names, *output_names})
    if unknown:
        raise ValueError(f"dynamic_axes names {unknown}, which are neither inputs nor outputs")
    was_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        _one_name_each("output", _outputs(module, example_inputs), output_names)
        refused: list[str] = []
        for name, write in EXPORTERS.items():
            try:
                model = write(module, example_inputs, input_names, output_names, dynamic_axes)
                onnx.checker.check_model(model, full_check=True)
            except Exception as error:  # exporters raise whatever they meet
                refused.append(f"{name}: cannot write it ({_reason(error)})")
                continue
            finish(model, metadata, half)
            try:
                example = {n: _array(tensor) for n, tensor in zip(input_names, example_inputs, strict=True)}
                made = verify(model, path, name, _run(module, input_names), example, dynamic_axes)
            except ExportError as error:
                refused.append(f"{name}: {error}")
                continue
            onnx.save(model, os.fspath(path))
            return Exported(made.path, name, made.sizes, made.excess, tuple(refused))
        raise ExportError(_all_refused(module, refused, bool(dynamic_axes)))
    finally:
        for part in was_training:
            part.training = True


def export_step(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    path: str | os.PathLike[str],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    states: Mapping[str, str],
    dynamic_axes: Axes | None = None,
    metadata: Mapping[str, str] | None = None,
    half: bool = False,
) -> Exported:
    """Write `module` with its state as inputs and outputs: whoever runs the file carries the state.

    As `export_sequence`, with `states` = {state input: state output}, for example {"h": "hn", "c": "cn"}. A
    pair must agree in shape and type, so that the output can be fed back, and has no dynamic axis. Without
    `dynamic_axes` the file takes exactly the shapes of `example_inputs`, one frame a call.

    Raises ValueError for a pair that is unknown or does not agree, and what `export_sequence` raises.
    """
    _one_name_each("input", example_inputs, input_names)
    dynamic_axes = dynamic_axes or {}
    was_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        outputs = _outputs(module, example_inputs)
    finally:
        for part in was_training:
            part.training = True
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
    return export_sequence(
        module,
        example_inputs,
        path,
        input_names=input_names,
        output_names=output_names,
        dynamic_axes=dynamic_axes,
        metadata=metadata,
        half=half,
    )


def round_to_half(module: nn.Module) -> None:
    """Round every floating-point parameter and buffer to the nearest float16, in place; its type stays.

    Raises ValueError, before anything is changed, for one that float16 cannot hold (beyond 65504).
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    floating = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
    for name, tensor in floating:
        if torch.isfinite(tensor).logical_and(~torch.isfinite(tensor.half())).any():
            raise ValueError(f"{name} reaches {tensor.abs().max().item():g}; float16 ends at 65504")
    with torch.no_grad():
        for _, tensor in floating:
            tensor.copy_(tensor.half())


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


def _tensors(result: Any) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    if not isinstance(result, (tuple, list)):
        raise ValueError(f"the module returns {type(result).__name__}; an exported one returns tensors, alone or in tuples")
    return [tensor for part in result for tensor in _tensors(part)]


def _outputs(module: nn.Module, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        return _tensors(module(*inputs))


def _array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = tensor.detach().cpu().numpy()
    return array


def _run(module: nn.Module, names: Sequence[str]) -> Callable[[Mapping[str, Any]], list[Any]]:
    return lambda feeds: [_array(y) for y in _outputs(module, [torch.from_numpy(feeds[name]) for name in names])]


@contextmanager
def _quietly() -> Iterator[str]:
    """The name of a file to write to. Exporters print and log what their exceptions say too, and warn of what may be
    constants in the file, which is then compared at other sizes."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            yield os.path.join(folder, "written.onnx")
        finally:
            log.setLevel(level)


def _written(
    module: nn.Module, inputs: Sequence[torch.Tensor], input_names: Sequence[str], output_names: Sequence[str], **how: Any
) -> onnx.ModelProto:
    with _quietly() as path:
        torch.onnx.export(
            module,
            tuple(inputs),
            path,
            external_data=False,
            input_names=list(input_names),
            output_names=list(output_names),
            **how,
        )
        return onnx.load(path)


def _torchscript(
    module: nn.Module, inputs: Sequence[torch.Tensor], input_names: Sequence[str], output_names: Sequence[str], axes: Axes
) -> onnx.ModelProto:
    named = {name: dict(each) for name, each in axes.items()}
    return _written(module, inputs, input_names, output_names, dynamo=False, opset_version=OPSET, dynamic_axes=named)


def _dynamo(
    module: nn.Module, inputs: Sequence[torch.Tensor], input_names: Sequence[str], output_names: Sequence[str], axes: Axes
) -> onnx.ModelProto:
    shapes = _dynamic_shapes(module, [dict(axes.get(name, {})) for name in input_names])
    how = {"dynamo": True, "verbose": False, "opset_version": DYNAMO_OPSET, "dynamic_shapes": shapes}
    return _written(module, inputs, input_names, output_names, **how)


def _dynamic_shapes(module: nn.Module, named: Sequence[dict[int, str]]) -> tuple[Any, ...]:
    """One entry per argument of `module.forward`; those that `*args` takes stand together."""
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        return (*named[:first], tuple(named[first:]))
    return tuple(named)


EXPORTERS: dict[str, Callable[..., onnx.ModelProto]] = {"torchscript": _torchscript, "dynamo": _dynamo}
"""in the order in which they are tried"""


def _reason(error: BaseException) -> str:
    """The first lines of what an exporter raised, or of what made it raise that."""
    inner = error.__cause__ or error
    text = ANSI.sub("", str(inner)).split("\n\n")[0]
    return f"{type(inner).__name__}: {' '.join(text.split())}"[:LONGEST_REASON]


def _all_refused(module: nn.Module, refused: Sequence[str], dynamic: bool) -> str:
    text = f"no exporter writes a file that computes what the {type(module).__name__} does."
    kinds = {type(part) for part in module.modules()}
    if any(isinstance(part, nn.LSTM) and part.proj_size for part in module.modules()):
        text += " ONNX's LSTM has no proj_size: train without it, with a Linear layer behind the LSTM."
    if dynamic and kinds & {nn.RNNCell, nn.LSTMCell, nn.GRUCell}:
        text += (
            " A Python loop over cells is written out for one length: use nn.RNN, nn.LSTM or nn.GRU, which hold the same weights "
            "(weight_ih_l0 for weight_ih), or export one step with export_step."
        )
    return "\n".join([text, *refused])
