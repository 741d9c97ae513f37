"""`flowref replay`: one saved case on one target, place by place, until it leaves its bound. For debugging.

What no single pass of the case shows, such as a batch of copies or a refusal, its law shows: ``--law``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from flowref.cases import Case, stream
from flowref.cases.store import load
from flowref.gate.diagnosis import Ask, Place, explain, places
from flowref.gate.options import DIALECTS, PRECISIONS, Settings, Unusable, one_of
from flowref.gate.report.message import located
from flowref.gate.trial import JudgeFailed, Trial
from flowref.gate.verdict import BROKEN, HELD
from flowref.gate.watch import Counted, Watch
from flowref.gate.where import can_be_located, locate
from flowref.laws import registry
from flowref.laws.registry import BOTH, Law
from flowref.reference import ReferenceBlock
from flowref.spec import Dialect
from flowref.targets import Module, TargetError, resolve

WIDEST = 58  # of a place's name
DEVICES = ("cpu", "cuda", "cuda:1")  # where a case can have been found


def replay(
    file: str, target: str, dialect: str | None, precision: str, device: str, law: str | None, console: Console
) -> int:
    """Prints a line a place and the step to look at, then how the law fares. Answers 0 where nothing is out, else 1.

    Raises Unusable for a case, target or law that can't be used.
    """
    case, asked = _case(file), None if law is None else _law(law)
    one_of("--precision", precision, PRECISIONS)
    if DEVICES.index(one_of("--device", device, DEVICES)) > torch.cuda.device_count():
        raise Unusable(
            f"--device={device!r}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices. Use cpu."
        )
    if dialect is not None and one_of("--dialect", dialect, DIALECTS) != case.spec.dialect:
        raise Unusable(f"--dialect={dialect!r}, but the case is one of {case.spec.dialect}. Leave the option out.")
    try:
        found = resolve(target, Dialect(case.spec.dialect))
    except TargetError as error:
        raise Unusable(str(error)) from None
    if precision in found.not_claimed:
        raise Unusable(f"--precision={precision!r}: {target} does not claim it. Use float32 or float64.")
    ask = Ask(case, found, precision, device)
    if asked is not None:
        suits(asked, ask)
    if ask.fits:
        code = _show(ask, console)
    elif asked is None:
        raise Unusable(
            f"--precision={precision!r}: the input of {file} has longer numbers. "
            "Use --precision float64, or give --law."
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


def suits(law: Law, ask: Ask) -> None:
    """Raises Unusable unless the gate could hold the law to this case: elsewhere its formula need not be true."""
    case, name = ask.case, f"--law={law.id!r}"
    precisions = [p for p in PRECISIONS if law.is_judged_in(p, [p])]
    if ask.precision not in precisions:
        raise Unusable(
            f"{name} is not judged in {ask.precision}: need {' or '.join(precisions)}. Use --precision {precisions[0]}."
        )
    if ask.device not in law.devices:
        raise Unusable(f"{name} is not judged on {ask.device}. Use --device {' or '.join(law.devices)}.")
    if law.needs & ask.target.not_claimed:
        raise Unusable(f"{name}: {ask.target.name} does not claim {', '.join(sorted(law.needs))}. Leave it out.")
    if case.edge not in law.kinds:
        need = ", ".join(edge or "those at no edge" for edge in law.kinds)
        raise Unusable(f"{name} is not judged on a case at {case.edge or 'no edge'}: need {need}. Leave it out.")
    # Nothing says for which laws a case without a recipe was made.
    other = None if case.recipe is None else stream.misfit(case.recipe, law.fixed(ask.precision), case.edge)
    if other:
        raise Unusable(f"{name} is judged on cases of {other}. Leave it out.")


def _case(file: str) -> Case:
    try:
        return load(Path(file))
    except (OSError, ValueError) as error:
        raise Unusable(f"CASE={file!r} can't be used: {error}") from None


def _hold(law: Law, ask: Ask, console: Console) -> int:
    """Prints how one law fares on the case, in each of its directions."""
    say = _sayer(console)
    say(f"\n{law.id}: {law.statement}")
    code, watch = HELD, Watch(Settings().call_timeout)
    reference = Module(ReferenceBlock, name="flowref.reference:ReferenceBlock", dialect=ask.target.dialect)
    for direction in law.directions:
        trial = Trial(law, Counted(ask.target), direction, ask.precision, ask.device, watch, reference)
        try:
            failure = trial.meets(ask.case)
        except JudgeFailed as error:  # on the reference too, so the case is of another kind
            raise Unusable(f"--law={law.id!r} can't be held to this case: {error}. Leave it out.") from error
        finally:
            watch.rest()
        if failure is not None:
            say(f"  {direction}: broken: {failure.details['message']}")
            if can_be_located(trial, failure):
                say("\n".join(f"  {line}" for line in located({"where": locate(trial, failure).plain()})))
            code = BROKEN
        else:
            say(f"  {direction}: held, at {trial.ratio:.3g} of the bound")
    return code


def _sayer(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)


def _show(ask: Ask, console: Console) -> int:
    say = _sayer(console)
    where = "" if ask.device == "cpu" else f", on {ask.device}"
    say(f"{ask.case.describe()}\n\nerror ÷ bound, in {ask.precision}{where}:")
    first: Place | None = None
    for place in (place for direction in BOTH for place in places(ask, direction)):
        here = place.out and first is None
        first = place if here else first
        mark = "→" if here else "x" if place.out else " "
        say(f"{mark} {str(place):{WIDEST}} {'raised' if place.raised else f'{place.ratio:.3g}'}")
    if first is None:
        say(f"\n{ask.target.name} is within its bound at every place, in {ask.precision}{where}.")
        return HELD
    say(f"\n{first.message}\nLook at: {explain(ask, first)}")
    return BROKEN
