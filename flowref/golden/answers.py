"""The answers of a case: what a correct block computes, each number the float64 nearest to the exact one.

    answers        by name, for both directions: output, log-det, gradients, and the steps where they are asked for
    Unsettled      a number lies so near to the middle of two float64 that 2,000 digits don't tell on which side

Method: docs/golden.md, how the numbers are made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowref.cases import Case
from flowref.exact import Exact, Subnet, flat, nearest
from flowref.golden.rational import FRACTIONS, UNKNOWN, Unknown
from flowref.golden.subnet import scalar_subnet

DIGITS = (40, 60, 120, 240, 480, 960, 2000)
Array = NDArray[np.float64]
FORWARD_STEPS, REVERSE_STEPS = ("sigma", "W", "z", "a", "l", "t", "u", "v"), ("a", "l", "t", "u", "z")


class Unsettled(ValueError):
    """A number that 2,000 digits don't round."""


def answers(case: Case, steps: bool) -> dict[str, Array]:
    """``forward.out``, ``forward.logdet``, ``forward.grad.*``, ``forward.step.*``, then the same for reverse."""
    found: dict[str, Array] = {}
    for direction in ("forward", "reverse"):
        rounded = _settled(case, direction == "reverse", steps)
        found |= {f"{direction}.{name}": value for name, value in rounded.items()}
    return found


def zero_by_rule(case: Case, name: str) -> bool:
    """Structural zeros, whose digits would never end in a certain rounding."""
    spec = case.spec
    if name == "logdet":
        return spec.gin_block
    return name == "grad.state.vk_householder" and spec.C == 1  # W = ±1, whatever v is


def flat_coupling(case: Case) -> bool:
    """Whether l = 0 whatever the coefficients: GIN with one active element a sample."""
    return case.spec.gin_block and case.spec.A * case.spec.N == 1


def _settled(case: Case, rev: bool, steps: bool) -> dict[str, Array]:
    sizes = shapes(case, rev, steps)
    known = _numbers(case, rev, steps, None)
    done: dict[str, list[float | None]] = {}
    for name in sizes:
        exact = [Fraction(0)] * math.prod(sizes[name]) if zero_by_rule(case, name) else known[name]
        done[name] = [None if isinstance(v, Unknown) else v.numerator / v.denominator for v in exact]
    for fewer, digits in pairwise(DIGITS):
        if not any(v is None for values in done.values() for v in values):
            break
        low, high = _numbers(case, rev, steps, fewer), _numbers(case, rev, steps, digits)
        for name, values in done.items():
            pairs = zip(values, low[name], high[name], strict=True)
            done[name] = [certain(a, b, fewer) if v is None else v for v, a, b in pairs]
    for name, values in done.items():
        if any(v is None for v in values):
            raise Unsettled(f"{name} holds a number that {DIGITS[-1]} digits don't round. Draw other numbers.")
    return {name: np.array(values, np.float64).reshape(sizes[name]) for name, values in done.items()}


def certain(low: Any, high: Any, digits: int) -> float | None:
    """The float64 nearest to a number of which two computations are known, the first at ``digits`` digits.

    Granted is twice their difference, and 10^(8 − digits) of the magnitude more. None where it doesn't decide.
    """
    radius = 2 * abs(high - low) + abs(high) * high.context.mpf(10) ** (8 - digits)
    below, above = _float64(high - radius), _float64(high + radius)
    return below if below == above and math.copysign(1, below) == math.copysign(1, above) else None


def _float64(value: Any) -> float:
    """`nearest`, which would write out all digits of a number that is far below every float64."""
    sign, _, exponent, bits = value._mpf_
    return (-0.0 if sign else 0.0) if exponent + bits < -1200 and bits else nearest(value)


def _numbers(case: Case, rev: bool, steps: bool, digits: int | None) -> dict[str, list[Any]]:
    """Every answer at so many digits, or as fractions; numbers in row-major order."""
    block = _exact(case, digits)
    one = (block.reverse if rev else block.forward)(case.x, case.c)
    gj = [0] * case.B if case.spec.gin_block else case.gj
    found = {"out": flat(one.out), "logdet": one.logdet}
    by = block.gradient(case.x, case.c, case.gy, gj, rev=rev)
    found |= {gradient_name(name): flat(g) for name, g in by.items()}
    if steps:
        found |= {f"step.{name}": flat(getattr(one, name)) for name in (REVERSE_STEPS if rev else FORWARD_STEPS)}
        if digits is None and flat_coupling(case):
            found["step.a"] = [UNKNOWN] * len(found["step.a"])  # what `_subnet` answered in its place
    return found


def gradient_name(name: str) -> str:
    """``grad.x``, ``grad.c0`` …, ``grad.state.global_scale`` …: the gradient by a given array, by the block's names."""
    given = name == "x" or name[0] == "c" and name[1:].isdigit()
    return f"grad.{name}" if given else f"grad.state.{name}"


def _exact(case: Case, digits: int | None) -> Exact:
    block = Exact(case.spec, case.state, _subnet(case, digits is None), digits or DIGITS[0])
    if digits is None:
        block.ctx, block.state = FRACTIONS, {name: _fractions(v.tolist()) for name, v in case.state.items()}
    return block


def _fractions(nested: Any) -> Any:
    return [_fractions(one) for one in nested] if isinstance(nested, list) else Fraction(nested)


def _subnet(case: Case, fractions: bool) -> Subnet:
    """The subnet; where l = 0 whatever it answers for the scaling, fractions see it answer 0 there."""
    subnet, A = scalar_subnet(case), case.spec.A
    if not (fractions and flat_coupling(case)):
        return subnet

    def quiet(ctx: Any, parameters: Mapping[str, Any], rows: Any) -> Any:
        a = subnet(ctx, parameters, rows)
        return [[Fraction(0)] * len(row) for row in a[:A]] + a[A:]

    return quiet


def shapes(case: Case, rev: bool, steps: bool) -> dict[str, tuple[int, ...]]:
    """Name and shape of each answer in one direction."""
    spec, B = case.spec, case.B
    whole, column = (B, *spec.dims), (1, spec.C, *(1,) * spec.rank)
    part = (B, spec.A, *spec.S)
    found = {"out": whole, "logdet": (B,), "grad.x": whole}
    found |= {f"grad.c{k}": tuple(c.shape) for k, c in enumerate(case.c)}
    trained = sorted(name for name in case.state if not name.startswith("w_"))
    found |= {f"grad.state.{name}": tuple(case.state[name].shape) for name in trained}
    step = {"sigma": column, "W": (spec.C, spec.C), "a": (B, spec.subnet_out, *spec.S), "l": part, "t": part}
    names = (REVERSE_STEPS if rev else FORWARD_STEPS) if steps else ()
    return found | {f"step.{name}": step.get(name, whole) for name in names}
