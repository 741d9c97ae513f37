"""Fractions where the block is rational, and a word for all other numbers: which results can be a tie.

FRACTIONS   stands in for mpmath's context in `flowref.exact.Exact`
UNKNOWN     a number that no fraction is known for; what comes of it is UNKNOWN too, but for its product with 0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any


class Unknown:
    """A number that is not known as a fraction."""

    def _unknown(self, other: Any) -> Unknown:
        return self

    def __mul__(self, other: Any) -> Any:
        return Fraction(0) if other == 0 else self

    def __neg__(self) -> Unknown:
        return self

    def __pow__(self, other: int) -> Unknown:
        return self

    def __rtruediv__(self, other: Any) -> Any:
        return Fraction(0) if other == 0 else self

    __add__ = __radd__ = __sub__ = __rsub__ = __truediv__ = _unknown
    __rmul__ = __mul__


UNKNOWN = Unknown()


def _function(at: int, value: int) -> Callable[[Any, Any], Any]:
    """A function that is irrational (Lindemann) at every fraction but one."""
    return lambda self, x: Fraction(value) if x == at else UNKNOWN


class _Fractions:
    """What `flowref.exact` asks of a context, over fractions."""

    zero, one = Fraction(0), Fraction(1)
    mpf = staticmethod(Fraction)
    exp, log, log1p, tanh, sech = _function(0, 1), _function(1, 0), _function(0, 0), _function(0, 0), _function(0, 1)

    def fdot(self, a: Sequence[Any], b: Sequence[Any]) -> Any:
        """Σ a·b."""
        return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


FRACTIONS = _Fractions()
