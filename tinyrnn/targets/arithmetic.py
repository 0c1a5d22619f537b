"""LLVM text for arithmetic without an instruction on a machine, where LLVM would call a library, or round twice.

`fma` is either exact, by float64, or split into a product and a sum. Rounding and the division of int64 are
defined here, so that objects for small processors need no libgcc.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tinyrnn.targets import thumb
from tinyrnn.targets.machine import Machine

_DECLARED = re.compile(r"^declare .*@llvm\.(fma|floor|rint|trunc)\.((?:v\d+)?f32)\(.*$", re.M)
_WIDENING = re.compile(r"= fpext (?:<(\d+) x half>|half) ([^\s,]+) to (?:<\d+ x float>|float)")
_DIVISION = re.compile(r"= ([su])(div|rem) (?:exact )?i64 ([^,\n]+), ([^\s,]+)")


def rewritten(text: str, machine: Machine) -> str:
    """A module's text with what the machine lacks defined in it. The bits are those of machines that have it, but for a
    split fma."""
    lacking = machine.lacking
    defined: list[str] = []
    helpers: dict[str, str] = {}
    """LLVM intrinsics that the definitions call: name → declaration"""

    def declared(match: re.Match[str]) -> str:
        word, suffix = match.groups()
        if word not in lacking:
            return match.group()
        kind = f"split_{word}" if word == "fma" and machine.fma == "split" else word
        defined.append(_DEFINITIONS[kind](suffix))
        if word != "fma":
            f, _, _ = _kinds(suffix)
            helpers[f"@llvm.fabs.{suffix}"] = f"declare {f} @llvm.fabs.{suffix}({f})"
            helpers[f"@llvm.copysign.{suffix}"] = f"declare {f} @llvm.copysign.{suffix}({f}, {f})"
        return ""

    text = _DECLARED.sub(declared, text)
    for word in lacking:
        text = text.replace(f"@llvm.{word}.", f"@tinyrnn.{word}.")
    if "div" in lacking:
        text, count = _DIVISION.subn(r"= call i64 @tinyrnn.\1\2(i64 \3, i64 \4)", text)
        if count:
            defined.append(_DIVISIONS)
            helpers["@llvm.abs.i64"] = "declare i64 @llvm.abs.i64(i64, i1)"
    if "half" in lacking:
        found: set[str] = set()

        def widening(match: re.Match[str]) -> str:
            suffix = f"v{match[1]}f32" if match[1] else "f32"
            found.add(suffix)
            f, _, wide = _kinds(suffix)
            return f"= call {f} @tinyrnn.half.{suffix}({wide('half')} {match[2]})"

        text = _WIDENING.sub(widening, text)
        defined += [_half(suffix) for suffix in sorted(found)]
    if machine.thumb:
        for name, routine in thumb.ROUTINES.items():
            text, count = re.subn(rf"^declare .*@{name}\(.*$", "", text, flags=re.M)
            defined += [routine.definition(name)] * bool(count)
    missing = [d for name, d in helpers.items() if not re.search(rf"^declare .*{re.escape(name)}\(", text, re.M)]
    return "\n".join([text, *missing, *defined])


def _kinds(suffix: str) -> tuple[str, Callable[[str, str], str], Callable[[str], str]]:
    """For a suffix like v4f32: (type, function for a constant of an element type, function for the type of such elements)."""
    count = suffix[1:-3] if suffix[0] == "v" else ""

    def wide(element: str) -> str:
        return f"<{count} x {element}>" if count else element

    def constant(element: str, value: str) -> str:
        return f"splat ({element} {value})" if count else value

    return wide("float"), constant, wide


def _exact_fma(suffix: str) -> str:
    """a * b is exact in float64. The sum is rounded to odd there, after which rounding to float32 is right (S. Boldo and
    G. Melquiond, Emulation of FMA and correctly rounded sums, 2008); its error by D. Knuth's TwoSum."""
    f, constant, wide = _kinds(suffix)
    d, i, b = wide("double"), wide("i64"), wide("i1")
    return f"""
define internal {f} @tinyrnn.fma.{suffix}({f} %a, {f} %b, {f} %c) nounwind {{
  %x = fpext {f} %a to {d}
  %y = fpext {f} %b to {d}
  %z = fpext {f} %c to {d}
  %p = fmul {d} %x, %y
  %s = fadd {d} %p, %z
  %t = fsub {d} %s, %p
  %u = fsub {d} %s, %t
  %v = fsub {d} %z, %t
  %w = fsub {d} %p, %u
  %e = fadd {d} %v, %w
  %bits = bitcast {d} %s to {i}
  %last = and {i} %bits, {constant("i64", "1")}
  %even = icmp eq {i} %last, {constant("i64", "0")}
  %inexact = fcmp one {d} %e, {constant("double", "0.0")}
  %moves = and {b} %even, %inexact
  %up = fcmp ogt {d} %e, {constant("double", "0.0")}
  %positive = fcmp ogt {d} %s, {constant("double", "0.0")}
  %inward = xor {b} %up, %positive
  %by = select {b} %inward, {i} {constant("i64", "-1")}, {i} {constant("i64", "1")}
  %moved = add {i} %bits, %by
  %odd = select {b} %moves, {i} %moved, {i} %bits
  %sum = bitcast {i} %odd to {d}
  %r = fptrunc {d} %sum to {f}
  ret {f} %r
}}
"""


def _split_fma(suffix: str) -> str:
    f, _, _ = _kinds(suffix)
    return f"""
define internal {f} @tinyrnn.fma.{suffix}({f} %a, {f} %b, {f} %c) alwaysinline nounwind {{
  %p = fmul {f} %a, %b
  %r = fadd {f} %p, %c
  ret {f} %r
}}
"""


def _rounding(name: str, suffix: str, body: str) -> str:
    """A rounding function: `body` computes %w from magnitudes %v below 2**23; all others are whole numbers, or NaN."""
    f, constant, wide = _kinds(suffix)
    b = wide("i1")
    large = constant("float", "0x4160000000000000")
    return f"""
define internal {f} @tinyrnn.{name}.{suffix}({f} %x) nounwind {{
  %m = call {f} @llvm.fabs.{suffix}({f} %x)
  %small = fcmp olt {f} %m, {large}
  %v = select {b} %small, {f} %x, {f} {constant("float", "0.0")}
{body}
  %signed = call {f} @llvm.copysign.{suffix}({f} %w, {f} %x)
  %r = select {b} %small, {f} %signed, {f} %x
  ret {f} %r
}}
"""


def _trunc(suffix: str) -> str:
    f, _, wide = _kinds(suffix)
    i = wide("i32")
    return _rounding("trunc", suffix, f"  %i = fptosi {f} %v to {i}\n  %w = sitofp {i} %i to {f}")


def _floor(suffix: str) -> str:
    f, constant, wide = _kinds(suffix)
    i, b = wide("i32"), wide("i1")
    return _rounding(
        "floor",
        suffix,
        f"  %i = fptosi {f} %v to {i}\n  %t = sitofp {i} %i to {f}\n  %above = fcmp ogt {f} %t, %v\n"
        f"  %less = fsub {f} %t, {constant('float', '1.0')}\n  %w = select {b} %above, {f} %less, {f} %t",
    )


def _rint(suffix: str) -> str:
    f, constant, _ = _kinds(suffix)
    shift = constant("float", "0x4160000000000000")
    return _rounding(
        "rint",
        suffix,
        f"  %k = call {f} @llvm.copysign.{suffix}({f} {shift}, {f} %v)\n  %far = fadd {f} %v, %k\n  %w = fsub {f} %far, %k",
    )


def _half(suffix: str) -> str:
    """The float32 with the value of a float16: its bits, moved, times 2**112, which is exact for denormal numbers too."""
    f, constant, wide = _kinds(suffix)
    h, i, i16, b = wide("half"), wide("i32"), wide("i16"), wide("i1")
    return f"""
define internal {f} @tinyrnn.half.{suffix}({h} %x) alwaysinline nounwind {{
  %bits = bitcast {h} %x to {i16}
  %all = zext {i16} %bits to {i}
  %magnitude = and {i} %all, {constant("i32", "32767")}
  %moved = shl {i} %magnitude, {constant("i32", "13")}
  %small = bitcast {i} %moved to {f}
  %scaled = fmul {f} %small, {constant("float", "0x46F0000000000000")}
  %number = bitcast {f} %scaled to {i}
  %special = icmp uge {i} %magnitude, {constant("i32", "31744")}
  %endless = or {i} %moved, {constant("i32", "2139095040")}
  %chosen = select {b} %special, {i} %endless, {i} %number
  %top = and {i} %all, {constant("i32", "32768")}
  %sign = shl {i} %top, {constant("i32", "16")}
  %signed = or {i} %chosen, %sign
  %r = bitcast {i} %signed to {f}
  ret {f} %r
}}
"""


_DEFINITIONS: dict[str, Callable[[str], str]] = {
    "fma": _exact_fma,
    "split_fma": _split_fma,
    "floor": _floor,
    "trunc": _trunc,
    "rint": _rint,
}

_DIVISIONS = """
define internal i64 @tinyrnn.udiv(i64 %a, i64 %b) nounwind noinline {
start:
  %either = or i64 %a, %b
  %high = lshr i64 %either, 32
  %short = icmp eq i64 %high, 0
  br i1 %short, label %narrow, label %loop
narrow:
  %a32 = trunc i64 %a to i32
  %b32 = trunc i64 %b to i32
  %q32 = udiv i32 %a32, %b32
  %q64 = zext i32 %q32 to i64
  ret i64 %q64
loop:
  %i = phi i64 [ 63, %start ], [ %next, %loop ]
  %rest = phi i64 [ 0, %start ], [ %left, %loop ]
  %quotient = phi i64 [ 0, %start ], [ %q, %loop ]
  %shifted = lshr i64 %a, %i
  %bit = and i64 %shifted, 1
  %twice = shl i64 %rest, 1
  %more = or i64 %twice, %bit
  %carry = icmp slt i64 %rest, 0
  %large = icmp uge i64 %more, %b
  %fits = or i1 %carry, %large
  %minus = select i1 %fits, i64 %b, i64 0
  %left = sub i64 %more, %minus
  %one = zext i1 %fits to i64
  %q2 = shl i64 %quotient, 1
  %q = or i64 %q2, %one
  %next = add i64 %i, -1
  %done = icmp eq i64 %i, 0
  br i1 %done, label %end, label %loop
end:
  ret i64 %q
}
define internal i64 @tinyrnn.urem(i64 %a, i64 %b) nounwind {
  %q = call i64 @tinyrnn.udiv(i64 %a, i64 %b)
  %p = mul i64 %q, %b
  %r = sub i64 %a, %p
  ret i64 %r
}
define internal i64 @tinyrnn.sdiv(i64 %a, i64 %b) nounwind {
  %m = call i64 @llvm.abs.i64(i64 %a, i1 false)
  %n = call i64 @llvm.abs.i64(i64 %b, i1 false)
  %q = call i64 @tinyrnn.udiv(i64 %m, i64 %n)
  %signs = xor i64 %a, %b
  %negative = icmp slt i64 %signs, 0
  %minus = sub i64 0, %q
  %r = select i1 %negative, i64 %minus, i64 %q
  ret i64 %r
}
define internal i64 @tinyrnn.srem(i64 %a, i64 %b) nounwind {
  %q = call i64 @tinyrnn.sdiv(i64 %a, i64 %b)
  %p = mul i64 %q, %b
  %r = sub i64 %a, %p
  ret i64 %r
}
"""
