"""Clocks: how many rows a value has after so many input frames, and in all of a sequence.

Most values have one row for each input frame. Convolution with look-ahead makes rows later, strides make
fewer, padding and cutting change the length. A row is made as soon as the frames it needs are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm


@dataclass(frozen=True)
class Clock:
    """The clock of the input frames; subclasses follow from others."""

    def ready(self, frames: int) -> int:
        """Rows ready after `frames` input frames of a sequence that goes on; negative where frames are missing for the first."""
        return frames

    def whole(self, frames: int) -> int:
        """Rows of a whole sequence of `frames` frames."""
        return frames

    def most(self, frames: int) -> int:
        """An upper bound of the rows that a pass over `frames` frames makes."""
        return frames

    def text(self, ready: bool, frames: str) -> str:
        """`ready` or `whole` as an expression in the text `frames`."""
        return frames

    @property
    def stride(self) -> int:
        """Number of input frames after which the pattern of rows repeats."""
        return 1

    def count(self, frames: int, end: int | None = None) -> int:
        """Rows made after `frames` frames of a sequence that ends after `end` frames (None: unknown).

        While the end is unknown, never more than the sequence has if it ends now.
        """
        return max(min(self.ready(frames), self.whole(frames if end is None else end)), 0) if frames else 0

    @property
    def rate(self) -> int:
        """The least whole number of rows per frame that bounds the rows in the long run."""
        many = self.stride * (1 << 10)
        return max(1, -(-(self.most(2 * many) - self.most(many)) // many))

    @property
    def lead(self) -> int:
        """The number to add to a pass's frames so that `rate` rows for each bound the rows of the pass."""
        return max(0, *(-(-self.most(n) // self.rate) - n for n in range(1, 2 * self.stride + 1)))

    @property
    def delay(self) -> int:
        """Number of frames between the first frame and the first row: 0 where the first frame makes it."""
        frames = 1
        while self.count(frames) == 0:
            frames += 1
        return frames - 1


FRAMES = Clock()


@dataclass(frozen=True)
class Strided(Clock):
    """Row j needs row j * step + last of `of`; a sequence of L rows makes (L + extra) // step + 1."""

    of: Clock
    step: int
    last: int
    extra: int

    def ready(self, frames: int) -> int:
        return (self.of.ready(frames) - self.last - 1) // self.step + 1

    def whole(self, frames: int) -> int:
        return max((self.of.whole(frames) + self.extra) // self.step + 1, 0)

    def most(self, frames: int) -> int:
        return -(-(self.of.most(frames) + max(-self.last, 0)) // self.step)

    def text(self, ready: bool, frames: str) -> str:
        inner, add = self.of.text(ready, frames), -self.last - 1 if ready else self.extra
        if self.step == 1:
            text = f"({inner} + {add + 1})" if add + 1 else inner
        else:
            text = f"(({inner} + {add}) // {self.step} + 1)"
        return text if ready or add >= -self.step else f"max({text}, 0)"

    @property
    def stride(self) -> int:
        return self.of.stride * self.step


@dataclass(frozen=True)
class Unfolded(Clock):
    """Every row of `of` is `times` rows, of which the first `start` are dropped and L * times + extra remain."""

    of: Clock
    times: int
    start: int
    extra: int

    @property
    def _cuts(self) -> bool:
        """Whether rows at the end of a sequence are dropped, so that a row is ready only when more follow."""
        return self.extra < -self.start

    def ready(self, frames: int) -> int:
        made = self.of.ready(frames) * self.times - self.start
        return min(made, self.whole(frames)) if self._cuts else made

    def whole(self, frames: int) -> int:
        return max(self.of.whole(frames) * self.times + self.extra, 0)

    def most(self, frames: int) -> int:
        return self.of.most(frames) * self.times

    def text(self, ready: bool, frames: str) -> str:
        made = f"({self.of.text(ready, frames)} * {self.times} + {-self.start if ready else self.extra})"
        if ready:
            return f"min({made}, {self.text(False, frames)})" if self._cuts else made
        return f"max({made}, 0)" if self.extra < 0 else made

    @property
    def stride(self) -> int:
        return self.of.stride


@dataclass(frozen=True)
class Meeting(Clock):
    """A row is ready when it is ready in each of several clocks."""

    of: tuple[Clock, ...]

    def ready(self, frames: int) -> int:
        return min(clock.ready(frames) for clock in self.of)

    def whole(self, frames: int) -> int:
        return min(clock.whole(frames) for clock in self.of)

    def most(self, frames: int) -> int:
        return max(clock.most(frames) for clock in self.of)

    def text(self, ready: bool, frames: str) -> str:
        return f"min({', '.join(clock.text(ready, frames) for clock in self.of)})"

    @property
    def stride(self) -> int:
        return lcm(*(clock.stride for clock in self.of))


def strided(of: Clock, step: int, last: int, extra: int) -> Clock:
    """The clock of windows over rows of `of`, in its shortest form."""
    if isinstance(of, Strided):
        inner = of
        of, last, extra = inner.of, inner.last + inner.step * last, inner.extra + inner.step * (1 + extra)
        step *= inner.step
    last = max(last, -1 - extra)
    return of if (step, last, extra) == (1, 0, -1) else Strided(of, step, last, extra)


def meeting(clocks: Sequence[Clock]) -> Clock:
    """The clock of a value that needs a row of each of several values."""
    distinct = list(dict.fromkeys(clocks))
    if len(distinct) == 1:
        return distinct[0]
    parts: list[Strided] = [clock if isinstance(clock, Strided) else Strided(clock, 1, 0, -1) for clock in distinct]
    if len({(part.of, part.step) for part in parts}) == 1:
        return strided(parts[0].of, parts[0].step, max(p.last for p in parts), min(p.extra for p in parts))
    return Meeting(tuple(distinct))


def reach(inputs: Clock, outputs: Clock, step: int, first: int) -> int:
    """Rows of the input that must be kept from one pass to the next where row j needs row j * step + first and later."""
    period = lcm(inputs.stride, outputs.stride)
    start = outputs.delay + inputs.delay
    return max(1, *(inputs.count(n) - outputs.count(n) * step - first for n in range(1, start + 2 * period + 2)))


def held_back(inputs: Clock, outputs: Clock, times: int, start: int) -> int:
    """Rows of the input that must be kept from one pass to the next where row j is a piece of row (j + start) // times."""
    period = lcm(inputs.stride, outputs.stride)
    begin = outputs.delay + inputs.delay
    return max(0, *(inputs.count(n) - (outputs.count(n) + start) // times for n in range(1, begin + 2 * period + 2)))
