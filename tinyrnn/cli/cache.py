"""`tinyrnn cache`: what was compiled before, listed, bounded, and shipped to machines that then need no compiler."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from tinyrnn.cli.options import FILE, json_option, model_options, print_json
from tinyrnn.errors import TargetError


@click.group(short_help="Show, clear, pack the cache of compiled code.")
def cache() -> None:
    """The folder of what was compiled: whole models, their machine code, and the kernels that models share.

    It is named by the variable TINYRNN_CACHE, by default ~/.cache/tinyrnn, and grows up to TINYRNN_CACHE_BYTES (1 GiB); what
    was not used for longest goes first. A folder that others may write to is not used.
    """


def _folder() -> Path:
    from tinyrnn.targets.cache import CACHE_VARIABLE, cache_folder

    folder = cache_folder()
    if folder is None:
        raise TargetError(f"there is no cache: {CACHE_VARIABLE} is empty, or others may write to the folder")
    return folder


@cache.command("list", short_help="What is in it, used last first.")
@json_option
def list_entries(as_json: bool) -> None:
    """Print the files of the cache, those used last first, and how much they take."""
    from tinyrnn.loading.model_cache import name_in
    from tinyrnn.targets.cache import KERNELS, MODELS, entries, largest

    folder, found = _folder(), entries()
    total = sum(entry.nbytes for entry in found)
    called = {entry.name: name_in(entry.name) for entry in found if entry.name.startswith(MODELS)}
    if as_json:
        files = [{"name": e.name, "bytes": e.nbytes, "used": e.used, "model": called.get(e.name)} for e in found]
        print_json({"folder": str(folder), "bytes": total, "largest": largest(), "files": files})
        return
    for entry in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        click.echo(f"{used}  {entry.nbytes:>10,}  {entry.name}  {called.get(entry.name) or ''}".rstrip())
    kernels = sum(entry.name.startswith(KERNELS) for entry in found)
    click.echo(
        f"{folder}: {len(called)} models, code of {len(found) - len(called) - kernels}, {kernels} kernels, "
        f"{total:,} bytes of at most {largest():,}"
    )


@cache.command(short_help="Take everything away.")
def clear() -> None:
    """Take all compiled code away. Models are compiled again when they are loaded next."""
    from tinyrnn.targets.cache import entries, remove

    folder, found = _folder(), entries()
    remove(found)
    left = len(entries())
    if left:
        raise TargetError(f"{left} files of {folder} cannot be removed")
    click.echo(f"{folder}: took {len(found)} files away, {sum(entry.nbytes for entry in found):,} bytes")


@cache.command(short_help="Write what a model needs to a file.")
@click.argument("model", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, metavar="FILE", help="The file to write.")
@model_options
def pack(model: Path, output: Path, how: dict[str, Any]) -> None:
    """Write what the cache has of MODEL to a file, for `tinyrnn cache unpack` on a machine with the same processor.

    MODEL loaded there with the same options, by the same version of tinyrnn, starts at once, without Numba, and so do its pools.
    A model with sizes at run time is packed for the sizes it was compiled for.
    """
    from tinyrnn import load
    from tinyrnn.data.files import replace_file
    from tinyrnn.loading import model_cache
    from tinyrnn.targets.cache import packed, read
    from tinyrnn.targets.machine import host

    _folder()
    loaded = load(model, **how)
    codes = {code.name for code in loaded._codes}
    whole = model_cache.file_name(model, how)
    pools = model_cache.of_pools(whole)
    if not loaded._layout.refuses_stream:
        codes.add(loaded._pooled(1).code.name)
    names = [*sorted(codes), *(name for name in (whole, pools) if read(name))]
    archive = packed(names, repr(host()))
    replace_file(output, lambda file: file.write(archive))
    click.echo(f"{output}: {len(names)} file{'s' * (len(names) > 1)}, {output.stat().st_size:,} bytes, for {host()}")


@cache.command(short_help="Put into the cache what pack wrote.")
@click.argument("file", type=FILE)
def unpack(file: Path) -> None:
    """Put what `tinyrnn cache pack` wrote into the cache of this machine.

    It is machine code: take FILE only from whom you would take a program.
    """
    from tinyrnn.targets.cache import unpack as put
    from tinyrnn.targets.machine import host

    folder = _folder()
    try:
        data = file.read_bytes()
    except OSError as error:
        raise TargetError(f"{file} cannot be read: {error.strerror or error}") from None
    names = put(data, repr(host()))
    click.echo(f"{folder}: {len(names)} file{'s' * (len(names) > 1)} from {file}")
