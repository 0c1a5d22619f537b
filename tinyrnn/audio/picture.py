"""Pictures of sound: a model's figures over time, and a sound before and after a model. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike, fspath
from typing import Any

import numpy as np

from tinyrnn.audio.frames import Array, Stft
from tinyrnn.audio.front import magnitude
from tinyrnn.data import terminal as picture
from tinyrnn.errors import TinyRNNError

COLUMNS = 1600
"""columns of a picture: of longer sounds the least and largest sample of each column are drawn"""
LINES = 8
"""curves in one picture; an output of more values is drawn as an image"""
RANGE = 80
"""dB, of a spectrogram"""


def _save(path: str | PathLike[str], rows: list[float], draw: Callable[[Any, list[Any]], None]) -> None:
    figure = picture.figure(11, sum(rows) + 0.8)
    axes = list(figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=rows)[:, 0])
    draw(figure, axes)
    axes[-1].set_xlabel("time (s)")
    picture.save(figure, path)


def _groups(array: Array, step: int) -> Array:
    """[groups, step, *rest] of an array [n, *rest]; the last one is filled up with the last entry."""
    filled = np.concatenate([array, np.repeat(array[-1:], -len(array) % step, axis=0)])
    return filled.reshape(-1, step, *array.shape[1:])


def _waveform(axes: Any, samples: Array, rate: float, colour: str = "tab:blue") -> None:
    """Draw one channel or the mean of several; of more samples than columns the least and largest of each column."""
    if samples.ndim > 1:
        samples = samples.mean(axis=1)
    step = max(len(samples) // COLUMNS, 1)
    cut = _groups(samples, step) if len(samples) else np.zeros((1, 1))
    times = np.arange(len(cut)) * step / rate
    if step == 1:
        axes.plot(times, cut[:, 0], color=colour, linewidth=0.8)
    else:
        axes.fill_between(times, cut.min(axis=1), cut.max(axis=1), color=colour, linewidth=0.3)
    top = max(float(np.abs(cut).max()) * 1.1, 1e-3)
    axes.set(ylabel="amplitude\n(full scale 1)", ylim=(-top, top))
    axes.grid(alpha=0.25)


def plot_figures(
    path: str | PathLike[str],
    samples: Array,
    figures: Mapping[str, Array],
    rate: float,
    hop: float | Mapping[str, float],
    title: str = "",
) -> None:
    """Draw a sound and, under it, what a `Listener` gave for it, row by row, into an image file.

    Row t is drawn over its new samples, t * hop to (t + 1) * hop; `hop` may be by the name of each output, as from
    `Listener.hops`. Raises `TinyRNNError` without matplotlib, or where the file cannot be written.
    """
    shown = {name: np.asarray(a, np.float64).reshape(len(a), -1) for name, a in figures.items() if np.ndim(a)}
    if not shown or not all(a.size for a in shown.values()):
        raise TinyRNNError(f"{fspath(path)}: nothing to draw: there are no figures over time")
    hops = {name: float(hop[name] if isinstance(hop, Mapping) else hop) for name in shown}

    def draw(figure: Any, axes: list[Any]) -> None:
        _waveform(axes[0], samples, rate)
        for place, (name, values) in zip(axes[1:], shown.items(), strict=True):
            edges = np.arange(len(values) + 1) * hops[name] / rate
            if values.shape[1] > LINES:
                cells = _groups(values, max(len(values) // COLUMNS, 1)).max(axis=1).T
                extent = (0, edges[-1], -0.5, values.shape[1] - 0.5)
                image = place.imshow(cells, aspect="auto", origin="lower", extent=extent, cmap="magma")
                figure.colorbar(image, ax=place, pad=0.01)
                place.set_ylabel(f"{name}\n(index)")
                continue
            for index, column in enumerate(values.T):
                label = f"{name}[{index}]" if values.shape[1] > 1 else None
                colour = "tab:orange" if label is None else None
                place.stairs(column, edges, baseline=None, linewidth=1, label=label, color=colour)
            place.set_ylabel(name)
            place.grid(alpha=0.25)
            if values.min() >= 0 and values.max() <= 1:
                place.set_ylim(-0.04, 1.04)
                if values.shape[1] == 1:
                    place.axhline(0.5, color="black", linewidth=0.8, linestyle="--")
                    place.set_title(
                        f"above 0.5 in {np.mean(values > 0.5):.0%} of {len(values):,} frames", loc="right", fontsize=9
                    )
            if values.shape[1] > 1:
                place.legend(loc="upper right", fontsize=8)
        axes[0].set_xlim(0, max(len(samples), 1) / rate)
        axes[0].set_title(title, fontsize=11, loc="left")

    _save(path, [1.6] + [2.2] * len(shown), draw)


def _level(samples: Array, rate: float) -> tuple[Array, float]:
    """Levels in dB of full scale [bins, columns] and the seconds that they cover."""
    if samples.ndim > 1:
        samples = samples.mean(axis=1)
    block = 1 << max(round(np.log2(rate * 0.032)), 4)
    stft = Stft(block, block // 4, "hann")
    parts = [stft.push(samples), stft.push(np.zeros(block // 4, np.float32))]
    size = magnitude(np.concatenate(parts)) / (block / 4)
    step = max(len(size) // COLUMNS, 1)
    whole = _groups(size, step)
    return 20 * np.log10(np.maximum(whole.max(axis=1).T, 1e-6)), whole.shape[0] * step * (block // 4) / rate


def plot_sounds(path: str | PathLike[str], sounds: Mapping[str, tuple[Array, float]], title: str = "") -> None:
    """Draw the waveform and the spectrogram of each sound, {name: (samples, rate in Hz)}, into an image file.

    All spectrograms share one scale of levels, in dB of full scale, and one of frequencies. Raises `TinyRNNError` without
    matplotlib, or where the file cannot be written.
    """
    levels = {name: _level(*sound) for name, sound in sounds.items()}
    top = max(float(np.percentile(level, 99.9)) for level, _ in levels.values())

    def draw(figure: Any, axes: list[Any]) -> None:
        for index, (name, (samples, rate)) in enumerate(sounds.items()):
            wave, place = axes[2 * index], axes[2 * index + 1]
            _waveform(wave, samples, rate)
            wave.set_title(name, loc="left", fontsize=10)
            level, seconds = levels[name]
            image = place.imshow(
                level,
                aspect="auto",
                origin="lower",
                extent=(0, seconds, 0, rate / 2000),
                cmap="magma",
                vmin=top - RANGE,
                vmax=top,
            )
            place.set_ylabel("frequency\n(kHz)")
        figure.colorbar(image, ax=axes[1::2], pad=0.01, label="level (dB of full scale)")
        highest = max(float(np.abs(samples).max(initial=1e-3)) for samples, _ in sounds.values()) * 1.1
        for wave in axes[::2]:
            wave.set_ylim(-highest, highest)
        axes[0].set_xlim(0, max(max(len(samples), 1) / rate for samples, rate in sounds.values()))
        figure.suptitle(title, fontsize=11)

    _save(path, [1.2, 2.0] * len(sounds), draw)
