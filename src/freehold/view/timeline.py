"""A program's memory over time: moments, kept few however long it runs, and what happened between them.

Thread-safety: by one thread at a time.
Invariants: at most `MOST` moments are kept, of equal stretches of time; of each stretch the one with most resident
memory, so that no peak is lost. The first and the last moment are always kept. What has been given back and refused is
counted up from the beginning, so that nothing is lost with the moments that are not kept.
Does not: look at a process, or at a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from typing import Any

__all__ = ["Moment", "Timeline", "marks"]

MOST = 1200
STRETCH_S = 0.05  # at first; doubled whenever there are too many
GIVEN_BACK_SHARE = 0.02  # of the peak: less given back in a stretch is no mark
GIVEN_BACK_LEAST = 1 << 20


@dataclass(frozen=True)
class Moment:
    """A process at one moment; bytes, but for the seconds since it began, and a count.

    Attributes:
        resident: of the whole process, as the system counts it.
        live: what callers of the heaps hold.
        dirty: idle and resident.
        muzzy: idle, given back lazily.
        retained: addresses kept, whose memory the system has.
        given_back: purged since the beginning.
        refused: requests over a limit since the beginning, a count.
    """

    seconds: float
    resident: int
    live: int = 0
    dirty: int = 0
    muzzy: int = 0
    retained: int = 0
    given_back: int = 0
    refused: int = 0


class Timeline:
    """The moments of one process, oldest first."""

    def __init__(self, most: int = MOST, stretch_s: float = STRETCH_S) -> None:
        self.stretch_s = stretch_s
        self._most = most
        self._kept: list[Moment] = []
        self._last: Moment | None = None

    def add(self, moment: Moment) -> None:
        """Add the next moment."""
        self._last = moment
        self._keep(moment)
        while len(self._kept) >= self._most:  # the last one, too, is to have a place
            self.stretch_s *= 2
            kept, self._kept = self._kept, []
            for each in kept:
                self._keep(each)

    def _keep(self, moment: Moment) -> None:
        before = self._kept[-1] if self._kept else None
        if before is None or len(self._kept) == 1 or self._stretch(before) != self._stretch(moment):
            self._kept.append(moment)
        elif moment.resident > before.resident:
            self._kept[-1] = moment

    def _stretch(self, moment: Moment) -> int:
        return int(moment.seconds / self.stretch_s)

    @property
    def moments(self) -> list[Moment]:
        """What is kept; the last one is where the process was looked at last."""
        last = [self._last] if self._last is not None and self._last is not self._kept[-1] else []
        return [*self._kept, *last]

    def as_dict(self) -> dict[str, list[Any]]:
        """Return the moments as columns by name; seconds to the millisecond."""
        columns = zip(*map(astuple, self.moments), strict=True)
        found: dict[str, list[Any]] = dict(zip((one.name for one in fields(Moment)), map(list, columns), strict=False))
        return found | {"seconds": [round(at, 3) for at in found.get("seconds", [])]}


def marks(moments: Iterable[Moment]) -> list[dict[str, Any]]:
    """Return what happened, in order: the peaks, what was given back, and where a limit was hit.

    Each has its `seconds`, `what` ("peak", "given back", "limit") and `amount`: bytes, or how often.
    """
    seen = list(moments)
    if not seen:
        return []
    most = max(seen, key=lambda moment: moment.resident)
    found: list[dict[str, Any]] = [_mark(most, "peak", most.resident)]
    least = max(GIVEN_BACK_LEAST, int(GIVEN_BACK_SHARE * most.resident))
    for before, after in pairwise(seen):
        given_back, refused = after.given_back - before.given_back, after.refused - before.refused
        if given_back >= least:
            found.append(_mark(after, "given back", given_back))
        if refused > 0:
            found.append(_mark(after, "limit", refused))
    return sorted(found, key=lambda mark: float(mark["seconds"]))


def _mark(moment: Moment, what: str, amount: int) -> dict[str, Any]:
    return {"seconds": round(moment.seconds, 3), "what": what, "amount": amount}
