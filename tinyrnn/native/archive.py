"""Static libraries in the `ar` format of System V and GNU, with an index of symbols; the same input gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MAGIC = b"!<arch>\n"
LONGEST_NAME = 15


def archive(members: Mapping[str, bytes], symbols: Mapping[str, Sequence[str]]) -> bytes:
    """The bytes of an archive. members: name → contents; symbols: name → symbols that the member defines."""
    long_names = "".join(f"{name}/\n" for name in members if len(name) > LONGEST_NAME).encode()
    index = [(symbol, name) for name in members for symbol in symbols.get(name, ())]
    names = b"".join(symbol.encode() + b"\0" for symbol, _ in index)
    table_size = 4 + 4 * len(index) + len(names)
    start = len(MAGIC) + 60 + table_size + table_size % 2
    if long_names:
        start += 60 + len(long_names) + len(long_names) % 2
    offsets, bodies, place = {}, [], 0
    for name, data in members.items():
        label = f"/{place}" if len(name) > LONGEST_NAME else f"{name}/"
        place += len(name) + 2 if len(name) > LONGEST_NAME else 0
        offsets[name] = start
        bodies.append(_member(label, data))
        start += len(bodies[-1])
    table = len(index).to_bytes(4, "big") + b"".join(offsets[name].to_bytes(4, "big") for _, name in index) + names
    return b"".join([MAGIC, _member("/", table), *([_member("//", long_names)] if long_names else []), *bodies])


def _member(label: str, data: bytes) -> bytes:
    header = f"{label:<16}{0:<12}{0:<6}{0:<6}{'644':<8}{len(data):<10}`\n"
    return header.encode() + data + b"\n" * (len(data) % 2)
