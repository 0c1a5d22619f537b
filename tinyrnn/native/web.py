"""NAME.mjs and NAME.html: the JavaScript interface of a WebAssembly module, and a web page that runs it without a server."""

from __future__ import annotations

import base64
import html
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tinyrnn.native.interface import Argument, Interface

HERE = Path(__file__).parent


def _port(argument: Argument, tail: int) -> dict[str, Any]:
    port = argument.port
    return {
        "name": port.name,
        "shape": list(port.shape),
        "size": port.size,
        "dtype": port.dtype.name,
        "per_frame": port.per_frame,
        "rate": argument.rate,
        "tail": tail,
    }


def module_file(face: Interface, library: str) -> str:
    """The text of NAME.mjs, for Node, browsers and bundlers."""
    described = {
        "name": face.name,
        "library": library,
        "weights": f"{face.name}.weights" if face.weights_header else "",
        "inputs": [_port(a, 0) for a in face.inputs],
        "outputs": [_port(a, tail) for a, tail in zip(face.outputs, face.tail, strict=True)],
        "state_floats": max(face.state_floats, 1),
        "arena_bytes": max(face.arena_bytes, 1),
        "lead": face.lead if face.counted else 0,
        "counted": face.counted,
        "most": 0 if face.streams else face.rows,
        "functions": [f"{face.name}_{f}" for f in face.all_functions],
        **({"pool": asdict(face.pool)} if face.pool else {}),
    }
    head = f"""// {face.name}: a recurrent model as WebAssembly. MIT licence.
//
// import {{ load }} from "./{face.name}.mjs";
// const model = await load();
// const stream = model.stream();
// const y = stream.step(x);          // one frame; run(xs): many; reset, state, fork, flush
// model.selftest();                  // true where this engine gives the bits that were built in
"""
    if face.pool:
        head += """// const pool = model.pool(1000);
// const ys = pool.step([7, 3], xs);  // one frame of the streams in slots 7 and 3; state, restore, reset
"""
    parts = [(HERE / file).read_text(encoding="utf-8") for file in ("model.mjs", *(["pool.mjs"] if face.pool else []))]
    return f"{head}export const MODEL = {json.dumps(described, sort_keys=True)};\n{''.join(parts)}"


def page_file(face: Interface, module: str, wasm: bytes, weights: bytes) -> str:
    """The text of NAME.html, which contains module and code, so that it also runs from a file."""
    ports = ", ".join(f"{a.port.dtype}{list(a.port.shape)}" for a in face.inputs)
    results = ", ".join(f"{a.port.dtype}{list(a.port.shape)}" for a in face.outputs)
    text = (HERE / "page.html").read_text(encoding="utf-8")
    values = {
        "TITLE": html.escape(face.model),
        "DESCRIPTION": html.escape(f"A recurrent model in this browser: {ports} in, {results} out, a frame at a time."),
        "MODULE": module.replace("</", "<\\/"),
        '"WASM"': f'"{base64.b64encode(wasm).decode()}"',
        '"WEIGHTS"': f'"{base64.b64encode(weights).decode()}"',
    }
    return re.sub("|".join(values), lambda match: values[match.group()], text)
