"""NAME.mjs and NAME.html (to come)."""
from __future__ import annotations
from typing import Any
def module_file(face: Any, manifest: Any) -> str: return ""
def page_file(face: Any, manifest: Any, wasm: bytes) -> str: return ""
