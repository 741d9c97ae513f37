"""Is the judge still the judge? A target is code of someone else, run in the judge's own process.

Two ways to see that it was changed, asked after the target is imported and after each item:

1. Every function and class of flowref that judges is the object, with the code, that it was before.
2. A planted fault breaks a few laws on one case, and the reference holds them there. That also sees what was
   changed outside flowref: comparisons of tensors, exceptions, torch itself.
"""

from __future__ import annotations

import inspect
import sys
from types import FunctionType, ModuleType
from typing import Any

from flowref.cases import Recipe
from flowref.laws import registry
from flowref.laws.run import LawBroken, Meter, hold_case
from flowref.reference import ReferenceBlock
from flowref.targets import Module

JUDGES = ("flowref.spec", "flowref.reference", "flowref.bounds", "flowref.cases", "flowref.laws", "flowref.gate")
# Laws that each see the planted fault, in both ways of comparing that laws have.
LAWS = ("reference.output-equals-reference", "logdet.equals-reference", "inverse.reverse-undoes-forward")
RECIPE = Recipe(B=2, C=4, S=(2,), soft=True, seed=1)


class Planted(ReferenceBlock):
    """The reference with a fault that no law may overlook: everything is off by one."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        (y,), logdet = super().forward(*args, **kwargs)
        return (y + 1,), logdet + 1


class Canary:
    """What the judge looked like before any target was imported."""

    def __init__(self) -> None:
        self._laws = _laws()
        self._hold = hold_case  # our own hold on it, whatever becomes of the module's
        self._case = RECIPE.case()
        self._faulty = Module(Planted, name="a planted fault")
        self._right = Module(ReferenceBlock, name="the reference")
        self._probes = [law for law in registry.all() if law.id in LAWS]
        self._before = _judges()
        self._compare = _same

    def changed(self) -> str | None:
        """What was tampered with, or None."""
        after = _judges()
        for name, before in self._before.items():
            if name not in after or not self._compare(before, after[name]):
                return f"{name} is not what it was before the target was imported"
        if _laws() != self._laws:
            return "the registry of laws is not what it was before the target was imported"
        for law in self._probes:
            if self._holds(law, self._faulty):
                return f"{law.id} holds on a planted fault"
            if not self._holds(law, self._right):
                return f"{law.id} is broken by the reference"
        return None

    def _holds(self, law: registry.Law, target: Any) -> bool:
        try:
            self._hold(law, self._case, target, "float64", law.directions[0], "cpu", Meter())
        except LawBroken:
            return False
        except Exception:
            return target is self._faulty  # neither answer is right: the probe reports it either way
        return True


def _laws() -> list[tuple[Any, ...]]:
    """Every law: the object, what it does, and all that it states."""
    return [(id(law), law.body, getattr(law.body, "__code__", None), repr(law)) for law in registry.all()]


def _same(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    return len(before) == len(after) and all(one is other for one, other in zip(before, after, strict=True))


def _judges() -> dict[str, tuple[Any, ...]]:
    """Every function, and its code, of the modules that judge, and of their classes."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, module in list(sys.modules.items()):
        if name.startswith(JUDGES) and isinstance(module, ModuleType):
            for key, value in list(vars(module).items()):
                if isinstance(value, type) and value.__module__ == name:
                    for attribute, member in list(vars(value).items()):
                        _note(found, f"{name}.{key}.{attribute}", member)
                if callable(value):
                    _note(found, f"{name}.{key}", value)
    return found


def _note(found: dict[str, tuple[Any, ...]], name: str, value: Any) -> None:
    function = getattr(value, "__func__", value)
    function = getattr(function, "fget", function) if isinstance(value, property) else function
    if isinstance(function, FunctionType):
        found[name] = (value, function.__code__)
    elif inspect.isclass(value) or callable(value) or isinstance(value, property):
        found[name] = (value,)
