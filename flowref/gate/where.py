"""Where a law breaks: the fewest regimes that tell the cases on which it breaks from those on which it holds.

    separating(outcomes)    pure: cases as sets of regimes, each broken or not, to what separates them
    locate(trial, failure)  a few more explicit rows of the law, and what separates them

A choice is some of the values of one question, such as EXP or SIGMOID of the global scale's types. All cases that
break lie in the narrowest choice of each question, so one question is enough where no case that holds lies in its
choice, and two where none lies in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from flowref.cases import stream
from flowref.cases.layouts import LAYOUTS
from flowref.cases.regimes import EDGES
from flowref.cases.subnets import PROBES
from flowref.gate.trial import Failure, Trial, made

ENTRIES = 4  # of known failures, at most: more are no help
ROWS = 24  # cases tried: a limit of seconds would not be the same everywhere
Outcome = tuple[frozenset[str], bool]  # a case's regimes; whether the law broke there

# The questions, the block's arguments first. A case has one answer to each: a regime, or none of them.
QUESTIONS: tuple[tuple[str, ...], ...] = (
    EDGES,
    ("softplus", "sigmoid", "exp"),
    ("gin",),
    ("soft",),
    ("reflections-1", "reflections-odd", "reflections-even"),
    ("reverse-permutation",),
    ("rank-0", "rank-1", "rank-2", "rank-3"),
    ("conditions-0", "conditions-1", "conditions-2", "conditions-3"),
    ("channels-odd", "channels-even"),
    *((f"channels-over-{n}",) for n in (16, 32, 64, 128, 256)),
    ("batch-1",),
    *((f"batch-over-{n}",) for n in (32, 64)),
    ("pixels-1",),
    *((f"pixels-over-{n}",) for n in (256, 1024)),
    ("square",),
    ("reflections-over-channels",),
    ("g-small", "g-large"),
    ("clamp-linear", "clamp-curved", "clamp-saturated"),
    tuple(f"subnet-{name}" for name in PROBES),
    tuple(f"layout-{name}" for name in LAYOUTS),
)
TYPES = ("softplus", "sigmoid", "exp")


@dataclass(frozen=True)
class Choice:
    """Some answers to a question, and those of the cases outside of it; None stands for none of its regimes."""

    question: tuple[str, ...]
    answers: frozenset[str | None]
    others: frozenset[str | None] = frozenset()

    def holds(self, regimes: frozenset[str]) -> bool:
        """Whether a case lies in it."""
        return _answer(self.question, regimes) in self.answers

    @property
    def named(self) -> list[str]:
        """The regimes in it; none where it takes cases that have no regime of the question."""
        return [] if None in self.answers else [name for name in self.question if name in self.answers]

    @property
    def rest(self) -> str:
        """The other cases, by what they have."""
        return "without" if None in self.others else f"with {self._said(self.others)}"

    def __str__(self) -> str:
        if self.named and len(self.named) <= max(2, len(self.others)):
            return self._said(self.answers)
        return f"no {self._said(self.others - {None})}"

    def _said(self, answers: frozenset[str | None]) -> str:
        return " or ".join(name.upper() if name in TYPES else name for name in self.question if name in answers)


@dataclass(frozen=True)
class Where:
    """What separates, in one choice or two; how many cases broke and held, in it and outside. Nothing: no choice."""

    choices: tuple[Choice, ...]
    broken: int
    held: int

    @property
    def regimes(self) -> list[list[str]]:
        """Values of ``where`` for entries of known failures, one entry each; empty where none can say it.

        An entry names what a case has. A choice that says what it has not is left out of it, so that it covers more:
        outside of it the law holds all the same.
        """
        named = [choice.named for choice in self.choices if choice.named]
        entries = [list(one) for one in product(*named)] if named else []
        return entries if len(entries) <= ENTRIES else []

    def __str__(self) -> str:
        tried = self.broken + self.held
        if not self.choices:
            alike = "no one or two regimes separate them" if self.held else "all that were tried"
            return f"breaks in {self.broken} of {tried} cases, {alike}"
        there = f"breaks in {self.broken} of {self.broken} cases with {' and '.join(map(str, self.choices))}"
        if not self.held:
            return there
        return f"{there}, in none of {self.held} {'others' if self.choices[1:] else self.choices[0].rest}"

    def plain(self) -> dict[str, Any]:
        """As a record holds it."""
        return {"text": str(self), "regimes": self.regimes, "broken": self.broken, "held": self.held}


def _answer(question: tuple[str, ...], regimes: frozenset[str]) -> str | None:
    return next((name for name in question if name in regimes), None)


def separating(outcomes: Sequence[Outcome]) -> Where:
    """The fewest choices, of the fewest answers, that hold for every broken case and for none that held.

    With fewer than two cases on either side any question would separate them, so none is said to.
    """
    broken, held = ([regimes for regimes, out in outcomes if out is side] for side in (True, False))
    found: tuple[Choice, ...] = ()
    if min(len(broken), len(held)) >= 2:
        narrow = [_narrow(question, broken, held) for question in QUESTIONS]
        said = [one for one in narrow if not all(one.holds(case) for case in held)]
        found = next(_separating(said, held), ())
    return Where(found, len(broken), len(held))


def _narrow(question: tuple[str, ...], broken: Sequence[frozenset[str]], held: Sequence[frozenset[str]]) -> Choice:
    """The narrowest choice in which all broken cases lie."""
    answers, others = (frozenset(_answer(question, case) for case in cases) for cases in (broken, held))
    return Choice(question, answers, others - answers)


def _separating(said: Sequence[Choice], held: Iterable[frozenset[str]]) -> Iterator[tuple[Choice, ...]]:
    """One choice before two, fewer answers before more, then in the order of the questions."""
    for number in (1, 2):
        for group in sorted(combinations(said, number), key=lambda group: sum(len(one.answers) for one in group)):
            if not any(all(one.holds(case) for one in group) for case in held):
                yield group


def can_be_located(trial: Trial, failure: Failure) -> bool:
    """Whether the law has rows to try; not so for one of rows of its own, or whose pass took too long."""
    return failure.kind != "timeout" and not trial.law.own and not trial.law.parts and trial.law.rows != 1


def locate(trial: Trial, failure: Failure) -> Where:
    """Where a law breaks in the same way as on this case, by explicit rows of it that lie there and elsewhere."""
    dialect, fix, edge = trial.target.dialect, trial.law.fixed(trial.precision), failure.case.edge
    rows = stream.rows("ci", dialect, fix) if None in trial.law.kinds else []
    rows = [*(stream.edge_rows(edge, dialect, fix) if edge else ()), *rows]
    seen: list[Outcome] = [(failure.case.regimes, True)]
    for case in map(made, rows[:ROWS]):
        again = trial.meets(case, count=False) if case.id != failure.case.id else None
        if case.id != failure.case.id and (again is None or again.like(failure)):
            seen.append((case.regimes, again is not None))
    found = separating(seen)
    if edge and not found.held:  # a law of this edge alone
        return Where((Choice(EDGES, frozenset({edge})),), found.broken, 0)
    return found
