"""The error that is allowed beside each answer: derived in `flowref.bounds`, in float32 and in float64.

    allowed      by the names of the answers, arrays (2, *shape): float32, then float64
    rounded_up   to 3 significant bits, so that last bits of the machine that computed a bound do not show
    margin       how near any bound came to a step of that rounding, relative

Derivation: docs/bounds.md; what is added here: docs/golden.md, how the numbers are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowref.bounds import FLOAT32, FLOAT64, Bounded
from flowref.cases import Case
from flowref.golden.answers import gradient_name
from flowref.laws.run import Wanted

Array = NDArray[np.float64]
BITS = 3
APART = 2.0**-20  # added first, so that a bound of few bits, such as u itself, lies on no step
# The reference's letters in reverse, where `z` goes into the coupling and `u` comes out of it.
LETTERS = {
    "forward": {"sigma": "sigma", "W": "W", "z": "z", "a": "a", "l": "l", "t": "t", "u": "u", "v": "v"},
    "reverse": {"a": "a", "l": "l", "t": "t", "u": "z", "z": "u"},
}


class Undecided(ValueError):
    """A bound that is infinite or not a number: this case decides nothing."""


def allowed(case: Case, wanted: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
    """The allowed errors of the wanted answers, and their `margin`. Raises Undecided."""
    found, nearest = {}, np.inf
    narrow, wide = _bounds(case, FLOAT32, wanted), None
    if own_bound_in_float64(case) or any(b.arith.bent for b in narrow.values()):
        wide = _bounds(case, FLOAT64, wanted)
    for name, want in wanted.items():
        error = _error(narrow[name], want)
        share = error * (FLOAT64.u / FLOAT32.u) if wide is None else _error(wide[name], want)
        half_ulp = np.where(error > 0, FLOAT64.u * np.abs(want), 0.0)  # of the wanted number, which is rounded itself
        both = np.stack([error + half_ulp, share + half_ulp])
        if not np.isfinite(both).all():
            raise Undecided(f"{name} has no bound: arithmetic in float32 promises nothing here. Use smaller numbers.")
        found[name], near = rounded_up(both)
        nearest = min(nearest, near)
    return found, float(nearest)


def own_bound_in_float64(case: Case) -> bool:
    """Whether a linear softplus (torch's past 20) counts, whose error does not shrink with u; past 38 it is exact."""
    spec, s = case.spec, case.state["global_scale"]
    return spec.global_affine_type == "SOFTPLUS" and not spec.gin_block and bool(((s > 39) & (s < 76)).any())


def rounded_up(bounds: Array) -> tuple[Array, float]:
    """Bounds to 3 significant bits, none smaller; and how near, relative, the nearest was to such a number."""
    fraction, exponent = np.frexp(bounds * (1 + APART))
    steps = np.ldexp(fraction, BITS)
    far = np.abs(steps - np.rint(steps))[steps > 0] / steps[steps > 0]
    return np.ldexp(np.ceil(steps), exponent - BITS), float(far.min()) if far.size else np.inf


def _error(bound: Bounded, want: Array) -> Array:
    return np.broadcast_to(bound.error.numpy().astype(np.float64), want.shape)


def _bounds(case: Case, arith: Any, names: Mapping[str, Any]) -> dict[str, Bounded]:
    """The reference's passes and gradients on numbers that carry their error, by the names of the answers."""
    one, found = Wanted(case, arith), dict[str, Bounded]()
    for direction, letters in LETTERS.items():
        rev = direction == "reverse"
        traced, by = one.go(rev), one.gradients(rev, "both")
        values = {"out": traced.out, "logdet": traced.logdet}
        values |= {gradient_name(name): g for name, g in by.items()}
        values |= {f"step.{name}": getattr(traced, letter) for name, letter in letters.items()}
        found |= {f"{direction}.{name}": v for name, v in values.items() if f"{direction}.{name}" in names}
    return found
