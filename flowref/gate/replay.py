"""`flowref replay`: one saved case on one target, place by place, until it leaves its bound. For debugging.

What no single pass of the case shows, such as a batch of copies or a refusal, its law shows: ``--law``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from flowref.cases import Case
from flowref.cases.store import load
from flowref.gate.diagnosis import Ask, Place, explain, places
from flowref.gate.options import DIALECTS, PRECISIONS, Unusable, one_of
from flowref.gate.verdict import BROKEN, HELD
from flowref.laws import registry
from flowref.laws.registry import BOTH, Law
from flowref.laws.run import LawBroken, hold_case
from flowref.spec import Dialect
from flowref.targets import TargetError, resolve

WIDEST = 58  # of a place's name


def replay(file: str, target: str, dialect: str | None, precision: str, law: str | None, console: Console) -> int:
    """Prints a line a place and the step to look at, then how the law fares. Answers 0 where nothing is out, else 1.

    Raises Unusable for a case, target or law that can't be used.
    """
    case, asked = _case(file), None if law is None else _law(law)
    one_of("--precision", precision, PRECISIONS)
    if dialect is not None and one_of("--dialect", dialect, DIALECTS) != case.spec.dialect:
        raise Unusable(f"--dialect={dialect!r}, but the case is one of {case.spec.dialect}. Leave the option out.")
    try:
        found = resolve(target, Dialect(case.spec.dialect))
    except TargetError as error:
        raise Unusable(str(error)) from None
    if precision in found.not_claimed:
        raise Unusable(f"--precision={precision!r}: {target} does not claim it. Use float32 or float64.")
    ask = Ask(case, found, precision)
    if ask.fits:
        code = _show(ask, console)
    elif asked is None:
        raise Unusable(
            f"--precision={precision!r}: the input of {file} has longer numbers. Give --law as well, or float32."
        )
    else:
        _sayer(console)(
            f"{case.describe()}\n\nIts input has longer numbers than {precision}; so the law alone is held."
        )
        code = HELD
    return code if asked is None else max(code, _hold(asked, ask, console))


def _law(text: str) -> Law:
    try:
        found = registry.find(text)
    except KeyError as unknown:
        raise Unusable(str(unknown.args[0])) from None
    if len(found) != 1:
        raise Unusable(f"--law={text!r} is a family: need one law's id. Give for example {found[0].id}.")
    return found[0]


def _case(file: str) -> Case:
    try:
        return load(Path(file))
    except (OSError, ValueError) as error:
        raise Unusable(f"CASE={file!r} can't be used: {error}") from None


def _hold(law: Law, ask: Ask, console: Console) -> int:
    """Prints how one law fares on the case, in each of its directions."""
    say = _sayer(console)
    say(f"\n{law.id}: {law.statement}")
    code = HELD
    for direction in law.directions:
        try:
            meter = hold_case(law, ask.case, ask.target, ask.precision, direction, ask.device)
        except LawBroken as broken:
            say(f"  {direction}: broken: {broken}")
            code = BROKEN
        else:
            say(f"  {direction}: held, at {meter.ratio:.3g} of the bound")
    return code


def _sayer(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)


def _show(ask: Ask, console: Console) -> int:
    say = _sayer(console)
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
