"""Is the judge still the judge? A target is code of someone else, run in the judge's own process.

Two ways to see that it was changed, asked after the target is imported and after each item:

1. Every function and class of flowref that judges is the object, with the code, that it was before.
2. A planted fault breaks a few laws on one case, and the reference holds them there. That also sees what was
   changed outside flowref: comparisons of tensors, exceptions, torch itself.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from flowref.cases import Recipe
from flowref.laws import registry
from flowref.laws.run import LawBroken, Meter, hold_case
from flowref.reference import ReferenceBlock
from flowref.targets import Module

JUDGES = tuple(f"flowref.{room}" for room in ("spec", "reference", "bounds", "cases", "targets", "laws", "gate"))
# Laws that each see the planted fault, in both ways of comparing that laws have.
LAWS = ("reference.output-equals-reference", "logdet.equals-reference", "inverse.reverse-undoes-forward")
RECIPE = Recipe(B=2, C=4, S=(2,), seed=1)


class Planted(ReferenceBlock):
    """The reference with a fault that no law may overlook: everything is off by one."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        (y,), logdet = super().forward(*args, **kwargs)
        return (y + 1,), logdet + 1


class Kept(Module):
    """A target that is built and loaded once, as it is asked after each item and has one case only."""

    block: Any = None
    loaded = False

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """The block."""
        self.block = super().build(*args, **kwargs) if self.block is None else self.block
        return self.block

    def load(self, *args: Any) -> None:
        """Load the block, the first time."""
        if not self.loaded:
            super().load(*args)
            self.loaded = True


@dataclass(frozen=True)
class Seen:
    """A name in a module, class or law, and what it stood for, with its code where it has some."""

    name: str
    place: Mapping[str, Any]
    key: str
    value: Any
    code: tuple[Any, ...] | None

    def is_unchanged(self) -> bool:
        """Whether the name still stands for the same object, with the same code."""
        if self.place.get(self.key) is not self.value or self.code is None:
            return self.place.get(self.key) is self.value
        now = _code(self.value) or ()
        return len(now) == len(self.code) and all(map(operator.is_, now, self.code))


class Canary:
    """What the judge looked like before any target was imported."""

    def __init__(self) -> None:
        self._registry = [id(law) for law in registry.all()]
        self._fixes = [(law, dict(law.fix)) for law in registry.all()]
        self._probes = [law for law in registry.all() if law.id in LAWS]
        self._hold = hold_case  # our own hold on it, whatever becomes of the module's
        self._case = RECIPE.case()
        self._faulty = Kept(Planted, name="a planted fault")
        self._right = Kept(ReferenceBlock, name="the reference")
        self._seen = [*_judges(), *_laws()]
        self.changed()  # builds both blocks

    def changed(self) -> str | None:
        """What was tampered with, or None."""
        for seen in self._seen:
            if not seen.is_unchanged():
                return f"{seen.name} is not what it was before the target was imported"
        fixed = all(law.fix == fix for law, fix in self._fixes)
        if not fixed or [id(law) for law in registry.all()] != self._registry:
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


def _judges() -> Iterator[Seen]:
    """Every function and class of the modules that judge, and every member of these classes."""
    for name, module in list(sys.modules.items()):
        if name.startswith(JUDGES):
            yield Seen(name, sys.modules, name, module, None)
            for key, value in vars(module).items():
                if callable(value):
                    yield Seen(f"{name}.{key}", vars(module), key, value, _code(value))
                if isinstance(value, type) and value.__module__ == name:
                    for inner, member in vars(value).items():
                        if _code(member) is not None:
                            yield Seen(f"{name}.{key}.{inner}", vars(value), inner, member, _code(member))


def _laws() -> Iterator[Seen]:
    """Everything that a law states, and what it does."""
    for law in registry.all():
        for key, value in vars(law).items():
            yield Seen(f"{law.id}, {key},", vars(law), key, value, _code(value))


def _code(value: Any) -> tuple[Any, ...] | None:
    """The code of a function, method, property or cached property, then of what it wraps; None where it has none."""
    found: list[Any] = []
    while value is not None:
        if type(value) is not FunctionType:
            for inner in ("__func__", "fget", "func"):
                value = getattr(value, inner, value)
        code, value = getattr(value, "__code__", None), getattr(value, "__wrapped__", None)
        found += [code] * (code is not None)
    return tuple(found) or None
