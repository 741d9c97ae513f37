"""A search for the case on which an error comes nearest to its bound, and a record of those found.

Worst     a case as a recipe and changes of single numbers, and the ratio that it reached
ascend    from one recipe, change one number after another and keep what raises the ratio
search    that, from the best of many drawn cases, for every quantity in turn, until the time is up
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from flowref.cases import Case, Recipe
from flowref.faults.compare import COMPARE, QUANTITIES, TITLES, drawn

FIXED = ("state.w_perm", "state.w_perm_inv", "state.w_0")  # orthogonal as they are
Change = tuple[str, int, float]  # name of the array, place in row-major order, new value


@dataclass(frozen=True, repr=False)
class Worst:
    """The case that came nearest to its bound in one quantity; ``ratio`` is the error ÷ bound it had when found."""

    against: str
    quantity: str
    rev: bool
    ratio: float
    recipe: Recipe
    changes: tuple[Change, ...] = ()

    def __repr__(self) -> str:
        """To paste, in one line."""
        words = [
            self.against,
            self.quantity,
            self.rev,
            self.ratio,
            self.recipe,
            *([self.changes] if self.changes else []),
        ]
        return f"Worst({', '.join(map(repr, words))})"

    def case(self) -> Case:
        """The recipe's case with its changes."""
        return changed(self.recipe.case(), self.changes)

    def measure(self) -> float:
        """The largest error ÷ bound of this quantity, now."""
        return ratio_of(self.against, self.quantity, self.case(), self.rev)


def changed(case: Case, changes: tuple[Change, ...]) -> Case:
    """The case with some numbers set."""
    arrays = {name: value.clone() for name, value in case.arrays.items()}
    for name, place, value in changes:
        arrays[name].view(-1)[place] = value
    return replace(
        case,
        state={name: arrays[f"state.{name}"] for name in case.state},
        x=arrays["x"],
        c=tuple(arrays[f"c{k}"] for k in range(len(case.c))),
        gy=arrays["gy"],
        gj=arrays["gj"],
    )


def ratio_of(against: str, quantity: str, case: Case, rev: bool) -> float:
    """The largest error ÷ bound of one quantity, over all elements, decided or not; 0 where there is none."""
    largest = 0.0
    with torch.no_grad() if against == "exact" else torch.enable_grad():
        for compared in COMPARE[against](case, rev):  # in the order of QUANTITIES, gradients last
            if compared.quantity == quantity:
                largest = max(largest, compared.largest)
                if quantity in QUANTITIES[:3]:
                    break
    return largest


def ascend(start: Worst, goes_on: Callable[[], bool], seed: int = 0) -> Worst:
    """Change single numbers, at random, and keep each change that raises the ratio."""
    pick, base, best = random.Random(seed), start.recipe.case(), start
    places = [
        (name, place, value)
        for name, array in base.arrays.items()
        if name not in FIXED
        for place, value in enumerate(array.flatten().tolist())
        if value  # a 0 stays: sparse matrices are sharp because they are sparse
    ]
    while places and goes_on():
        changes = {(name, place): value for name, place, value in best.changes}
        for name, place, first in pick.choices(places, k=pick.choice((1, 1, 1, 2, 3))):
            now = changes.get((name, place), first)
            changes[name, place] = _moved(pick, first, now, start.against == "reference")
        trial = replace(best, changes=tuple((*key, value) for key, value in changes.items()))
        ratio = trial.measure()
        if ratio > best.ratio:
            best = replace(trial, ratio=ratio)
    return _pruned(best)


def _pruned(worst: Worst) -> Worst:
    """Without the changes that do not matter."""
    for change in worst.changes:
        fewer = replace(worst, changes=tuple(one for one in worst.changes if one != change))
        ratio = fewer.measure()
        if ratio >= worst.ratio:
            worst = replace(fewer, ratio=ratio)
    return worst


def _moved(pick: random.Random, first: float, now: float, single: bool) -> float:
    """Another value in place of ``now``: of its binade, its negative, or near it; within a factor 4 of the first."""
    kind = pick.randrange(5)
    if kind == 0:
        value = -now
    elif kind == 1:
        value = now * (1 + pick.randint(-8, 8) * (2.0**-23 if single else 2.0**-52))
    elif kind == 2:
        value = math.ldexp(1 + pick.random(), math.frexp(now)[1] - 1) * math.copysign(1, now)
    elif kind == 3:
        value = now * pick.uniform(0.5, 2)
    else:
        value = first * 2.0 ** pick.randint(-2, 2)
    if not abs(first) / 4 <= abs(value) <= 4 * abs(first):
        value = now
    return float(torch.tensor(value, dtype=torch.float32)) if single else value


def search(
    seconds: float, *, starts: Sequence[Worst] = (), first: int = 0, against: Sequence[str] = tuple(TITLES)
) -> Iterator[Worst]:
    """For each quantity and direction the worst case found, each in the same share of the time.

    A third of it goes into drawing, from the case of number `first` on; the rest into ascending from the best of these
    and of `starts`.
    """
    goals = [(one, quantity, rev) for one in against for quantity in QUANTITIES for rev in (False, True)]
    for turn, (one, quantity, rev) in enumerate(goals):
        begun, share = time.monotonic(), seconds / len(goals)
        best = Worst(one, quantity, rev, -1.0, Recipe(B=1, C=2))
        known = [
            replace(w, ratio=w.measure()) for w in starts if (w.against, w.quantity, w.rev) == (one, quantity, rev)
        ]
        number = first
        while time.monotonic() - begun < share / 3:
            recipe = drawn(40 * number, 24 if one == "reference" else 53)  # a small one
            if number % 4:  # tiny: few roundings, hence bounds that can be reached
                recipe = replace(recipe, B=1, C=2, S=(), conditions=(), reflections=min(recipe.reflections, 1))
            drawn_one = Worst(one, quantity, rev, ratio_of(one, quantity, recipe.case(), rev), recipe)
            best = max(best, drawn_one, key=lambda w: w.ratio)
            number += 1
        best = max(best, *known, key=lambda w: w.ratio) if known else best
        yield ascend(best, lambda until=begun + share: time.monotonic() < until, first + turn)  # type: ignore[misc]
