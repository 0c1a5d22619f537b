"""Small PyTorch modules, exported by both of PyTorch's ONNX exporters: `python -m tests.whole.make_torch_models`.

Writes, for each case, `<case>_<exporter>.onnx` and `.npz`. The .npz holds PyTorch's own results in float32:
`in:<name>` and `out:<name>` at the exported sizes, and `in2:<name>`, `out2:<name>` at a longer T (and another
batch) where the file's axes are dynamic. Every file is first compared with onnxruntime. README.md beside
them lists all cases, and those left out with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import logging
import multiprocessing
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from tests import MODELS

I, H, VOCAB = 5, 6, 11  # noqa: E741
SIZES = {"T": 6, "B": 2}  # at export
SIZES2 = {"T": 17, "B": 3}  # a second time, where dynamic
ATOL, RTOL = 1e-5, 1e-4
SCALE = 1.5  # of PyTorch's initial weights, so that gates leave their linear range
EXPORTERS = ("legacy", "dynamo")

Shape = tuple[int | str, ...]  # "T" and "B" are dynamic axes


@dataclass(frozen=True)
class Case:
    """One module; `inputs` and `outputs` name the arguments and results of its forward, in order."""

    name: str
    build: Callable[[], nn.Module]
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    opset: int | None = None  # the exporter's default

    @property
    def dynamic(self) -> list[str]:
        return sorted({axis for shape in self.inputs.values() for axis in shape if isinstance(axis, str)})


@dataclass
class Result:
    """What became of one case and exporter."""

    name: str
    exporter: str
    asked: list[str]
    left_out: str = ""
    shapes: str = ""
    error: float = 0.0
    nodes: Counter[str] = field(default_factory=Counter)
    opset: str = ""
    notes: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- the modules

CORES: dict[str, Callable[..., nn.Module]] = {
    "rnn": nn.RNN,
    "relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k),
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}
CELLS: dict[str, Callable[..., nn.Module]] = {
    "rnn": nn.RNNCell,
    "relu": lambda *a, **k: nn.RNNCell(*a, nonlinearity="relu", **k),
    "lstm": nn.LSTMCell,
    "gru": nn.GRUCell,
}


class Recurrent(nn.Module):
    """A recurrent layer; returns y, and its final states if `final`."""

    def __init__(self, core: nn.Module, final: bool) -> None:
        super().__init__()
        self.core, self.final = core, final

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        y, state = self.core(x, h if c is None else (h, c))
        if not self.final:
            return y
        return (y, *state) if isinstance(state, tuple) else (y, state)


class CellStep(nn.Module):
    """Stacked cells, then `head`: x and the states in turn → y (with a head) and the new states."""

    def __init__(self, cells: list[nn.Module], head: nn.Module | None = None) -> None:
        super().__init__()
        self.cells, self.head = nn.ModuleList(cells), head

    def forward(
        self,
        x: Tensor,
        h: Tensor,
        c: Tensor | None = None,
        h2: Tensor | None = None,
        c2: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        given = iter([state for state in (h, c, h2, c2) if state is not None])
        new: list[Tensor] = []
        for cell in self.cells:
            if isinstance(cell, nn.LSTMCell):
                new += cell(x, (next(given), next(given)))
                x = new[-2]
            else:
                x = cell(x, next(given))
                new.append(x)
        return (self.head(x), *new) if self.head is not None else tuple(new)


class PackedStateStep(nn.Module):
    """An LSTM layer as a step model whose h and c are one tensor [2, B, H]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(I, H, batch_first=True)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, (h, c) = self.lstm(x, (state[:1], state[1:]))
        return y, torch.cat([h, c])


class LanguageModel(nn.Module):
    """Tokens [B, T] → scores, or with `end` (log) probabilities, [B, T, VOCAB]."""

    def __init__(self, core: nn.Module, end: nn.Module | None = None, final: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, I)
        self.core, self.final = core, final
        self.linear, self.end = nn.Linear(H, VOCAB), end or nn.Identity()

    def forward(self, tokens: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        y, state = self.core(self.embedding(tokens), h if c is None else (h, c))
        y = self.end(self.linear(y))
        if not self.final:
            return y
        return (y, *state) if isinstance(state, tuple) else (y, state)


class Chain(nn.Module):
    """Layers in turn; of a recurrent layer only y goes on. `residual` adds the first's result."""

    def __init__(self, *layers: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.layers, self.residual = nn.ModuleList(layers), residual

    def forward(self, x: Tensor) -> Tensor:
        first = None
        for layer in self.layers:
            x = layer(x)[0] if isinstance(layer, nn.RNNBase) else layer(x)
            first = x if first is None else first
        return x + first if self.residual and first is not None else x


class Classifier(nn.Module):
    """Linear on the last time step of y, on the last layer's final h, or on y's mean over time."""

    def __init__(self, core: nn.Module, how: str, features: int = H) -> None:
        super().__init__()
        self.core, self.how, self.linear = core, how, nn.Linear(features, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.core(x)
        h = state[0] if isinstance(state, tuple) else state
        last = {"last": lambda: y[:, -1], "hn": lambda: h[-1], "mean": lambda: y.mean(1)}[self.how]
        return self.linear(last())


# ---------------------------------------------------------------- the cases

OPTIONS: dict[str, tuple[str, ...]] = {
    "kind": ("lstm", "gru", "rnn", "relu"),
    "layers": ("l1", "l2", "l3"),
    "direction": ("uni", "bi"),
    "first": ("sf", "bf"),  # sequence or batch first
    "states": ("zero", "final", "states"),  # zero initial states; … and final ones returned; both explicit
    "time": ("dynT", "fixT"),
    "batch": ("b1", "b2", "dynB"),
}


def covering(options: Mapping[str, tuple[str, ...]], count: int) -> list[tuple[str, ...]]:
    """`count` choices which cover every pair of options, and as many triples as greedily possible."""
    every = list(itertools.product(*options.values()))
    seen: set[tuple[tuple[int, str], ...]] = set()
    chosen: list[tuple[str, ...]] = []

    def new(row: tuple[str, ...]) -> tuple[int, int]:
        pairs, triples = (set(itertools.combinations(enumerate(row), n)) - seen for n in (2, 3))
        return len(pairs), len(triples)

    for _ in range(count):
        row = max(every, key=new)
        chosen.append(row)
        seen.update(itertools.combinations(enumerate(row), 2), itertools.combinations(enumerate(row), 3))
    assert all(new(row)[0] == 0 for row in every)
    return chosen


def recurrent_case(row: tuple[str, ...]) -> Case:
    kind, layers, direction, first, states, time, batch = row
    n, directions = int(layers[1:]), 1 + (direction == "bi")
    t: int | str = "T" if time == "dynT" else SIZES["T"]
    b: int | str = {"b1": 1, "b2": 2, "dynB": "B"}[batch]
    lead: Shape = (b, t) if first == "bf" else (t, b)
    state: Shape = (n * directions, b, H)
    parts = ("h", "c")[: 1 + (kind == "lstm")]

    def build() -> nn.Module:
        core = CORES[kind](I, H, n, bidirectional=direction == "bi", batch_first=first == "bf")
        return Recurrent(core, states != "zero")

    inputs: dict[str, Shape] = {"x": (*lead, I)}
    outputs: dict[str, Shape] = {"y": (*lead, H * directions)}
    if states == "states":
        inputs |= {f"{part}0": state for part in parts}
    if states != "zero":
        outputs |= {f"{part}n": state for part in parts}
    return Case("_".join(row), build, inputs, outputs)


def cell_cases() -> Iterable[Case]:
    names = {"h": "hn", "c": "cn", "h2": "hn2", "c2": "cn2"}

    def case(name: str, kind: str, batch: int | str, build: Callable[[], nn.Module], cells: int = 1, head: int = 0) -> Case:
        states = {"lstm": ("h", "c", "h2", "c2")}.get(kind, ("h", "h2"))[: cells * (1 + (kind == "lstm"))]
        outputs: dict[str, Shape] = {"y": (batch, head)} if head else {}
        return Case(
            name,
            build,
            {"x": (batch, I)} | dict.fromkeys(states, (batch, H)),
            outputs | {names[s]: (batch, H) for s in states},
        )

    for kind, cell in CELLS.items():
        yield case(f"cell_{kind}", kind, 1, lambda cell=cell: CellStep([cell(I, H)]))
        yield case(f"cell_{kind}_dynB", kind, "B", lambda cell=cell: CellStep([cell(I, H)]))
        yield case(f"cell_{kind}_nobias", kind, 1, lambda cell=cell: CellStep([cell(I, H, bias=False)]))
        yield case(
            f"cell_{kind}_stack2_linear",
            kind,
            1,
            lambda cell=cell: CellStep([cell(I, H), cell(H, H)], nn.Linear(H, 4)),
            2,
            4,
        )
    yield case("cell_lstm_stack2", "lstm", 1, lambda: CellStep([nn.LSTMCell(I, H), nn.LSTMCell(H, H)]), 2)
    yield case("cell_gru_stack2_b2", "gru", 2, lambda: CellStep([nn.GRUCell(I, H), nn.GRUCell(H, H)]), 2)
    yield case("cell_gru_linear", "gru", 1, lambda: CellStep([nn.GRUCell(I, H)], nn.Linear(H, 3)), 1, 3)
    yield case("cell_lstm_linear_dynB", "lstm", "B", lambda: CellStep([nn.LSTMCell(I, H)], nn.Linear(H, 3)), 1, 3)


def model_cases() -> Iterable[Case]:
    def sequence(name: str, build: Callable[[], nn.Module], features: int, batch: int | str = 1) -> Iterable[Case]:
        for suffix, t in (("dynT", "T"), ("fixT", SIZES["T"])):
            yield Case(f"{name}_{suffix}", build, {"x": (batch, t, I)}, {"y": (batch, t, features)})

    def lstm(*sizes: int, **options: bool | float) -> nn.Module:
        return nn.LSTM(*(sizes or (I, H)), batch_first=True, **options)  # type: ignore[arg-type]

    def gru(*sizes: int, **options: bool | float) -> nn.Module:
        return nn.GRU(*(sizes or (I, H)), batch_first=True, **options)  # type: ignore[arg-type]

    for end, layer in {"scores": None, "logsoftmax": nn.LogSoftmax(-1), "softmax": nn.Softmax(-1)}.items():
        yield Case(
            f"lm_lstm_{end}_dynT",
            lambda layer=layer: LanguageModel(lstm(), layer),
            {"tokens": (1, "T")},
            {"y": (1, "T", VOCAB)},
        )
    yield Case("lm_lstm_scores_fixT", lambda: LanguageModel(lstm()), {"tokens": (1, 6)}, {"y": (1, 6, VOCAB)})
    for suffix, t in (("dynT", "T"), ("step", 1)):
        state: Shape = (2, 1, H)
        yield Case(
            f"lm_lstm_l2_states_{suffix}",
            lambda: LanguageModel(lstm(I, H, 2), final=True),
            {"tokens": (1, t), "h0": state, "c0": state},
            {"y": (1, t, VOCAB), "hn": state, "cn": state},
        )
        yield Case(
            f"lm_gru_states_softmax_{suffix}",
            lambda: LanguageModel(gru(), nn.Softmax(-1), final=True),
            {"tokens": ("B", t), "h0": (1, "B", H)},
            {"y": ("B", t, VOCAB), "hn": (1, "B", H)},
        )
    for kind, build in {"lstm": lstm, "gru": gru}.items():
        for how in ("last", "hn", "mean"):
            yield Case(
                f"classify_{kind}_{how}_dynT",
                lambda build=build, how=how: Classifier(build(), how),
                {"x": (1, "T", I)},
                {"y": (1, 4)},
            )
        yield Case(
            f"classify_{kind}_last_fixT",
            lambda build=build: Classifier(build(), "last"),
            {"x": (2, 6, I)},
            {"y": (2, 4)},
        )
    yield Case(
        "classify_lstm_bi_last_dynTB",
        lambda: Classifier(lstm(bidirectional=True), "last", 2 * H),
        {"x": ("B", "T", I)},
        {"y": ("B", 4)},
    )
    yield Case(
        "packed_state_lstm_step",
        PackedStateStep,
        {"x": (1, 1, I), "state": (2, 1, H)},
        {"y": (1, 1, H), "state_out": (2, 1, H)},
    )
    yield from sequence("gru_layernorm", lambda: Chain(gru(), nn.LayerNorm(H)), H)
    yield from sequence("lstm_dropout", lambda: Chain(lstm(I, H, 2, dropout=0.3), nn.Dropout(0.3)), H)
    yield from sequence("lstm_layernorm_lstm", lambda: Chain(lstm(), nn.LayerNorm(H), lstm(H, 7)), 7, "B")
    yield from sequence(
        "linear_relu_gru_residual",
        lambda: Chain(nn.Linear(I, 7), nn.ReLU(), gru(7, H), nn.Linear(H, 7), residual=True),
        7,
    )
    yield from sequence("lstm_nobias", lambda: Chain(lstm(bias=False)), H)
    yield from sequence("lstm_projection", lambda: Chain(lstm(I, H, proj_size=3)), 3)
    yield from sequence("gru_nobias_l2", lambda: Chain(gru(I, H, 2, bias=False)), H, "B")


def opset_cases() -> Iterable[Case]:
    """Older opsets: axes as attributes (before 13, 18), LayerNorm in parts (before 17)."""
    bi = recurrent_case(("lstm", "l2", "bi", "bf", "states", "dynT", "dynB"))
    found = {case.name: case for case in [bi, *cell_cases(), *model_cases()]}
    for opset, name in (
        (11, bi.name),
        (11, "lm_lstm_scores_dynT"),
        (11, "classify_gru_last_dynT"),
        (12, "cell_lstm"),
        (13, "cell_gru_stack2_linear"),
        (14, "classify_lstm_mean_dynT"),
        (16, "gru_layernorm_dynT"),
        (17, "lstm_layernorm_lstm_dynT"),
    ):
        yield replace(found[name], name=f"opset{opset}_{name}", opset=opset)


@cache
def cases() -> tuple[Case, ...]:
    recurrent = [recurrent_case(row) for row in covering(OPTIONS, 36)]
    every = (*recurrent, *cell_cases(), *model_cases(), *opset_cases())
    assert len({case.name for case in every}) == len(every)
    return every


# ---------------------------------------------------------------- export and check


def tensors(case: Case, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    shapes = {name: [sizes.get(n, n) if isinstance(n, str) else n for n in s] for name, s in case.inputs.items()}
    return {
        name: torch.randint(VOCAB, s) if name == "tokens" else torch.randn(s)  # type: ignore[arg-type]
        for name, s in shapes.items()
    }


def outputs(case: Case, module: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        y = module(*values.values())
    return dict(zip(case.outputs, y if isinstance(y, tuple) else (y,), strict=True))


def named(prefix: str, values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {f"{prefix}:{name}": value.numpy() for name, value in values.items()}


def axes(shape: Shape) -> dict[int, str]:
    return {k: name for k, name in enumerate(shape) if isinstance(name, str)}


def export(case: Case, module: nn.Module, values: Mapping[str, Tensor], exporter: str) -> onnx.ModelProto:
    args, options = (
        tuple(values.values()),
        {"input_names": [*case.inputs], "output_names": [*case.outputs], "opset_version": case.opset},
    )
    if exporter == "legacy":
        file = io.BytesIO()
        dynamic = {name: axes(shape) for name, shape in (case.inputs | case.outputs).items() if axes(shape)}
        torch.onnx.export(module, args, file, dynamo=False, dynamic_axes=dynamic, **options)
        return onnx.load_from_string(file.getvalue())
    dims = {name: torch.export.Dim(name) for name in case.dynamic}
    dynamic = tuple({k: dims[name] for k, name in axes(s).items()} for s in case.inputs.values())
    program = torch.onnx.export(module, args, dynamo=True, dynamic_shapes=dynamic, verbose=False, **options)
    assert program is not None
    return program.model_proto


def strip(message: onnx.ModelProto | onnx.GraphProto | onnx.FunctionProto) -> None:
    """Remove what describes the exporting machine: documentation strings and metadata, in all graphs."""
    stack = [message]
    while stack:
        part = stack.pop()
        for name in ("doc_string", "metadata_props"):
            if name in part.DESCRIPTOR.fields_by_name:
                part.ClearField(name)
        for description, value in part.ListFields():
            if description.message_type is not None:
                stack += value if description.is_repeated else [value]


def error_between(got: Iterable[np.ndarray], want: Mapping[str, Tensor]) -> tuple[float, bool]:
    """The largest absolute difference, and whether all are within tolerance and of the same shape."""
    worst, good = 0.0, True
    for a, tensor in zip(got, want.values(), strict=True):
        b = tensor.numpy()
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf"), False
        worst = max(worst, float(np.max(np.abs(a - b))))
        good &= bool(np.allclose(a, b, rtol=RTOL, atol=ATOL))
    return worst, good


def onnxruntime_outputs(model: onnx.ModelProto, values: Mapping[str, Tensor], optimised: bool = True) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {k: v.numpy() for k, v in values.items()})


def check_second(
    model: onnx.ModelProto, values: Mapping[str, Tensor], want: Mapping[str, Tensor]
) -> tuple[float | None, list[str]]:
    """The error at other sizes than the exported ones, None if the file cannot do them; and remarks."""
    notes, found = [], None
    for optimised in (True, False):
        try:
            error, good = error_between(onnxruntime_outputs(model, values, optimised), want)
            problem = "" if good else f"differs by {error:.1e}"
        except Exception as exception:
            error, problem = 0.0, one_line(exception)
        if not problem:
            found = error
            break
        notes.append(f"onnxruntime {'' if optimised else 'without optimisations '}fails: {problem}")
    if found is None:
        return None, notes[-1:]
    if notes:
        notes.append("without optimisations it agrees (they trust the file's wrong value_info)")
    shapes = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output}
    wrong = [k for k, v in want.items() if any(d not in (0, n) for d, n in zip(shapes[k], v.shape, strict=True))]
    if wrong:
        notes.append(f"works, though the file declares another shape for {', '.join(wrong)}")
    return found, notes


def one_line(error: BaseException) -> str:
    """An exception as one line, with no path of this machine."""
    text = re.sub(r"/\S+/", "", " ".join(str(error).split()))
    text = re.sub(r"\[ONNXRuntimeError\].*while (?=running)", "", text)
    return f"{type(error).__name__}: {text[:160]}".replace("|", "\\|")


def shape_text(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return f"{value.name}[{','.join(d.dim_param or str(d.dim_value) for d in dims)}]"


def nodes_of(model: onnx.ModelProto) -> Counter[str]:
    """Nodes by op type, those inside functions and subgraphs too."""
    count: Counter[str] = Counter()
    stack = [list(model.graph.node), *(list(f.node) for f in model.functions)]
    while stack:
        for node in stack.pop():
            count[f"{node.domain}.{node.op_type}" if node.domain else node.op_type] += 1
            stack += [list(a.g.node) for a in node.attribute if a.HasField("g")]
    return count


def make(case: Case, exporter: str, folder: Path) -> Result:
    result = Result(case.name, exporter, case.dynamic)
    torch.manual_seed(zlib.crc32(case.name.encode()))
    module = case.build().eval()
    for parameter in module.parameters():
        parameter.data *= SCALE
    values = tensors(case, SIZES)
    want = outputs(case, module, values)
    arrays = named("in", values) | named("out", want)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model = export(case, module, values, exporter)
    except Exception as error:  # whatever an exporter raises is a reason to leave the case out
        result.left_out = f"the exporter refuses: {one_line(error)}"
        return result
    strip(model)
    onnx.checker.check_model(model, full_check=True)
    result.nodes = nodes_of(model)
    result.opset = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)
    result.shapes = " → ".join(" ".join(map(shape_text, v)) for v in (model.graph.input, model.graph.output))
    try:
        result.error, good = error_between(onnxruntime_outputs(model, values), want)
    except Exception as error:
        result.left_out = f"onnxruntime refuses: {one_line(error)}"
        return result
    if not good:
        result.left_out = f"onnxruntime differs from PyTorch by {result.error:.1e}"
        return result
    if case.opset and f"ai.onnx {case.opset}" != result.opset:
        result.notes.append(f"opset {case.opset} asked for, {result.opset} written")
    symbolic = {d.dim_param for i in model.graph.input for d in i.type.tensor_type.shape.dim}
    if lost := [axis for axis in case.dynamic if axis not in symbolic]:
        result.notes.append(f"{' and '.join(lost)} asked for as dynamic, silently fixed in the file")
    if sizes := {axis: SIZES2[axis] for axis in case.dynamic if axis in symbolic}:
        values2 = tensors(case, SIZES | sizes)
        want2 = outputs(case, module, values2)
        error2, notes = check_second(model, values2, want2)
        result.notes += [f"at {', '.join(f'{k} = {v}' for k, v in sizes.items())}: {note}" for note in notes]
        if error2 is not None:
            result.error = max(result.error, error2)
            arrays |= named("in2", values2) | named("out2", want2)
    onnx.save(model, folder / f"{case.name}_{exporter}.onnx")
    np.savez_compressed(folder / f"{case.name}_{exporter}.npz", **arrays)  # type: ignore[arg-type]
    return result


# ---------------------------------------------------------------- the page about them


def readme(results: list[Result]) -> str:
    kept = [r for r in results if not r.left_out]
    total = sum((r.nodes for r in kept), Counter[str]())
    files = Counter(op for r in kept for op in r.nodes)
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (torch, onnx, onnxruntime, np))
    lines = [
        "# Models exported by PyTorch",
        "",
        "Generated by `python -m tests.whole.make_torch_models`; do not edit. "
        f"Made with {versions}; the weights are random and ours, no licence but the project's applies.",
        "",
        f"Every file agreed with PyTorch in onnxruntime within {ATOL:g} absolute + {RTOL:g} relative; the "
        "column *error* is the largest absolute difference. Documentation strings and metadata are stripped. "
        "In the .npz: `in:`/`out:` at the exported sizes, `in2:`/`out2:` at "
        f"{', '.join(f'{k} = {v}' for k, v in SIZES2.items())} where these axes are dynamic.",
        "",
        "The two files of a case hold the same weights, so `in2`/`out2` of one serve the other too.",
        "",
        "Names: `l2` layers, `uni`/`bi` directions, `sf`/`bf` sequence or batch first, `zero` initial states "
        "(`final`: final ones returned) or both explicit (`states`), `dynT`/`fixT` time axis, "
        "`b1`/`b2`/`dynB` batch, `opset11` asked for.",
        "",
        f"## Left out ({len(results) - len(kept)})",
        "",
        *(f"- `{r.name}_{r.exporter}`: {r.left_out}" for r in results if r.left_out),
        "",
        f"## Op types in the {len(kept)} files",
        "",
        "| op | nodes | files |",
        "|---|---|---|",
        *(f"| {op} | {n} | {files[op]} |" for op, n in total.most_common()),
        "",
        "## Files",
        "",
        "| case | exporter | asked dynamic | opset | inputs → outputs in the file | error | nodes |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in kept:
        nodes = ", ".join(f"{op} {n}" for op, n in r.nodes.most_common())
        asked = ", ".join(r.asked) or "-"
        row = (r.name, r.exporter, asked, r.opset, r.shapes, f"{r.error:.1e}", nodes)
        lines.append(f"| {' | '.join(row)} |")
    lines += ["", "## Notes", "", *(f"- `{r.name}_{r.exporter}`: {n}" for r in kept for n in r.notes), ""]
    return "\n".join(lines)


def job(which: tuple[int, str, Path]) -> Result:
    index, exporter, folder = which
    return make(cases()[index], exporter, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, default=MODELS)
    parser.add_argument("-k", "--only", default="", help="a regular expression: only these cases, no README.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [index for index, case in enumerate(cases()) if re.search(arguments.only, case.name)]
    jobs = [(index, exporter, folder) for index in chosen for exporter in EXPORTERS]
    results: list[Result] = []
    # A process for each file: in one, earlier dynamo exports decide which dynamic axes become constants.
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        for result in pool.imap(job, jobs, chunksize=1):
            results.append(result)
            say = result.left_out or "; ".join([f"{result.error:.1e}", *result.notes])
            print(f"[{len(results)}/{len(jobs)}] {result.name}_{result.exporter}: {say}", flush=True)
    if arguments.only:
        return
    kept = {f"{r.name}_{r.exporter}" for r in results if not r.left_out}
    for exporter in EXPORTERS:
        for file in folder.glob(f"*_{exporter}.*"):
            if file.stem not in kept:
                file.unlink()
    (folder / "README.md").write_text(readme(results), encoding="utf-8")


if __name__ == "__main__":
    main()
