"""RNN, LSTM and GRU of H inputs and H units against onnxruntime, as a Markdown table.

    python bench/cells.py                                   # about half a minute
    python bench/cells.py --cells LSTM --sizes 16,64 --alone

One process, each engine on one thread, interleaved in rounds, medians over the rounds (tinyrnn.bench.table). A step
is one frame from Python with its state carried on (`Stream.step(x)`, `InferenceSession.run` with the states fed
back); a run is 1,000 frames in one call.
"""

from __future__ import annotations

import argparse
import json
import sys

from tinyrnn.bench import CELLS, SIZES, table


def show(done: int, total: int) -> None:
    """Progress, in place, on standard error."""
    print(f"\r{done} of {total} rounds", end="\n" if done == total else "", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(CELLS), help="separated by commas")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="values of H, separated by commas")
    parser.add_argument("--frames", type=int, default=1000, help="of one run")
    parser.add_argument("--alone", action="store_true", help="without onnxruntime")
    parser.add_argument("--json", action="store_true", help="everything measured, as JSON")
    given = parser.parse_args()
    result = table(
        given.cells.split(","),
        [int(n) for n in given.sizes.split(",")],
        versus=None if given.alone else "onnxruntime",
        frames=given.frames,
        progress=show,
    )
    if given.json:
        print(json.dumps(result.as_dict(), indent=2))
        return
    print(f"{result.setting}\n\n{result.markdown()}")


if __name__ == "__main__":
    main()
