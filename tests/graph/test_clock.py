"""Clocks that follow from others: what is ready is never more than there is if the sequence ends here."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tinyrnn.graph.clock import FRAMES, Clock, Unfolded, meeting, strided


@st.composite
def clocks(draw: st.DrawFn) -> Clock:
    clock: Clock = FRAMES
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            clock = strided(clock, draw(st.integers(1, 5)), draw(st.integers(-9, 9)), draw(st.integers(-9, 9)))
        else:
            start = draw(st.integers(0, 9))
            clock = Unfolded(clock, draw(st.integers(1, 4)), start, -start - draw(st.integers(0, 9)))
    return clock


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(clocks(), clocks())
def test_what_is_ready_is_there(one: Clock, other: Clock) -> None:
    for clock in (one, other, meeting([one, other])):
        ways = [
            (eval(f"lambda frames: {clock.text(True, 'frames')}"), clock.ready),
            (eval(f"lambda frames: {clock.text(False, 'frames')}"), clock.whole),
        ]
        for frames in range(1, 60):
            assert max(clock.ready(frames), 0) <= clock.whole(frames)
            assert clock.ready(frames) <= clock.ready(frames + 1)
            for written, number in ways:
                assert written(frames) == number(frames)
