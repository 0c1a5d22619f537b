"""Real models against onnxruntime: a step, a whole run, and loading, as a Markdown table.

    python bench/models.py [--models FOLDER] [--seconds 3] [--json]

FOLDER has the files of DTLN, silero, GTCRN, Hallway and g2p (default: ../shared/models beside this project); what is not there is
named and skipped. char_lm comes with the package. For every model onnxruntime computes the same outputs: where only
some are kept (Hallway: its memory; its sampled actions are random), it gets the file without the others and what
only they need.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tinyrnn
from tinyrnn.bench import Result, bench
from tinyrnn.data.text import markdown

PROJECT = Path(__file__).resolve().parents[1]
PACKAGED = Path(tinyrnn.__file__).parent / "models"


@dataclass(frozen=True)
class Case:
    name: str
    file: str
    options: dict[str, Any] = field(default_factory=dict)
    packaged: bool = False


CASES = (
    Case("DTLN 1", "dtln_model_1.onnx", {"rate": 125}),
    Case("DTLN 2", "dtln_model_2.onnx", {"rate": 125}),
    Case("silero VAD", "silero_vad_16k_op15.onnx", {"bind": {"sr": 16000, "sequence": 576}, "rate": 31.25}),
    Case("GTCRN", "gtcrn_simple.onnx", {"rate": 62.5}),
    Case("Hallway", "mlagents_hallway.onnx", {"outputs": ["recurrent_out"]}),
    Case("g2p decoder", "g2p_id_decoder.onnx"),
    Case("char_lm", "char_lm.onnx", packaged=True),
)


def row(name: str, result: Result) -> list[str]:
    """One line of the table; bench() was asked for the peer and for loading, so both are there."""
    peer, latency, loading = result.versus, result.latency, result.loading
    assert peer and latency and loading and result.step and peer.step
    return [
        name,
        f"{result.step:.1f}",
        f"{latency.p99:.1f}",
        f"{peer.step:.1f}",
        f"{peer.step_ratio:.1f}",
        f"{result.run:.2f}",
        f"{peer.run:.2f}",
        f"{peer.run_ratio:.1f}",
        f"{loading.cold_s:.1f}",
        f"{loading.cached_s:.2f}",
        f"{peer.difference:.0e}",
    ]


HEAD = [
    "model",
    "step µs",
    "p99 µs",
    "onnxruntime step µs",
    "times faster",
    "run µs/frame",
    "onnxruntime run µs/frame",
    "times faster",
    "first load s",
    "cached load s",
    "largest difference",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=PROJECT.parent / "shared" / "models", metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing for each model, roughly")
    parser.add_argument("--json", action="store_true", help="everything measured, as JSON")
    given = parser.parse_args()
    results: list[tuple[str, Result]] = []
    for case in CASES:
        path = (PACKAGED if case.packaged else given.models) / case.file
        if not path.is_file():
            print(f"skipped {case.name}: no {path}", file=sys.stderr)
            continue
        print(f"measuring {case.name}", file=sys.stderr)
        results.append((case.name, bench(path, seconds=given.seconds, versus="onnxruntime", **case.options)))
    if given.json:
        print(json.dumps({name: result.as_dict() for name, result in results}, indent=2))
        return
    if not results:
        sys.exit("nothing was measured")
    imported = sorted(r.loading.import_ms for _, r in results if r.loading)
    print(f"{results[0][1].setting}\n\n`import tinyrnn` {imported[len(imported) // 2]:.0f} ms\n")
    print(markdown([HEAD, *(row(name, result) for name, result in results)]))


if __name__ == "__main__":
    main()
