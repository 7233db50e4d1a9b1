"""When each frame of a clip is shown, from timestamps that may restart, jump, err or be missing.

Two files joined end to end (`cat a.ts b.ts`, a recorder that was restarted) hold two runs of
timestamps, and a player shows one run after the other. So does this: where a run breaks off, the
next frame follows its predecessor by the gap before.

A run breaks off where the next timestamp
- lies more than 0.1 s *back*: time only goes forward, in every format;
- lies an hour or more ahead: no picture is shown for so long;
- lies more than 10 s ahead in a format whose timestamps may be discontinuous (MPEG-TS, MPEG-PS,
  chained Ogg: FFmpeg's AVFMT_TS_DISCONT), unless a gap beside it is nearly as long: then the clip
  is a slide show;
- lies more than 10 s ahead and 10 s past the length that the container states.
Otherwise a gap is honoured: a slide show in mp4 or mkv may hold a picture for 20 minutes. The
numbers are those of `ffmpeg` (dts_delta_threshold; 0.1 s back) and of `ffplay`, whose pictures stay
for at most 10 s in the formats above and for an hour in the others.

Frames come in the order shown, and a decoder may still put a few of them out of order by their
timestamps. That is no break: a timestamp that its two neighbours contradict, as they agree with
each other, is only ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, pairwise
from typing import NamedTuple

JUMP = Fraction(10)
LONGEST_SHOWN = Fraction(3600)
_BACK = Fraction(1, 10)
_ALIKE = 4  # a gap of up to this many times its neighbour is the clip's rhythm, no jump


class Timestamps(NamedTuple):
    """What a container lets one expect of its timestamps."""

    step: Fraction
    """Seconds a frame, for frames of which nothing else tells."""
    discontinuous: bool = False
    """The format allows jumps (AVFMT_TS_DISCONT)."""
    stated: Fraction | None = None
    """The length that the container states, as far as that is no estimate."""

    def seconds(self, stamps: Iterable[Fraction | None]) -> Iterator[Fraction]:
        """Seconds, from the first frame at 0, that frames with these timestamps are shown at.

        They never decrease. One timestamp is read ahead. None is a missing timestamp.
        """
        second = gap = Fraction(0)  # gap: between the last two frames of a run
        trusted: Fraction | None = None  # the last timestamp of this run
        shift = Fraction(0)  # second = timestamp + shift within a run
        start: Fraction | None = None
        stated = self.stated
        for number, (stamp, following) in enumerate(pairwise(chain(stamps, [None]))):
            step = gap or self.step
            if number == 0:
                trusted = start = stamp
                shift = -(stamp or Fraction(0))
            elif stamp is None or _contradicted(trusted, stamp, following):
                second += step
                if following is not None and trusted is not None and trusted < following:
                    # The true time of the next frame stands, so this one comes no later.
                    second = min(second, max(second - step, following + shift))
            elif trusted is None or self._breaks(
                stamp - trusted,
                max(gap, following - stamp if following is not None else Fraction(0)),
                stated is not None and start is not None and stamp - start > stated + JUMP,
            ):
                second += step
                trusted, shift, stated = stamp, second - stamp, None
            else:
                shown = max(second, stamp + shift)
                gap = shown - second or gap
                trusted, second = stamp, shown
            yield second

    def _breaks(self, distance: Fraction, beside: Fraction, past_stated: bool) -> bool:
        """Whether a run ends before a timestamp at this distance (see the head of this file)."""
        if distance < -_BACK or distance >= LONGEST_SHOWN:
            return True
        alone = distance > _ALIKE * beside
        return distance > JUMP and (past_stated or (self.discontinuous and alone))


def _contradicted(before: Fraction | None, stamp: Fraction, after: Fraction | None) -> bool:
    """Whether the neighbours are in order and near each other, and `stamp` is not between them."""
    if before is None or after is None or not before < after <= before + JUMP:
        return False
    return not before <= stamp <= after
