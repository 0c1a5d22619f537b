"""One process in which changed models are loaded and compared: python -m tests.whole.fuzz_worker < lines of "base<TAB>seed".

Says in one line of JSON for each what loading gave, then in another how it compares with onnxruntime, which may crash.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import tinyrnn
from tests.driving import in_onnxruntime, whole
from tests.whole.mutations import base, mutated
from tinyrnn.check.tolerances import difference, within

Array = np.ndarray[Any, Any]
LARGEST_INPUT = 1 << 16
"""elements of an input up to which a model is run"""
FRAMES = 5


def changed(name: str, seed: str) -> bytes:
    """The file of a changed model."""
    proto = mutated(base(name), random.Random(f"{name} {seed}"))
    return proto.SerializeToString() or b"x"


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def inputs_of(proto: onnx.ModelProto, model: tinyrnn.Model, rng: np.random.Generator) -> dict[str, Array] | None:
    """Arrays for every input, open sizes the same wherever they have one name; None where they would be large."""
    sizes: dict[str, int] = {}
    given: dict[str, Array] = {}
    ports = {p.name: p for p in (*model._layout.inputs, *model._layout.state_inputs)}
    for value in proto.graph.input:
        if value.name not in ports:
            continue
        dims = value.type.tensor_type.shape.dim
        shape = [d.dim_value or sizes.setdefault(d.dim_param, 1 if d.dim_param in ("N", "B") else FRAMES) for d in dims]
        if np.prod(shape, dtype=float) > LARGEST_INPUT:
            return None
        dtype = ports[value.name].dtype
        numbers = rng.uniform(-1, 1, shape) if dtype.kind not in "iub" else rng.integers(0, 2, shape)
        given[value.name] = np.asarray(numbers).astype(dtype)
    return given


def compared(proto: onnx.ModelProto, model: tinyrnn.Model) -> tuple[str, bool]:
    """What is different from onnxruntime, empty where nothing is, and whether both ran."""
    given = inputs_of(proto, model, np.random.default_rng(1))
    if given is None:
        return "", False
    try:
        mine = whole(model, given)
    except tinyrnn.TinyRNNError:
        return "", False
    say(ran=True)
    try:
        theirs = in_onnxruntime(proto, given)
    except Exception:
        return "", False
    for name, array in theirs.items():
        own = mine[name]
        if own.shape != array.shape or own.dtype != array.dtype:
            return f"{name}: {own.dtype}{list(own.shape)}, onnxruntime {array.dtype}{list(array.shape)}", True
        if not within("close", own, array):
            return f"{name}: {difference(own, array)}", True
    return "", True


def fault(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"fault: {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"


def main() -> None:
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    for line in sys.stdin:
        name, seed = line.rstrip("\n").split("\t")
        data, model, text = changed(name, seed), None, ""
        start = time.thread_time()
        try:
            model = tinyrnn.load(data)
        except tinyrnn.TinyRNNError as error:
            text = f"{type(error).__name__}: {error}"
        except Exception as error:
            text = fault(error)
        say(loaded=text, seconds=time.thread_time() - start, peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
        try:
            differs, same = compared(onnx.load_from_string(data), model) if model is not None else ("", False)
        except Exception as error:
            differs, same = fault(error), False
        say(differs=differs, same=same and not differs)


if __name__ == "__main__":
    main()
