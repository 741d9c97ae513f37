"""Where an item's time goes: `part` names what runs, and `Spent` sums the seconds of each part.

Parts are exclusive: while one runs inside another, only the inner one's clock goes. Making a case smaller, looking for
the step and asking the canary are whole: all that runs inside counts as theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

# cases: drawing and making them; reference: its values and bounds; target: its calls; comparison: of the two; law: the
# rest of the laws' own work; shrinking, diagnosis; canary: whether the judge is still the judge; other: all else.
PARTS = ("cases", "reference", "target", "comparison", "law", "shrinking", "diagnosis", "canary", "other")
WHOLE = frozenset({"shrinking", "diagnosis", "canary"})


class Spent:
    """The clock of one process."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._now, self._since = "other", perf_counter()

    def turn(self, part: str) -> str:
        """From now on this part runs; the one that ran until now."""
        now, before = perf_counter(), self._now
        self.seconds[before] += now - self._since
        self._now, self._since = part, now
        return before

    def read(self) -> dict[str, float]:
        """Seconds of each part since it was last read, those that took any."""
        self.turn(self._now)
        found = {part: round(seconds, 3) for part, seconds in self.seconds.items()}
        self.seconds = dict.fromkeys(PARTS, 0.0)
        return {part: seconds for part, seconds in found.items() if seconds}


SPENT = Spent()


@contextmanager
def part(name: str) -> Iterator[None]:
    """What runs inside, and what a function under it as a decorator does, is this part's."""
    before = SPENT.turn(name)
    if before in WHOLE:
        SPENT.turn(before)
    try:
        yield
    finally:
        SPENT.turn(before)
