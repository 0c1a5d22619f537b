"""`build`: a model as native code for a machine that has neither Python nor a compiler.

The plan is made for the target's lanes, the page compiled in a process of its own (`tinyrnn.targets.worker`), and written
beside a C header, a Python file, and a self-test.
"""

from __future__ import annotations

from tinyrnn.native.builder import Built, build

__all__ = ["Built", "build"]
