"""How RNN, GRU and LSTM become kernel calls: the input's share of the gate sums, then the steps of each direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinyrnn.graph.call import (
    Call,
    Close,
    Lowering,
    Open,
    Operand,
    Rows,
    Scratch,
    SlotIndex,
    SlotStride,
    Slotted,
    Started,
    State,
    Value,
    Weight,
)
from tinyrnn.graph.ir import Node
from tinyrnn.graph.op import Array, Refused
from tinyrnn.graph.storage import Stored, cast, quantises
from tinyrnn.lanes import kernel
from tinyrnn.ops.linear.chain import linear_rows
from tinyrnn.ops.linear.integers import IntegerWeights, parts_of
from tinyrnn.ops.linear.operators import GROUP, linear_call, linear_weights, pack_rest
from tinyrnn.ops.movement.gather import look_up
from tinyrnn.ops.movement.strided_copy import copy_f32
from tinyrnn.ops.recurrent.integer_text import IntegerSums, IntegerTiles, pack_integers
from tinyrnn.ops.recurrent.kernel_text import KEPT, Cell, GateSums, SequenceLayout, kernel_text, takes_input
from tinyrnn.ops.recurrent.operators import TABLE, Recurrent
from tinyrnn.ops.recurrent.packing import Weights, columns, input_bias, pack_extra, pack_state, units
from tinyrnn.ops.recurrent.passes_over_weights import Layer, OnePass, by_rows, found_again, shared_steps, shares, takes_single
from tinyrnn.ops.recurrent.stream_tile import Strides, Tiles, scratch_for_sums, tile_text


@kernel
def begin_f32(y: Any, x: Any, n: int, started: int) -> None:
    """Set y = x in the first call after a reset; later y keeps its value."""
    if started == 0:
        copy_f32(y, x, n)


class LoweredRecurrent(Recurrent):
    """Base of RNN, GRU and LSTM."""

    def lower(self, node: Node, env: Lowering) -> list[Call | Open | Close]:
        given = () if TABLE in node.attributes else node.inputs[:1]
        for name in filter(None, (*given, *node.outputs, *self.starts_from(node))):
            if env.specs[name].dtype != np.float32:
                raise Refused(f"{name!r} is {env.specs[name].dtype}; recurrent kernels take float32")
        calls: list[Call | Open | Close] = [*self._begin(node, env)]
        for direction in range(self._directions(node)):
            calls += self._lower_direction(node, env, direction)
        return [*calls, *self._final_copies(node, env)]

    def _final_copies(self, node: Node, env: Lowering) -> list[Call]:
        """Calls that hand out the last state, where the runtime keeps it."""
        return [
            Call(copy_f32, (Value(name), after, env.specs[name].elements))
            for part, name in zip(self.parts, node.outputs[1:], strict=False)
            if name and isinstance(after := self._after(node, env, part), State)
        ]

    def _initial(self, node: Node, part: str) -> str:
        index = 5 + self.parts.index(part)
        return node.inputs[index] if index < len(node.inputs) else ""

    def _final(self, node: Node, part: str) -> str:
        index = 1 + self.parts.index(part)
        return node.outputs[index] if index < len(node.outputs) else ""

    def _persists(self, node: Node, env: Lowering, part: str) -> bool:
        """Whether the stream keeps this part of the state, unless it is an input and an output of the graph."""
        return bool(node.attributes["rows_are_time"]) and not env.carries(self._initial(node, part), self._final(node, part))

    def _state_elements(self, node: Node) -> int:
        return int(self._directions(node) * node.attributes["batch"] * self._hidden(node))

    def _after(self, node: Node, env: Lowering, part: str) -> Operand:
        """The address to which a part of the state is written."""
        if self._persists(node, env, part):
            initial = env.constants.get(self._initial(node, part))
            size = self._state_elements(node)
            return State(
                f"{node.name}.{part}", np.zeros(size, np.float32) if initial is None else initial.astype(np.float32).ravel()
            )
        name = self._final(node, part)
        return Value(name) if name else Scratch(f"{part}_after", fixed=0, per_row=self._state_elements(node), of=node.inputs[0])

    def _begin(self, node: Node, env: Lowering) -> list[Call]:
        """Calls that set the initial state of all directions after a reset, if it is computed."""
        return [
            Call(begin_f32, (self._after(node, env, part), Value(initial), self._state_elements(node), Started()))
            for part in self.parts
            if self._persists(node, env, part) and (initial := self._initial(node, part)) and initial not in env.constants
        ]

    def _before(self, node: Node, env: Lowering, part: str) -> tuple[Operand, int]:
        """(address from which a part of the state is read, its stride from frame to frame)."""
        initial = self._initial(node, part)
        if self._persists(node, env, part):
            return self._after(node, env, part), 0
        if not initial:
            return Weight(np.zeros(self._state_elements(node), np.float32)), 0
        return Value(initial), env.row_stride(initial)

    def summed(self, node: Node) -> dict[str, tuple[int, ...]]:
        axes: dict[str, tuple[int, ...]] = {"W": (2,), "R": (2,)}
        return axes | {TABLE: (1,)} if TABLE in node.attributes else axes

    def held(self, node: Node, env: Lowering) -> dict[str, Stored]:
        """W and R, and a table if there is one, of all directions."""
        return self.stored(node, env, {name: node.attributes[name] for name in self.summed(node)})

    def quantiser(self, node: Node) -> str:
        """The kernel that makes activations of x and h, or the empty text where they stay float32."""
        return "quantise_int8" if quantises(node.attributes) else ""

    def _weights(self, node: Node, env: Lowering, d: int) -> tuple[Cell, Weights]:
        """The cell of a direction, and its weights."""
        held = self.held(node, env)
        W, R = held["W"], held["R"]
        B, P = (None if node.attributes.get(k) is None else node.attributes[k][d] for k in "BP")
        W_scale, R_scale = (None if each.scale is None else each.scale[d] for each in (W, R))
        weights = Weights(W.values[d], R.values[d], B, P, W_scale, R_scale, held.get(TABLE))
        if quantiser := self.quantiser(node):
            parts = max(parts_of(weights.W), parts_of(weights.R))
            return replace(self.cell(node, d), word="i8", quantiser=quantiser, parts=parts), weights
        return replace(self.cell(node, d), word=R.word, x_each=W.group, h_each=R.group), weights

    def _projected(
        self, node: Node, env: Lowering, cell: Cell, weights: Weights, inside: int
    ) -> tuple[Cell, list[Call], Operand, int]:
        """The cell with what it takes as p; the calls that make that; p, and its elements for each of `inside` steps of a row."""
        source, inputs, table = node.inputs[0], weights.W.shape[1], weights.table
        x: Operand = Value(source)
        calls: list[Call] = []
        if table is not None:
            share = self._integer_share(env, cell, weights) if cell.quantiser else None
            matrix, *rest = self._shared(cell, weights, env.lanes)
            width = matrix.shape[1]
            if not env.small or 4 * len(table.values) * width <= table.nbytes + matrix.size * table.itemsize:
                p = Scratch("p", per_row=inside * width, of=source)
                if share is not None:
                    products = share.rows(table.floats())
                else:
                    products = linear_rows(table.floats(), matrix, pack_rest(width, 1, *rest), cell.x_each)
                return cell, [look_up(env, p, Stored("f32", products), source, Rows(of=source))], p, width
            x = Scratch("x", per_row=inside * inputs, of=source)
            calls = [look_up(env, x, table, source, Rows(of=source))]
        if cell.quantiser:
            if env.lanes == 1 and len(cell.phases) == 1:
                return replace(cell, inputs=inputs), calls, x, inputs
            share, note = self._integer_share(env, cell, weights), f"the input's share of {node.op} {node.name}"
            width = share.q.shape[1]
            p, stride = Scratch("p", per_row=inside * width, of=source), inputs if inside > 1 or env.per_row(source) else 0
            return cell, [*calls, share.call(env, p, x, Rows(of=source, times=inside), stride, source, note)], p, width
        if takes_input(cell.gates, inputs, cell.H, env.lanes):
            return replace(cell, inputs=inputs), calls, x, inputs
        matrix, *rest = self._shared(cell, weights, env.lanes)
        width = matrix.shape[1]
        p = Scratch("p", per_row=inside * width, of=source)
        stride = inputs if inside > 1 or env.per_row(source) else 0
        each = (cell.x_each,) if cell.x_each else ()
        call = linear_call(
            env,
            cell.word,
            (p, x, *linear_weights(env, matrix, cell.word, *rest), Rows(of=source, times=inside), stride, inputs, width, *each),
            f"the input's share of {node.op} {node.name}",
        )
        return cell, [*calls, call], p, width

    @staticmethod
    def _shared(cell: Cell, weights: Weights, lanes: int) -> tuple[Array, Array, Array | None, Array | None]:
        """(W as a matrix [I, columns], then what `pack_rest` takes: bias, scale, the units in which sums are left)."""
        matrix, bias = columns(cell, weights.W, lanes).T, columns(cell, input_bias(cell, weights.B), lanes)
        if weights.W_scale is None:
            return matrix, bias, None, None
        return matrix, bias, columns(cell, weights.W_scale, lanes), columns(cell, units(cell, weights), lanes)

    @staticmethod
    def _integer_share(env: Lowering, cell: Cell, weights: Weights) -> IntegerWeights:
        """As `_shared`, of int8."""
        assert weights.W_scale is not None
        matrix, scale = columns(cell, weights.W, env.lanes).T, columns(cell, weights.W_scale[:, 0], env.lanes)
        bias = columns(cell, input_bias(cell, weights.B), env.lanes)
        return IntegerWeights(matrix, scale, bias, cell.quantiser, cell.parts)

    def lower_streams(self, node: Node, env: Lowering) -> list[Call] | None:
        attributes = node.attributes
        one_step = attributes["rows_are_time"] or attributes["steps"] == 1
        lengths = len(node.inputs) > 4 and node.inputs[4]
        if not one_step or attributes["batch"] != 1 or self._directions(node) > 1 or lengths:
            return None
        given, own = self._weights(node, env, 0)
        x, y = node.inputs[0], node.outputs[0]
        cell, projected, p, width = self._projected(node, env, given, own, 1)
        H, inputs = cell.H, 0
        shared: Sequence[Operand] = (0, 0)
        totals: Operand = 0
        if projected and cell.gates == GROUP and env.lanes > 1 and TABLE not in attributes:  # the sums take x as they take h
            inputs = width = own.W.shape[1]
            if not cell.quantiser:
                matrix, *rest = self._shared(cell, own, env.lanes)
                shared = linear_weights(env, matrix, cell.word, *rest)
            projected, p = [], Value(x)
        if cell.quantiser and (inputs := inputs or cell.inputs):
            *shared, totals = self._integer_operands(env, cell, own)
        where: Operand = Value(y) if y else Scratch("y", per_row=H, of=x)
        places = [place for part in ("h", "c") for place in self._slots(node, env, part if part in self.parts else "h")]
        copies = not self._persists(node, env, self.parts[-1])
        gate_sums = self._gate_sums(env, cell)
        tiles, more = Tiles(gate_sums, Strides(H, width), inputs), tuple[Operand, ...]()
        if isinstance(gate_sums, IntegerSums):
            tiles = IntegerTiles(gate_sums, Strides(H, width), inputs)
            more = (self._sums_of_R(gate_sums, own), totals, Scratch("quantised", per_row=tiles.room, of=x))
        kernel_of = tile_text(tiles, copies)
        packed = self._packed(gate_sums, own)
        applied = Scratch("applied", per_row=2 * H if len(cell.phases) > 1 else 1, of=x)
        sums = Scratch("sums", fixed=scratch_for_sums(env.lanes))
        rows = [
            operand for place in places for operand in (SlotIndex(place), SlotStride(place, self._row_elements(place, env, H)))
        ]
        note = f"{node.op} {node.name}, H = {H}, a tile of streams"
        calls = [*self._begin(node, env), *projected]
        calls.append(Call(kernel_of, (where, p, *shared, *packed, *places, applied, sums, *rows, Rows(of=x), *more), note))
        return [*calls, *self._final_copies(node, env)]

    @staticmethod
    def _gate_sums(env: Lowering, cell: Cell) -> GateSums:
        if cell.quantiser:
            return IntegerSums(cell, env.lanes, env.registers, env.dot)
        return GateSums(cell, env.lanes, env.registers)

    @staticmethod
    def _sums_of_R(sums: IntegerSums, weights: Weights) -> Operand:
        packed = pack_integers(sums, weights.R)
        return Weight(packed) if packed.size else 0

    def _integer_operands(self, env: Lowering, cell: Cell, weights: Weights) -> tuple[Operand, Operand, Operand]:
        """W and what goes with it, for a kernel of int8 that takes x."""
        integers = self._integer_share(env, cell, weights)
        return *integers.packed(env), integers.together(env)

    @staticmethod
    def _packed(sums: GateSums, weights: Weights) -> tuple[Weight, Weight]:
        """What the kernel takes as r and e."""
        matrices = cast(sums.cell.word, pack_state(sums, weights))
        return Weight(matrices), Weight(pack_extra(sums.cell, weights, sums.lanes))

    def _slots(self, node: Node, env: Lowering, part: str) -> tuple[Slotted, Slotted]:
        """Where a part of the state is read and where it is written."""
        before, after = self._before(node, env, part)[0], self._after(node, env, part)
        assert isinstance(before, Slotted) and isinstance(after, Slotted)
        return before, after

    @staticmethod
    def _row_elements(place: Slotted, env: Lowering, H: int) -> int:
        """Elements from one stream's row of what is no state to the next."""
        return 0 if isinstance(place, Weight) else env.row_stride(place.name) if isinstance(place, Value) else H

    def _lower_direction(self, node: Node, env: Lowering, d: int) -> list[Call | Open | Close]:
        cell, weights = self._weights(node, env, d)
        attributes = node.attributes
        layout = self.attribute(node, "layout")
        N, D, H = attributes["batch"], self._directions(node), cell.H
        L = 0 if attributes["rows_are_time"] else attributes["steps"]
        x, y = node.inputs[0], node.outputs[0]
        inside = (L or 1) * N
        cell, calls, p, width = self._projected(node, env, cell, weights, inside)
        if layout:
            y_step, y_batch, y_direction, p_step, p_batch = (D * H, (L or 1) * D * H, H, 1, L or 1)
            state_batch, state_direction = D * H, H
        else:
            y_step, y_batch, y_direction, p_step, p_batch = (D * N * H, H, N * H, N, 1)
            state_batch, state_direction = H, N * H
        frame = inside * D * H
        if not L:
            y_step, p_step = frame, N
        h_before, h_frame = self._before(node, env, "h")
        lens = node.inputs[4] if len(node.inputs) > 4 else ""
        layout = SequenceLayout(
            N,
            L,
            y_step,
            y_batch,
            frame,
            p_step * width,
            p_batch * width,
            inside * width,
            backward=attributes.get("direction") == "reverse" or d == 1,
            lengths=bool(lens),
            before_frame=h_frame,
            after_frame=self._state_elements(node),
            state_batch=state_batch,
        )
        h_after = self._after(node, env, "h")
        c_before, c_after = h_before, h_after
        if "c" in self.parts:
            c_before, c_frame = self._before(node, env, "c")
            c_after = self._after(node, env, "c")
            layout = replace(layout, c_before_frame=c_frame)
        where: Operand = Value(y, d * y_direction) if y else Scratch("y", per_row=frame, offset=d * y_direction, of=x)
        kept: tuple[Operand, ...] = ()
        if self.traced(node):
            cell, kept = replace(cell, traced=True), (Value(self.traced(node), d * y_direction * len(KEPT[self.kind])),)

        def part(operand: Operand) -> Operand:
            return replace(operand, offset=d * state_direction)  # type: ignore[arg-type, type-var]

        gate_sums = self._gate_sums(env, cell)
        one_sequence = L <= 1 and N * D == 1 and not kept
        inputs = weights.W.shape[1]
        again = found_again(cell, env, inputs)
        single = one_sequence and bool(calls) and TABLE not in attributes and takes_single(cell, env.lanes)
        if single:
            gate_sums = OnePass(cell, env.lanes, env.registers, inputs, again)
        places = tuple(map(part, (h_before, h_after, c_before, c_after)))
        layer = Layer(x, where, self._packed(gate_sums, weights), places, calls, p, f"{node.op} {node.name}, H = {H}")
        shared = one_sequence and not lens and not layout.backward and shares(cell, env, inputs)
        if shared and not L:
            return shared_steps(gate_sums, layer, Value(x), again)
        room, more = 0, tuple[Operand, ...]()
        if isinstance(gate_sums, IntegerSums):
            room = gate_sums.room
            more = (self._sums_of_R(gate_sums, weights), *(self._integer_operands(env, cell, weights) if cell.inputs else ()))
        rest = (*layer.packed, *places, Scratch("s", fixed=2 * H + room), Value(lens) if lens else 0, Rows(of=x), *kept)
        text = kernel_text(gate_sums, layout)
        if not single:
            many: list[Call | Open | Close] = [*calls, Call(text, (where, p, *rest, *more), layer.note)]
            return by_rows(layer, shared_steps(gate_sums, layer, Value(x), again, True), many) if shared else many
        (matrix, bias), turn = layer.weights, Scratch("turn", fixed=1, lasting=True) if again else 0
        one: Sequence[Call | Open | Close] = [Call(text, (where, bias, *rest, matrix, Value(x), turn), layer.note)]
        if shared:
            one = shared_steps(gate_sums, layer, Value(x), again, True)
        return by_rows(layer, one, [*calls, Call(text, (where, p, *rest, matrix, 0, turn), layer.note)])
