"""The last steps of every export: weights stored in half precision, metadata, and the comparison with onnxruntime.

Nothing here knows a framework: a model is a function from arrays to arrays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tinyrnn.check import TOLERANCES, excess
from tinyrnn.errors import TinyRNNError

Array = np.ndarray[Any, Any]
Axes = Mapping[str, Mapping[int, str]]
"""input or output name → axis → the name of its size: {"x": {1: "T"}, "y": {1: "T"}}"""

SMALLEST_HALF = 128
"""elements from which a weight is stored as float16: below, the Cast costs about as much as it saves"""
LEVEL = "close"
"""of `tinyrnn.check.TOLERANCES`"""


class ExportError(TinyRNNError):
    """A model has no file that computes what it computes; the text says at which sizes, and what to write instead."""


class _Unfit(ExportError):
    """The model itself does not take such inputs."""


@dataclass(frozen=True)
class Exported:
    """A file that onnxruntime was seen to run as the framework runs the model.

    path       the file
    exporter   what wrote it: "torchscript" or "dynamo" of PyTorch; "layers" (export/keras_layers.py) or "keras", Keras' own
    sizes      the sizes of the dynamic axes at which it was compared
    excess     the largest difference there, in units of the tolerance "close" of `tinyrnn.check`: up to 1
    notes      what else was tried, and why it was not taken
    """

    path: str
    exporter: str
    sizes: tuple[Mapping[str, int], ...]
    excess: float
    notes: tuple[str, ...] = ()


def finish(model: onnx.ModelProto, metadata: Mapping[str, str] | None, half: bool) -> None:
    """Set the metadata and, if asked, store the weights as float16. Changes `model`."""
    helper.set_model_props(model, dict(metadata or {}))
    if half:
        store_half(model)


def rename(model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give the inputs and outputs, in their order, other names. In place."""
    graph = model.graph
    for ports, names, into in ((graph.input, inputs, True), (graph.output, outputs, False)):
        for port, name in zip(ports, names, strict=True):
            if port.name != name:
                ends = (name, port.name) if into else (port.name, name)
                graph.node.insert(
                    0 if into else len(graph.node), helper.make_node("Identity", ends[:1], ends[1:], name=f"name.{name}")
                )
                port.name = name


def store_half(model: onnx.ModelProto) -> None:
    """Make every float32 constant of at least SMALLEST_HALF elements a float16 one and a Cast to float32. In place.

    Raises `ExportError` for one that float16 cannot hold exactly: the file then computes just what it did before.
    """
    graph = model.graph
    casts, inexact = [], []
    written_out = {n.output[0]: n for n in graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"}
    for name, node in written_out.items():
        if _worth_halving(node.attribute[0].t):
            node.attribute[0].t.name = name
            graph.initializer.append(node.attribute[0].t)
            graph.node.remove(node)
    for tensor in [t for t in graph.initializer if _worth_halving(t)]:
        array = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            narrow = array.astype(np.float16)
        if not np.array_equal(narrow.astype(np.float32), array, equal_nan=True):
            inexact.append(f"{tensor.name} {list(array.shape)}")
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(narrow, f"{name}.float16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}.widen", to=TensorProto.FLOAT))
    if inexact:
        raise ExportError(
            f"half=True: float16 does not hold {', '.join(inexact[:5])}{', …' if len(inexact) > 5 else ''} exactly. Round the "
            "model's weights first (tinyrnn_export.pytorch.round_to_half(module), tinyrnn_export.keras.round_to_half(model)) "
            "and measure it again. Where that was done, the exporter has computed the weight from several: fold "
            "BatchNormalization into its layer before rounding, or export with half=False"
        )
    for cast in reversed(casts):
        graph.node.insert(0, cast)


def _worth_halving(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= SMALLEST_HALF)


def verify(
    model: onnx.ModelProto,
    path: str | os.PathLike[str],
    exporter: str,
    run: Callable[[Mapping[str, Array]], Sequence[Array]],
    example: Mapping[str, Array],
    axes: Axes,
    seed: int = 0,
) -> Exported:
    """Compare `model`, which is to be written to `path`, in onnxruntime with `run`.

    run       input arrays by name → outputs in the file's order; raises whatever it likes for sizes it does not take
    example   one array per input. Other inputs are drawn like it: floats with its mean and spread, whole numbers from
              its own values
    axes      which axes may have other sizes; all axes of one name change together, each name alone and then all

    Raises `ExportError`, with the output, the sizes, the difference and what to do.
    """
    onnx.checker.check_model(model, full_check=True)
    compare = _Comparison(os.fspath(path), session(model, os.fspath(path)), run, [o.name for o in model.graph.output])
    rng = np.random.default_rng(seed)
    usual = {name: example[given].shape[axis] for given in example for axis, name in axes.get(given, {}).items()}
    done: list[Mapping[str, int]] = []
    compare(example, usual, first=True)
    compare(_drawn(example, axes, usual, rng), usual, first=True)
    done.append(usual)
    for names in [[name] for name in usual] + ([list(usual)] if len(usual) > 1 else []):
        longer = [{**usual, **{n: factor * usual[n] + more for n in names}} for factor, more in ((2, 1), (2, 0))]
        fits = compare.first_that_fits([(_drawn(example, axes, sizes, rng), sizes) for sizes in longer])
        if fits is None:
            raise ExportError(
                f"{compare.path}: the model itself does not run at {_text(longer[0])} or {_text(longer[1])} ({compare.refused}): "
                f"leave {' and '.join(map(repr, names))} out of the dynamic axes, or correct the model"
            )
        done.append(fits)
        one = {**usual, **dict.fromkeys(names, 1)}
        if one != usual and (fits := compare.first_that_fits([(_drawn(example, axes, one, rng), one)])):
            done.append(fits)
    return Exported(os.fspath(path), exporter, tuple(done), compare.worst)


class _Comparison:
    """onnxruntime beside the model: called with inputs of certain sizes, raises `ExportError` where they differ."""

    def __init__(self, path: str, session: Any, run: Callable[..., Sequence[Array]], outputs: Sequence[str]) -> None:
        self.path, self.session, self.run, self.outputs = path, session, run, outputs
        self.worst, self.refused = 0.0, ""

    def __call__(self, feeds: Mapping[str, Array], sizes: Mapping[str, int], first: bool = False) -> None:
        expected = self.expected(feeds)
        at = f"at {_text(sizes)}" if sizes else "at the example's sizes"
        advice = (
            "The exporter has written one of the model's operators differently from what it computes: export parts of it "
            "to find which"
            if first
            else "The exporter has taken the example's size for a constant: see that no Python loop, len(), int() or .item() "
            "goes over that axis, and that reshapes use -1 for it; or leave the axis out of the dynamic axes; or export one step"
        )
        if len(expected) != len(self.outputs):
            raise ExportError(f"{self.path}: the model gives {len(expected)} outputs, the file has {len(self.outputs)}")
        taken = {i.name for i in self.session.get_inputs()}
        try:
            made = self.session.run(list(self.outputs), {n: a for n, a in feeds.items() if n in taken})
        except Exception as error:
            raise ExportError(f"{self.path}: onnxruntime cannot run it {at} ({_line(error)}). {advice}") from None
        for name, got, wanted in zip(self.outputs, made, expected, strict=True):
            if got.shape != wanted.shape:
                raise ExportError(
                    f"{self.path}: output {name!r} {at} has the shape {list(got.shape)}, the model's has {list(wanted.shape)}. "
                    f"{advice}"
                )
            apart = excess(LEVEL, got, wanted)
            self.worst = max(self.worst, apart)
            if not apart <= 1:
                if not np.isfinite(wanted.astype(np.float64)).all():
                    raise ExportError(
                        f"{self.path}: output {name!r} of the model itself {at} is not finite, for random inputs like the "
                        "example's: give real inputs as the example, or look at the model"
                    )
                if any(excess("exact", a, b) for a, b in zip(expected, self.expected(feeds), strict=True)):
                    advice = (
                        "The model itself gives other outputs each time: switch its noise off, and pass a state that it keeps "
                        "from call to call as an input and an output"
                    )
                largest = float(np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max())
                allowed = TOLERANCES[LEVEL].get(wanted.dtype.name)
                limit = f"{allowed.absolute:g} + {allowed.relative:g} of the value" if allowed else "nothing"
                raise ExportError(
                    f"{self.path}: output {name!r} {at} differs by up to {largest:.1e} between onnxruntime and the model; "
                    f"allowed is {limit}. {advice}"
                )

    def expected(self, feeds: Mapping[str, Array]) -> list[Array]:
        try:
            return [np.asarray(y) for y in self.run(feeds)]
        except Exception as error:
            self.refused = _line(error)
            raise _Unfit(f"{self.path}: the model itself does not take inputs like the example's: {self.refused}") from error

    def first_that_fits(self, offers: Sequence[tuple[Mapping[str, Array], Mapping[str, int]]]) -> Mapping[str, int] | None:
        for feeds, sizes in offers:
            try:
                self(feeds, sizes)
                return sizes
            except _Unfit:
                continue
        return None


def session(model: onnx.ModelProto, shown: str) -> Any:
    """`model` in onnxruntime, on one thread. Raises `ExportError`, which calls it `shown`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"{shown}: the exporter has written a file that onnxruntime does not open ({_line(error)})") from None


def _drawn(example: Mapping[str, Array], axes: Axes, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Array]:
    """Random arrays like those of `example`, of other sizes."""
    made = {}
    for name, array in example.items():
        named = axes.get(name, {})
        shape = [sizes[named[axis]] if axis in named else n for axis, n in enumerate(array.shape)]
        if array.dtype.kind != "f":
            made[name] = rng.choice(array.ravel(), shape).astype(array.dtype)
            continue
        spread = float(array.std()) or 0.5
        value = array.mean() + spread * rng.standard_normal(shape)
        made[name] = (np.abs(value) if array.min() >= 0 and array.std() > 0 else value).astype(array.dtype)
    return made


def _text(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {size}" for name, size in sizes.items())


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else text[:240] + "…"
