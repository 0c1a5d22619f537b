"""`tinyrnn run` over many files: each gives one of the same name, frames of several go side by side."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyrnn.cli.batch import Batch, Figures
from tinyrnn.cli.options import microseconds, print_json, progress_bar
from tinyrnn.cli.source import PIPE, is_sound
from tinyrnn.errors import LoadError, TinyRNNError

if TYPE_CHECKING:
    pass

LISTED = 5
"""most names in a message"""
NAMED = 50
"""most names of files with the same error; --json has all"""


def chosen_files(given: Sequence[Path], model: Path) -> list[Path]:
    """The files of folders, patterns or several arguments; none where a single file, or a pipe, is given.

    Raises `LoadError` where there is nothing, or not one kind of files.
    """
    if len(given) == 1 and not given[0].is_dir() and not _is_pattern(given[0]):
        return []
    found: dict[Path, None] = {}
    for path in given:
        if str(path) == PIPE:
            raise LoadError("-: a pipe is one input; it does not go beside files")
        found |= dict.fromkeys(_in_folder(path, model) if path.is_dir() else _fitting(path) if _is_pattern(path) else [path])
    sounds = [path for path in found if is_sound(path)]
    if sounds and len(sounds) < len(found):
        other = next(path for path in found if path not in sounds)
        folder = given[0] if given[0].is_dir() else sounds[0].parent
        kinds = f"'{folder / '*.wav'}', then '{folder / ('*' + other.suffix)}'"
        raise LoadError(
            f"{_list([str(path) for path in given])}: sound and arrays ({len(sounds)} .wav, {len(found) - len(sounds)} of other "
            f"kinds), which go through a model in different ways; run one kind after the other: {kinds}"
        )
    return list(found)


def _is_pattern(path: Path) -> bool:
    return any(c in str(path) for c in "*?[") and not path.exists()


def _fitting(pattern: Path) -> list[Path]:
    found = sorted(Path(name) for name in glob.glob(str(pattern), recursive=True))
    if not any(path.is_file() for path in found):
        raise LoadError(f"{pattern}: no file fits this pattern")
    return [path for path in found if path.is_file()]


def _in_folder(folder: Path, model: Path) -> list[Path]:
    """The files of a folder that can be read, in order; the model and what is of other kinds are left out."""
    from tinyrnn.data.files import KINDS

    names = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    own = model.resolve()
    found = [path for path in names if path.suffix.lower() in KINDS and path.resolve() != own]
    left = [path.name for path in names if path not in found and path.resolve() != own]
    if not found:
        raise LoadError(f"{folder}: no files of {', '.join(KINDS)} in this folder{f' ({_list(left)})' if left else ''}")
    if left:
        click.echo(f"{folder}: left out, for their kind: {_list(left)}", err=True)
    return found


def _list(names: Sequence[str], most: int = LISTED) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def places_of(inputs: Sequence[Path], folder: Path, form: str | None, keep: Sequence[Path]) -> dict[Path, Path]:
    """Where each file's output goes.

    Raises `TinyRNNError` where that is no place for them, or would overwrite an input, one of `keep`, or another output.
    """
    from tinyrnn.data.files import KINDS, kind_of

    if folder.is_file():
        raise TinyRNNError(f"{folder}: a file; the outputs of {len(inputs)} files go into a folder")
    if str(folder) == PIPE or folder.suffix.lower() in KINDS:
        raise TinyRNNError(
            f"{folder}: the outputs of {len(inputs)} files go into a folder, as -o {folder.stem if folder.suffix else 'made'}; "
            f"--format says their kind"
        )
    if not folder.is_dir() and not folder.parent.is_dir():
        raise TinyRNNError(f"{folder}: there is no folder {folder.parent}; make it first")
    places = {path: folder / f"{path.stem}.{form or kind_of(path)[1:]}" for path in inputs}
    twice = next((place for place, count in Counter(places.values()).items() if count > 1), None)
    if twice is not None:
        both = [str(path) for path, place in places.items() if place == twice]
        raise TinyRNNError(f"{_list(both)}: would all be written to {twice}; run them into different folders")
    taken = {_identity(path) for path in (*inputs, *keep)} - {None}
    for place in places.values():
        if _identity(place) in taken:
            raise TinyRNNError(f"{place}: is an input too, and would be overwritten; name another folder with -o")
    return places


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def run_many(
    model: Path,
    inputs: Sequence[Path],
    folder: Path,
    form: str | None,
    how: dict[str, Any],
    sound: Mapping[str, Any] | None,
    settings: dict[str, Any],
    as_json: bool,
) -> int:
    """Run every file into `folder`, and print what came of it; returns the exit status.

    form: the kind of the outputs; None for that of each input
    sound: the options of `sound_options`, for sound that is streamed; None for arrays
    settings: those of `ArrayRun`
    """
    from tinyrnn import load
    from tinyrnn.cli.arrays import ArrayRun

    second = [sound["model2"]] if sound and "model2" in sound else []
    places = places_of(inputs, folder, form, [model, *second])
    if sound is not None:
        from tinyrnn.cli.sound import load_sound_run

        through = load_sound_run(model, how, sound, settings["rate"], settings["bits"])
        name = through.model.name
    else:
        way = ArrayRun(load(model, **how), **settings)
        way.check_streams()
        name = way.model.name
        _check_kinds(places, [p.name for p in way.model.outputs])
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise TinyRNNError(f"{folder}: cannot be made ({error.strerror})") from None
    with progress_bar(f"running {name} over {len(inputs)} file{'s'[: len(inputs) != 1]}") as progress:
        batch = Batch(places, progress)
        if sound is not None:
            for path, place in places.items():
                batch.one(path, lambda part, path=path, place=place: through.file(path, place, None, part))  # type: ignore[misc]
        else:
            from tinyrnn.cli.side_by_side import run_arrays

            run_arrays(way, batch)
    what = "window" if sound is None and settings["window"] is not None else "frame"
    return _report([batch.figures[path] for path in inputs], batch.remarks, folder, what, as_json)


def _check_kinds(places: Mapping[Path, Path], outputs: Sequence[str]) -> None:
    """Raise `TinyRNNError` where a kind of file cannot hold several outputs."""
    kinds = {place.suffix for place in places.values()} - {".npz"}
    if len(outputs) > 1 and kinds:
        raise TinyRNNError(
            f"{len(outputs)} outputs ({', '.join(outputs)}) need .npz files, not {' or '.join(sorted(kinds))}: --format npz, or "
            f"choose one with --outputs NAME"
        )


def _errors(bad: Sequence[Figures]) -> Iterator[str]:
    """The errors, those that differ in the name of the file alone as one."""
    alike: dict[str, list[Figures]] = {}
    for figures in bad:
        path = Path(figures["input"])
        alike.setdefault(figures["error"].replace(str(path), "").replace(path.stem, ""), []).append(figures)
    for first, *others in alike.values():
        yield first["error"]
        if others:
            yield f"the same of {_list([figures['input'] for figures in others], NAMED)}"


def _report(found: Sequence[Figures], remarks: Mapping[str, None], folder: Path, what: str, as_json: bool) -> int:
    bad = [figures for figures in found if "error" in figures]
    good = [figures for figures in found if "error" not in figures]
    for text in remarks:
        click.echo(text, err=True)
    for figures in good:
        if figures["clipped"]:
            click.echo(f"{figures['output']}: {figures['clipped']:,} samples beyond -1 to 1 were clipped", err=True)
    for text in _errors(bad):
        click.echo(f"Error: {text}", err=True)
    if as_json:
        print_json(list(found))
    else:
        frames, seconds = sum(f["frames"] for f in good), sum(f["seconds"] for f in good)
        count = f"{len(good):,} of {len(found):,}" if bad else f"{len(good):,}"
        text = f"{count} file{'s'[: len(found) != 1]}, {frames:,} {what}{'s'[: frames != 1]} in {seconds:.3g} s"
        click.echo(f"{text}, {microseconds(seconds * 1e6 / max(frames, 1))} each; {folder}")
    return 1 if bad else 0
