"""`flowref replay`: one saved case on one target, place by place, until it leaves its bound. For debugging."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from flowref.cases import Case
from flowref.cases.store import load
from flowref.gate.diagnosis import Ask, Place, explain, places
from flowref.gate.options import DIALECTS, PRECISIONS, Unusable, one_of
from flowref.gate.verdict import BROKEN, HELD
from flowref.laws.registry import BOTH
from flowref.spec import Dialect
from flowref.targets import TargetError, resolve

WIDEST = 58  # of a place's name


def replay(file: str, target: str, dialect: str | None, precision: str, console: Console) -> int:
    """Prints a line a place and the step to look at. Answers 0 where all are within their bounds, else 1.

    Raises Unusable for a case or target that can't be used.
    """
    case = _case(file)
    one_of("--precision", precision, PRECISIONS)
    if dialect is not None and one_of("--dialect", dialect, DIALECTS) != case.spec.dialect:
        raise Unusable(f"--dialect={dialect!r}, but the case is one of {case.spec.dialect}. Leave the option out.")
    try:
        found = resolve(target, Dialect(case.spec.dialect))
    except TargetError as error:
        raise Unusable(str(error)) from None
    if precision in found.not_claimed:
        raise Unusable(f"--precision={precision!r}: {target} does not claim it. Use float32 or float64.")
    return _show(Ask(case, found, precision), console)


def _case(file: str) -> Case:
    try:
        return load(Path(file))
    except (OSError, ValueError) as error:
        raise Unusable(f"CASE={file!r} can't be used: {error}") from None


def _show(ask: Ask, console: Console) -> int:
    say = lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    say(f"{ask.case.describe()}\n\nerror ÷ bound, in {ask.precision}:")
    first: Place | None = None
    for place in (place for direction in BOTH for place in places(ask, direction)):
        here = place.out and first is None
        first = place if here else first
        mark = "→" if here else "x" if place.out else " "
        say(f"{mark} {str(place):{WIDEST}} {'raised' if place.raised else f'{place.ratio:.3g}'}")
    if first is None:
        say(f"\n{ask.target.name} is within its bound at every place, in {ask.precision}.")
        return HELD
    say(f"\n{first.message}\nLook at: {explain(ask, first)}")
    return BROKEN
