"""`check` with streams: many of them in one pool, and batches, are held against lone ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import tinyrnn
from tests import MODELS
from tinyrnn.check import check, check_model
from tinyrnn.check.samples import random_sample
from tinyrnn.check.streams import Company
from tinyrnn.cli import main
from tinyrnn.errors import ShapeError
from tinyrnn.runtime import Model, Pool

POOLED = "5 streams in a pool"
BATCHED = "Model.run of 5 sequences"
OURS = {
    "cell_lstm_dynB_legacy": {POOLED, BATCHED},
    "packed_state_lstm_step_legacy": {POOLED},
    "lstm_l2_uni_sf_states_dynT_dynB_legacy": {POOLED, BATCHED},
    "classify_lstm_last_dynT_legacy": {POOLED},
    "architectures/lookahead_open_dynamo": {POOLED},
    "architectures/stridelstm_open_dynamo": {POOLED},
    "gru_l3_bi_bf_final_dynT_dynB_legacy": {BATCHED},
}


def ours(name: str) -> Path:
    return MODELS / f"{name}.onnx"


@pytest.mark.parametrize("name", OURS)
def test_streams_in_a_pool_and_sequences_of_a_batch(name: str) -> None:
    report = check(ours(name), frames=30, chunks=(7,), streams=5)
    assert report.passed, str(report)
    assert {way for way in report.invariance if "5" in way} == OURS[name]
    ways = {row.way for row in report.rows}
    assert (POOLED in ways) == (POOLED in OURS[name])  # against onnxruntime
    assert any("5 sequences" in way for way in ways) == (BATCHED in OURS[name])
    if POOLED not in OURS[name]:
        assert any("not in a pool of 5 streams, it cannot stream: node '" in note for note in report.notes)
    if BATCHED not in OURS[name]:
        assert "the file fixes its batch axis at 1: no Model.run over a batch of 5" in report.notes


def test_all_sequences_of_the_data_are_in_the_pool() -> None:
    path = ours("lstm_l2_uni_sf_states_dynT_dynB_legacy")
    model = tinyrnn.load(path)
    data = np.random.default_rng(0).standard_normal((9, 3, *model.inputs[0].shape)).astype(np.float32)
    report = check(path, data={model.inputs[0].name: data}, streams=2)
    assert report.passed and report.sequences == 3
    assert "3 streams in a pool" in report.invariance


def test_streams_begin_at_different_times_and_have_different_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[int], list[int]]] = []
    run = Pool.run

    def seen(self: Pool, *inputs: Any, **named: Any) -> Any:
        calls.append((list(named["which"]), list(named["lengths"])))
        return run(self, *inputs, **named)

    monkeypatch.setattr(Pool, "run", seen)
    model = tinyrnn.load(ours("packed_state_lstm_step_legacy"))
    ticks: list[int] = []
    company = Company(model, random_sample(model, 60), 9, 0, ticks.append)
    assert not company.differing and sum(ticks) == 60
    assert len({slot for which, _ in calls for slot in which}) > 5
    assert any(which != sorted(which) for which, _ in calls) and any(len(set(lengths)) > 1 for _, lengths in calls)
    assert len({member.end for member in company.members.values()}) > 3


@pytest.mark.parametrize("wrong", ["outputs", "states"])
def test_a_pool_with_other_bits_fails(wrong: str) -> None:
    class Mixed(Pool):
        """Its streams are not apart."""

        def step(self, *inputs: Any, **named: Any) -> Any:
            made = super().step(*inputs, **named)
            if wrong == "outputs":
                return np.nextafter(made, np.float32(2))
            self.state[0] += 1e-3
            return made

    class Tampered(Model):
        def pool(self, slots: int, threads: int = 1) -> Pool:
            return Mixed(self, slots, threads)

    path = ours("packed_state_lstm_step_legacy")
    model = tinyrnn.load(path)
    report = check_model(Tampered(model._layout, model._code, model._source), path, frames=30, chunks=(7,), streams=5)
    assert not report.passed
    assert set(report.invariance[POOLED]) >= ({"y"} if wrong == "outputs" else {"state"})
    assert f"FAILED chunk invariance: {POOLED} has other bits in" in str(report)
    assert not any(names for way, names in report.invariance.items() if way != POOLED)


def test_a_batch_whose_entries_are_not_apart_fails() -> None:
    class Mixed(Model):
        def run(self, *inputs: Any, **named: Any) -> Any:
            made = super().run(*inputs, **named)
            return made._replace(**{made._fields[0]: made[0] + np.float32(1e-7) * (made[0].shape[0] - 1)})

    path = ours("cell_lstm_dynB_legacy")
    model = tinyrnn.load(path)
    report = check_model(Mixed(model._layout, model._code, model._source), path, frames=12, chunks=(7,), streams=5)
    assert report.invariance[BATCHED] and not report.passed


def test_on_the_command_line() -> None:
    path = str(ours("cell_lstm_dynB_legacy"))
    result = CliRunner().invoke(main, ["check", path, "--streams", "5", "--frames", "12", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["invariance"][POOLED] == []
    assert CliRunner().invoke(main, ["check", path, "--streams", "0"]).exit_code == 2
    with pytest.raises(ShapeError, match="streams=0"):
        check(path, streams=0)
