"""Cases beyond the explicit rows: Hypothesis draws and shrinks; a row that fails is made smaller by hand.

Both take ``fails``, which runs the law on a case and says how it failed, and both stay with the failure that was
found: a case that fails otherwise is another finding, and counts as held here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, reporting, settings
from hypothesis import seed as seeded
from hypothesis.database import ExampleDatabase
from hypothesis.errors import Flaky, StopTest, Unsatisfiable
from hypothesis.strategies import SearchStrategy

from flowref.cases import Recipe
from flowref.cases.provider import BACKEND
from flowref.gate.trial import Failure

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

# What making a case smaller may cost.
SHRINK_CALLS = 100
SHRINK_SECONDS = 10.0


class _Found(Exception):
    """Raised from one line only, since Hypothesis tells failures apart by the line that raises."""


class _TimeUp(BaseException):
    """Ends a search that was given a time; Hypothesis passes on what is no Exception."""


def search(
    fails: Callable[[Recipe], Failure | None],
    recipes: SearchStrategy[Recipe],
    *,
    examples: int,
    seed: int,
    shrink: bool,
    until: float | None = None,
    database: ExampleDatabase | None = None,
) -> Failure | None:
    """The smallest failure that Hypothesis finds among ``examples`` recipes, or None."""
    found: list[Failure] = []
    stop = _Budget(SHRINK_CALLS, SHRINK_SECONDS)

    def property_(recipe: Recipe) -> None:
        if not found and until is not None and time.monotonic() > until:
            raise _TimeUp
        known = next((failure for failure in found if failure.case.recipe == recipe), None)
        failure = known or (None if found and stop.spent() else fails(recipe))
        if failure is not None and (not found or failure.like(found[0])):
            found.append(failure)
            stop.start()
            raise _Found

    test = given(recipes)(property_)
    phases = [Phase.reuse, Phase.generate] if database is not None else [Phase.generate]
    test = settings(
        max_examples=examples,
        phases=phases + ([Phase.shrink] if shrink else []),
        database=database,
        derandomize=False,
        deadline=None,
        backend=BACKEND,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        print_blob=False,
    )(test)
    try:
        with reporting.with_reporter(lambda text: None):
            seeded(seed)(test)()
    except (_TimeUp, _Found, Flaky, ExceptionGroup, StopTest):
        pass
    except Unsatisfiable:
        return None
    if not found:
        return None
    smallest = found[-1]
    return replace(smallest, drawn=found[0].case.recipe) if shrink else found[0]


class _Budget:
    """So many calls, so many seconds, from the first failure on."""

    def __init__(self, calls: int, seconds: float) -> None:
        self.calls, self.seconds, self.end = calls, seconds, 0.0

    def start(self) -> None:
        self.end = self.end or time.monotonic() + self.seconds

    def spent(self) -> bool:
        self.calls -= 1
        return self.calls < 0 or time.monotonic() > self.end


def shrink(fails: Callable[[Recipe], Failure | None], failure: Failure, legal: Callable[[Recipe], bool]) -> Failure:
    """A smaller case that fails alike: sizes halved, flags off, everything else at its default."""
    if failure.case.recipe is None:
        return failure
    best, drawn = failure, failure.case.recipe
    budget = _Budget(SHRINK_CALLS, SHRINK_SECONDS)
    budget.start()
    tried = {drawn}
    smaller = True
    while smaller:
        smaller = False
        for recipe in _simpler(best.case.recipe or drawn):
            if recipe in tried or not legal(recipe):
                continue
            if budget.spent():
                return replace(best, drawn=drawn)
            tried.add(recipe)
            again = fails(recipe)
            if again is not None and again.like(failure):
                best, smaller = again, True
                break
    return replace(best, drawn=drawn)


def _simpler(recipe: Recipe) -> Iterator[Recipe]:
    """Recipes that are smaller by one step, the largest steps first."""
    for name, values in (("S", _shapes(recipe.S)), ("C", _sizes(recipe.C, 2)), ("B", _sizes(recipe.B, 1))):
        yield from _with(recipe, name, values)
    yield from _with(recipe, "conditions", ((), recipe.conditions[:1], (1,) * len(recipe.conditions)))
    for field_ in fields(Recipe):
        if field_.name not in ("B", "C", "S", "conditions", "dialect"):
            yield from _with(recipe, field_.name, (field_.default,))
    yield from _with(recipe, "reflections", _sizes(recipe.reflections, 1))


def _with(recipe: Recipe, name: str, values: Any) -> Iterator[Recipe]:
    for value in values:
        changed = replace(recipe, **{name: value})
        if changed != recipe and getattr(changed, name) == value:
            yield changed


def _sizes(n: int, least: int) -> list[int]:
    return [k for k in (least, least + 1, n // 2, n - 1) if least <= k < n]


def _shapes(S: tuple[int, ...]) -> list[tuple[int, ...]]:  # noqa: N803 (letter of docs/block.md)
    halves = [(*S[:k], S[k] // 2, *S[k + 1 :]) for k in range(len(S)) if S[k] > 1]
    return ([()] if S else []) + [S[:k] + S[k + 1 :] for k in range(len(S))] + halves if S else []
