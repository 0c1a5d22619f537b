"""Pages as PTX, the assembly language of NVIDIA's drivers: one warp runs the page, and every Vec is a value of its threads.

LLVM's back end writes the text; a driver turns it into machine code where it runs. Nothing of NVIDIA's is needed here.
"""

from __future__ import annotations

import re

from tinyrnn.compile.codegen import Source
from tinyrnn.compile.device_page import ENTRY
from tinyrnn.targets import cache
from tinyrnn.targets.keys import key_of
from tinyrnn.targets.machine import Machine
from tinyrnn.targets.worker import Unit, compile_for

MACHINE = Machine("nvptx64-nvidia-cuda", "sm_70", "+ptx70", lanes=32, registers=64)
"""every GPU since Volta, whose threads have counters of their own; drivers translate for newer ones"""
_LAUNCH = """
declare i32 @llvm.nvvm.read.ptx.sreg.tid.y()
declare i32 @llvm.nvvm.read.ptx.sreg.ntid.y()
declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.nctaid.x()
declare i64 @page.ENTRY(i64, i64, i64)
define ptx_kernel void @ENTRY(i64 %parameters) {
  %warp = call i32 @llvm.nvvm.read.ptx.sreg.tid.y()
  %warps = call i32 @llvm.nvvm.read.ptx.sreg.ntid.y()
  %block = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
  %blocks = call i32 @llvm.nvvm.read.ptx.sreg.nctaid.x()
  %before = mul i32 %block, %warps
  %number = add i32 %before, %warp
  %first = zext i32 %number to i64
  %total = mul i32 %blocks, %warps
  %all = zext i32 %total to i64
  %status = call i64 @page.ENTRY(i64 %parameters, i64 %first, i64 %all)
  ret void
}
"""
_CALL = """
declare i64 @page.run(i64, i64)
define ptx_kernel void @call(i64 %context, i64 %frames, i64 %answer) {
  %status = call i64 @page.run(i64 %context, i64 %frames)
  %place = inttoptr i64 %answer to ptr addrspace(1)
  store i64 %status, ptr addrspace(1) %place, align 8
  ret void
}
"""
_REPEATED = re.compile(r"(bar\.warp\.sync\s+-1;\s*)(?:bar\.warp\.sync\s+-1;\s*)+")


def ptx_of(source: Source) -> str:
    """The PTX of a page of `tinyrnn.compile.device_page`: a kernel `ENTRY` of the parameters. Raises `TargetError`."""
    return _compiled(source, {f"page.{ENTRY}": source.entries[ENTRY]}, ENTRY, _LAUNCH.replace("ENTRY", ENTRY))


def call_ptx(source: Source) -> tuple[str, str]:
    """(PTX, name of its kernel) of a page for one stream: the kernel takes the context, frames, and an address for the status."""
    return _compiled(source, {"page.run": source.entries["run"]}, "call", _CALL), "call"


def _compiled(source: Source, functions: dict[str, int], kernel: str, launch: str) -> str:
    """A module from the cache, or newly compiled."""
    name = f"{key_of(MACHINE, source.text, launch)}.ptx"
    found = cache.read(name)
    if found is not None:
        return found.decode()
    (made,) = compile_for(MACHINE, [Unit("model", source.text, functions, launch, [kernel])])
    text = _REPEATED.sub(r"\1", made.data.decode())
    cache.write(name, text.encode())
    return text
