"""The stages of compilation, from a file to a Model; and `save`, back to a file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn import ops
from tinyrnn.compile.codegen import PORTS, Source, generate
from tinyrnn.compile.crew_planner import make_crew_plan
from tinyrnn.compile.plan import Plan
from tinyrnn.compile.planner import make_plan
from tinyrnn.compile.pool_page import generate_pool
from tinyrnn.compile.progress import PAGE, PASSES, PLAN, tell
from tinyrnn.compile.stream_planner import make_stream_plan
from tinyrnn.errors import LoadError, TinyRNNError, UnsupportedError
from tinyrnn.frontends.source import ModelSource, label, read
from tinyrnn.graph.arrays import Port as UserPort
from tinyrnn.graph.arrays import is_narrow
from tinyrnn.graph.ir import Graph, Spec
from tinyrnn.graph.limits import OverLimit, check_arena, check_code, holds, one_load
from tinyrnn.graph.op import op_of
from tinyrnn.graph.storage import parse
from tinyrnn.loading.dynamic_shapes import DynamicShapeModel
from tinyrnn.loading.parametric_page import ParametricPages
from tinyrnn.passes import Port, Program, Time, bound, open_batches, prepare, with_given_constants
from tinyrnn.passes.suggest_sizes import advice, example
from tinyrnn.passes.widen import has_doubles
from tinyrnn.runtime import Layout, Model, PoolCode, aligned
from tinyrnn.runtime.crew import CrewCode
from tinyrnn.runtime.memory import ALIGNMENT
from tinyrnn.targets.cpu import compile_source, one_by_one
from tinyrnn.targets.machine import Machine, host, second_level_cache
from tinyrnn.trace import Tracer
from tinyrnn.trace.program import traced_program

__all__ = ["Stages", "compile_file", "compile_graph", "ops", "read", "save"]

WEIGHTS = "tinyrnn.weights"
"""entry of a file's metadata with the option `weights` that it is loaded with, as JSON"""
COMPANY = 16
"""slots from which a pool of a model with run-time sizes has code of its own for each size"""
EXAMPLE_SIZES = (17, 257, 2053)
"""example sizes for axes that are known at run time only; the first that fits the shapes is taken"""


@dataclass(frozen=True)
class Stages:
    """The stages of a model's compilation, which `tinyrnn inspect` shows."""

    graph: Graph
    """the bound file graph"""
    program: Program
    plan: Plan
    source: Source


def compile_file(path: ModelSource, time: Time | None = None, **how: Any) -> Model:
    """Compile the model of a file for this machine; `how` as for `tinyrnn.load`, `halves` as for `_read_bound`."""
    return compile_graph(*_read_bound(path, **how), time)


def _read_bound(
    path: ModelSource,
    bind: Mapping[str, Any] | None = None,
    states: Mapping[str, str] | None = None,
    outputs: Sequence[str] | None = None,
    layers: Sequence[Any] | None = None,
    names: Mapping[str, str | None] | None = None,
    weights: str | Mapping[str, str] | None = None,
    halves: bool = True,
) -> tuple[Graph, Mapping[str, str] | None]:
    """(bound graph, its state pairs). halves: keep half precision of inputs and outputs, else they become float32."""
    graph, stored_states = read(path, layers, names)
    if not halves:
        graph.specs = {n: Spec(np.dtype(np.float32), s.shape) if is_narrow(s.dtype) else s for n, s in graph.specs.items()}
    _check_names(graph.name, states, outputs)
    graph = bound(graph, bind, outputs)
    graph.storage = parse(_of_file(graph) if weights is None else weights, graph.name)
    if states is None and stored_states is not None and all(v in graph.outputs for v in stored_states.values()):
        states = {k: v for k, v in stored_states.items() if k in graph.inputs}
    return graph, states


def _of_file(graph: Graph) -> Any:
    """The option `weights` that a file states in its metadata."""
    text = graph.metadata.get(WEIGHTS)
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        raise LoadError(f"{graph.name}: metadata {WEIGHTS!r} is no JSON: {text!r:.80}") from None


def _check_names(model: str, states: Any, outputs: Any) -> None:
    """Raise `LoadError` unless `states` and `outputs` are names of inputs and outputs, or None."""
    if states is not None and not (
        isinstance(states, Mapping) and all(isinstance(name, str) for pair in states.items() for name in pair)
    ):
        raise LoadError(f"{model}: states={states!r}; it takes {{state input: state output}}, both by name")
    if outputs is not None and not isinstance(outputs, Sequence):
        raise LoadError(f"{model}: outputs={outputs!r}; it takes a list of names")


def plan_for(path: ModelSource, machine: Machine, alignment: int, cache_bytes: int, time: Time | None = None, **how: Any) -> Plan:
    """The plan of a model for another machine, with float32 instead of half precision, which C and the web lack.

    cache_bytes: up to how many bytes of weights numbers of half precision are stored as float32

    Raises `LoadError` and `UnsupportedError`.
    """
    with one_load(label(path)):
        return _stages(*_read_bound(path, **how, halves=False), time, machine, alignment, cache_bytes).plan


def stages_for(path: ModelSource, machine: Machine, cache_bytes: int, time: Time | None = None, **how: Any) -> Stages:
    """The stages of a model for a machine that is not this one. Raises `UnsupportedError`, with sizes to fix where that helps."""
    with one_load(label(path)):
        graph, states = _read_bound(path, **how)
        try:
            return _stages(graph, states, time, machine, ALIGNMENT, cache_bytes)
        except OverLimit:
            raise
        except UnsupportedError as error:
            raise _advised(graph, states, time, error) from None


def save(model: Model, path: str | PathLike[str]) -> None:
    """Write a loaded model to an .npz container that `load` reads without the onnx package, bit for bit the same."""
    from tinyrnn.frontends.npz import write_npz

    stages: Stages = model._source
    write_npz(Path(path), stages.graph, stages.program.states)


def compile_graph(graph: Graph, states: Mapping[str, str] | None = None, time: Time | None = None) -> Model:
    """Compile a bound graph for this machine."""
    try:
        stages = _stages(graph, states, time)
    except UnsupportedError as error:
        try:
            model = _for_each_size(graph, states, time, str(error).removeprefix(f"{graph.name}: "))
            if model is None:
                raise _advised(graph, states, time, error) from None
            return model
        except OverLimit:
            raise error from None
    plan = stages.plan
    check_arena(4 * plan.state_size + plan.arena_fixed + plan.arena_per_row * max(plan.chunk, 1))
    made = Model(
        layout_of(plan),
        compile_source(stages.source),
        stages,
        cache(partial(tracer_of, stages)),
        cache(partial(pooled_of, stages, 1)),
    )
    made._crewed = cache(partial(crewed_of, stages))
    return made


def warnings_of(model: Model) -> Iterator[str]:
    """The warnings of loading a compiled model."""
    if type(model) is Model:
        for rule in model._layout.sizes:
            if rule.exact:
                yield f"{model.name}: {rule}. Where that is not meant, export with example sizes that differ"
        for doubt in doubts(model._source.program, model._source.graph.metadata):
            yield f"{model.name}: {doubt}"


def doubts(program: Program, metadata: Mapping[str, str]) -> Iterator[str]:
    """Warnings where the file may not mean what its author intended."""
    if program.narrowed:
        yield f"float64 is computed in float32, about 7 digits; inputs and outputs stay float64 ({program.narrowed})"
    for node in program.graph.nodes:
        doubt = op_of(node).doubt(node, metadata.get("producer", ""))
        if doubt:
            yield f"node {node.name!r} ({node.op}): {doubt}"


def tracer_of(stages: Stages) -> Tracer:
    """The model compiled again with the gates of its recurrent kernels as outputs; the state has the same layout."""
    machine = host()
    program, kept = traced_program(stages.program)
    plan = make_plan(program, machine.lanes, machine.registers, cache=second_level_cache(), dot=machine.dot)
    assert [(p.name, p.offset, p.shape) for p in plan.parts] == [(p.name, p.offset, p.shape) for p in stages.plan.parts]
    return Tracer(Model(layout_of(plan), compile_source(generate(plan))), kept)


def crewed_of(stages: Stages, layout: Layout) -> CrewCode | None:
    """What streams of several threads run on, with the weights of that layout; None where no call is large."""
    machine = host()
    plan = make_crew_plan(stages.plan, machine.lanes, machine.registers)
    if plan is None:
        return None
    own = layout_of(plan)
    assert own.state_parts == layout.state_parts
    same = np.array_equal(own.weights, layout.weights)
    return CrewCode(replace(own, weights=layout.weights) if same else own, compile_source(generate(plan)))


def pooled_of(stages: Stages, least: int, slots: int) -> PoolCode:
    """What a pool of so many slots runs on: from `least` on a tick where there is one, else the page for one stream in a loop."""
    machine = host()
    single = replace(stages.plan, program=with_given_constants(stages.plan.program))
    plan = slots >= least and make_stream_plan(single, machine.lanes, machine.registers, second_level_cache() // 2)
    if not plan:
        return one_by_one()
    own = len(plan.weights) > len(stages.plan.weights)
    weights = aligned(len(plan.weights)) if own else None
    if weights is not None:
        weights[:] = plan.weights
    code = compile_source(generate_pool(single, plan))
    return PoolCode(code, True, plan.arena_fixed, plan.arena_per_row, plan.chunk, weights)


def _stages(
    graph: Graph,
    states: Mapping[str, str] | None,
    time: Time | None,
    machine: Machine | None = None,
    alignment: int = ALIGNMENT,
    cache_bytes: int | None = None,
) -> Stages:
    machine, cache_bytes = machine or host(), second_level_cache() if cache_bytes is None else cache_bytes
    with one_load(graph.name):
        holds(graph.nbytes)
        try:
            program, plan = _planned(graph, states, time, machine, alignment, cache_bytes)
        except OverLimit:
            raise
        except UnsupportedError as error:
            if not has_doubles(graph):
                raise
            program, plan = _planned(graph, states, time, machine, alignment, cache_bytes, doubles=False)
            program.narrowed = str(error).splitlines()[:2][-1].strip().removeprefix(f"{graph.name}: ")
        tell(PAGE)
        source = generate(plan)
        text, calls = source.text, [len(step.operands) for step in plan.steps]
        check_code(text.count("\n"), text.count("\ndef "), len(calls), max(calls, default=0))
        return Stages(graph, program, plan, source)


def _planned(
    graph: Graph,
    states: Mapping[str, str] | None,
    time: Time | None,
    machine: Machine,
    alignment: int,
    cache_bytes: int,
    doubles: bool = True,
) -> tuple[Program, Plan]:
    tell(PASSES)
    program = prepare(graph, states, time, doubles)
    tell(PLAN)
    return program, make_plan(program, machine.lanes, machine.registers, alignment, cache_bytes, machine.dot)


def _for_each_size(graph: Graph, states: Mapping[str, str] | None, time: Time | None, reason: str) -> DynamicShapeModel | None:
    """A model with dynamic shapes, for a graph that runs only if some open sizes are known; None where that does not help."""
    shapes = {name: graph.specs[name].shape for name in graph.inputs}
    opened = list(dict.fromkeys(s for shape in shapes.values() for s in shape if isinstance(s, str)))
    inner = [s for s in opened if any(s in shape[1:] for shape in shapes.values())]
    shared, ranks = ParametricPages(), dict[str, int]()

    def staged(sizes: Mapping[str, int]) -> Stages:
        stages = _stages(bound(graph, sizes, None), states, time)
        return replace(stages, source=generate(stages.plan, shared=False))

    def model_of(stages: Stages, sizes: Mapping[str, int]) -> Model:
        layout = layout_of(stages.plan)
        ranks.update({p.name: len(p.shape) for p in (*layout.inputs, *layout.outputs) if p.name not in ranks})
        layout = replace(layout, inputs=_ranked(layout.inputs, ranks), outputs=_ranked(layout.outputs, ranks))
        code, table, weights = shared.code(stages.source, layout.weights, lambda: staged(_others(sizes)).source)
        pooled = cache(partial(pooled_of, stages, COMPANY))
        return Model(replace(layout, table=table, weights=weights), code, stages, cache(partial(tracer_of, stages)), pooled)

    try:
        batches = open_batches(graph, time)
    except TinyRNNError:
        batches = set()
    for names in dict.fromkeys([*((name,) for name in opened), tuple(inner), tuple(opened)]):
        for least in EXAMPLE_SIZES if names else ():
            try:
                sizes = dict(zip(names, _apart(least), strict=False))
                stages, other = staged(sizes), staged(_others(sizes))
            except OverLimit:
                raise
            except TinyRNNError:
                continue
            if stages.program.kind != other.program.kind:
                continue
            sized = replace(stages, graph=graph)
            return DynamicShapeModel(
                model_of(sized, sizes), shapes, sizes, batches, reason, lambda sizes: model_of(staged(sizes), sizes)
            )
    return None


def _advised(graph: Graph, states: Mapping[str, str] | None, time: Time | None, error: UnsupportedError) -> UnsupportedError:
    """The error, with advice on values of open sizes with which the model runs, if there are any."""
    values = example(graph, states, time)
    return UnsupportedError(f"{error}. {advice(graph, values)}") if values else error


def _ranked(ports: Sequence[UserPort], ranks: Mapping[str, int]) -> tuple[UserPort, ...]:
    """Ports with the rank that they have at other sizes: a frame drops leading axes of length 1 unless their size is open."""
    return tuple(replace(p, shape=(1,) * (ranks[p.name] - len(p.shape)) + p.shape) for p in ports)


def _apart(least: int) -> Iterator[int]:
    """Different sizes from `least` on, odd and even, none a multiple of another."""
    return (least + 6 * k for k in itertools.count())


def _others(sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes near the given ones, each different, so that every number that depends on a size differs."""
    return {name: size + 2 + 5 * place for place, (name, size) in enumerate(sizes.items())}


def layout_of(plan: Plan) -> Layout:
    """The layout of a model for this plan."""
    program = plan.program
    every = {p.name: p for p in (*program.inputs, *program.outputs)}
    state_outputs = tuple(_user(every[n]) for n in program.states.values())
    weights = aligned(len(plan.weights))
    weights[:] = plan.weights
    return Layout(
        name=program.graph.name,
        kind=program.kind,
        inputs=tuple(_user(p) for p in program.visible_inputs),
        outputs=tuple(_user(p) for p in program.visible_outputs),
        state_inputs=tuple(_user(every[n]) for n in program.states),
        state_outputs=state_outputs,
        file_inputs=tuple(p.name for p in program.inputs),
        file_outputs=tuple(dict.fromkeys(p.name for p in (*program.outputs, *program.visible_outputs))),
        state_parts=tuple((p.name, p.offset, p.shape, p.initial.dtype) for p in plan.parts),
        initial_state=plan.initial_state(),
        weights=weights,
        arena_fixed=plan.arena_fixed,
        arena_per_row=plan.arena_per_row,
        chunk=plan.chunk,
        lead=plan.lead,
        waits=tuple(program.waits),
        refuses_stream=program.refuses_stream,
        batches=program.batches,
        multiply_adds=plan.multiply_adds,
        header=PORTS,
        metadata=program.graph.metadata,
        sizes=program.sizes,
    )


def _user(port: Port) -> UserPort:
    return UserPort(port.name, port.frame, port.dtype, port.per_row, port.file_shape, port.roles, port.clock)
