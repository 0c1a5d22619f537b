"""Tables as loggers and spreadsheets write them, and a model run over their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from tinyrnn.check import within
from tinyrnn.cli import main
from tinyrnn.data.table import read_table
from tinyrnn.errors import LoadError

WANTED = [[1.5, -2.25, 3], [4, 5.5, 1006]]


def table(tmp_path: Path, text: str | bytes, **how: Any) -> Any:
    path = tmp_path / "log.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(path, **how)


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("timestamp,a,b,c\n2024-03-01 12:00:00,1.5,-2.25,3\n2024-03-01 12:00:01,4,5.5,1006\n", ["timestamp"]),
        ("2024-03-01T12:00:00.250Z,1.5,-2.25,3\n2024-03-01T12:00:01+01:00,4,5.5,1006", ["1"]),
        ("a,b,date,time,c\r\n1.5,-2.25,2024-03-01,12:00:00,3\r\n4,5.5,2024-03-01,12:00,1006\r\n\r\n", ["date", "time"]),
        ("Zeit;Temp;Druck;Höhe\r\n01.03.2024 12:00;1,5;-2,25;3\r\n01.03.2024 12:01;4;5,5;1.006,0\r\n", ["Zeit"]),
        ("sep=;\r\nTemp;Druck;Höhe\r\n1,5;-2,25;3\r\n4;5,5;1006\r\n", []),
        ("\ufeffTemp;Druck;Höhe\n1,5;-2,25;3\n4;5,5;1006", []),
        ("a\tb\tc\n1,5\t-2,25\t3\n4\t5,5\t1006\n", []),
        ("1,5 -2,25 3\n4 5,5 1006\n", []),
        ("1.5 -2.25   3\n4 5.5 1006\n", []),
        ("1.5, -2.25, 3\n4, 5.5, 1006\n", []),
        ("1.5,-2.25,3,\n4,5.5,1006,\n", []),
        ('"time","x, in m","y","z"\n"12:00:01","1.5","-2.25","3"\n"12:00:02","4","5.5","1006"\n', ["time"]),
        ('a,b,c\n"1,5","-2,25",3\n4,"5,5",1006\n', []),
        ("a,b,c\n[s],[°C],[Pa]\n1.5,-2.25,3\n4,5.5,1006\n", []),
        ("when,a,b,c\n3/1/2024 1:05:00 PM,1.5,-2.25,3\n3/1/2024 1:06:00 PM,4,5.5,1006\n", ["when"]),
    ],
)
def test_tables_of_many_hands(text: str, times: list[str], tmp_path: Path) -> None:
    found = table(tmp_path, text)
    np.testing.assert_array_equal(found.values, WANTED)
    assert found.times == times


def test_tables_of_other_encodings_and_one_column(tmp_path: Path) -> None:
    np.testing.assert_array_equal(table(tmp_path, "Höhe;Länge\n1,5;2\n".encode("cp1252")).values, [[1.5, 2]])
    np.testing.assert_array_equal(table(tmp_path, "temp\n1,5\n2,5\n").values, [[1.5], [2.5]])
    np.testing.assert_array_equal(table(tmp_path, "1,5\n2,5\n").values, [[1, 5], [2, 5]])
    found = table(tmp_path, "epoch,a\n1709294400,1\n1709294401,2\n")
    assert found.epochs == [0] and found.names == ["epoch", "a"]
    assert table(tmp_path, "time,a\n0.1,1\n0.2,2\n").epochs == []
    found = table(tmp_path, "a,state,b\n1,on,2\n3,off,4\n", drop=("state",))
    np.testing.assert_array_equal(found.values, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(table(tmp_path, "a,b\n1,2\n", drop=("1",)).values, [[2]])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("t,a\n1,2\n\n3,\n", "line 4, column 'a': '': a value is missing"),
        ("a,b\n1,2\nNA,3\n", "line 3, column 'a': 'NA': a value is missing"),
        ("a,state\n1,on\n", "line 2, column 'state': 'on' is no number; leave the column out with --drop state"),
        ("1,2\n3,x\n", "line 2, column 2: 'x' is no number"),
        ("a,b\n1,2\n3\n", "line 3 has 1 cells, line 2 has 2"),
        ("a;b\n1,5;2.5\n", "decimal commas and points in one table: line 2, column 'a': '1,5', and line 2, column 'b': '2.5'"),
        ("a;b\n1,5;2.500\n", "decimal commas and points"),
        ("d,t\n2024-01-01,12:00\n", "no column of numbers"),
        ("a,b\n", "no line of numbers"),
    ],
)
def test_what_is_no_number_is_named(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError) as caught:
        table(tmp_path, text)
    assert says in str(caught.value) and "log.csv: " in str(caught.value)
    with pytest.raises(LoadError, match="no column 'c' to drop; it has 'a', 'b'"):
        table(tmp_path, "a,b\n1,2\n", drop=("c",))


# ---------------------------------------------------------------- windows


def forecaster(path: Path, shape: list[Any], recurrent: bool) -> None:
    """A window of 6 rows of 2 → 3 numbers."""
    rng = np.random.default_rng(5)

    def constant(name: str, *size: int) -> Any:
        return numpy_helper.from_array(rng.normal(size=size).astype(np.float32) / 2, name)

    if recurrent:
        weights = [constant("W", 1, 12, 2), constant("R", 1, 12, 3), numpy_helper.from_array(np.array([0], np.int64), "axis")]
        nodes = [
            helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            helper.make_node("LSTM", ["t", "W", "R"], ["", "h"], hidden_size=3),
            helper.make_node("Squeeze", ["h", "axis"], ["y"]),
        ]
    else:
        weights = [constant("A", 12, 3)]
        nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "A"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def run(*arguments: Any, status: int = 0) -> Any:
    result = CliRunner().invoke(main, ["run", *map(str, arguments)])
    assert result.exit_code == status, (result.output, result.exception)
    return result


@pytest.mark.parametrize(
    ("shape", "recurrent"), [([1, 6, 2], False), ([1, 2, 6], False), ([1, 6, 2], True), ([1, "T", 2], True)], ids=str
)
def test_a_window_slides_over_the_rows(shape: list[Any], recurrent: bool, tmp_path: Path) -> None:
    model, data, out = tmp_path / "m.onnx", tmp_path / "in.csv", tmp_path / "out.csv"
    forecaster(model, shape, recurrent)
    rows = np.random.default_rng(1).normal(size=(20, 2)).astype(np.float32)
    data.write_text("time;a;b\n" + "".join(f"12:00:{i:02};{a:.9g};{b:.9g}\n".replace(".", ",") for i, (a, b) in enumerate(rows)))
    session = onnxruntime.InferenceSession(model)
    wanted = [session.run(None, {"x": (w.T if shape[1] == 2 else w)[None]})[0][0] for w in (rows[i : i + 6] for i in range(15))]
    window = ["--window", 6] if "T" in shape else ["--window"]
    done = run(model, data, "-o", out, *window)
    assert done.stdout.startswith("15 windows in") and "column 'time' holds dates or times and is left out" in done.stderr
    assert within("close", np.loadtxt(out, np.float32, delimiter=","), np.array(wanted))
    np.save(tmp_path / "in.npy", rows)
    run(model, tmp_path / "in.npy", "-o", tmp_path / "out.npy", *window)
    assert within("close", np.load(tmp_path / "out.npy"), np.array(wanted))
    assert ("--window N" if "T" in shape else "the file says 6 rows") in run(
        model, data, "-o", out, "--window", *([] if "T" in shape else [5]), status=1
    ).stderr
    if "T" in shape:
        assert "a window has 50 rows, there are 20" in run(model, data, "-o", out, "--window", 50, status=1).stderr
    if recurrent:
        assert "20 frames gave one y" in run(model, data, "-o", out).stderr
    elif shape[1] == 6:
        assert "--window slides a window of 6 rows" in run(model, data, "-o", out, status=1).stderr
        np.savetxt(data, rows[:6], "%.9g", ",")
        run(model, data, "-o", out, "--whole")
        assert within("close", np.loadtxt(out, np.float32, delimiter=","), wanted[0])
    assert "names are for sound" in run(model, data, "-o", out, "--window", "hann", status=2).stderr


def test_epochs_are_left_out_and_missing_values_refused(tmp_path: Path) -> None:
    model, data, out = tmp_path / "m.onnx", tmp_path / "in.csv", tmp_path / "out.csv"
    forecaster(model, [1, "T", 2], True)
    data.write_text("timestamp,a,b\n" + "".join(f"{1709294400 + i},{i / 7},{-i / 9}\n" for i in range(8)))
    assert "column 'timestamp' holds dates or times" in run(model, data, "-o", out).stderr
    data.write_text("a,b\n1,2\n3,nan\n")
    assert "line 3: a value is missing (NaN)" in run(model, data, "-o", out, status=1).stderr
