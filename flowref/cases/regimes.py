"""Regimes: named facts of a case, which a law may need to have met.

REGIMES      id -> Regime: a note for readers, and the question
EDGES        the ids of those that real blocks refuse outright; a case is at one at most
regimes_of   all ids that hold for a case
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from flowref.cases.layouts import LAYOUTS
from flowref.cases.subnets import PROBES
from flowref.spec import AFFINE_TYPES, Dialect

if TYPE_CHECKING:
    from flowref.cases.case import Case

EDGES = ("batch-0", "channels-1", "reflections-hard", "alpha-0")


@dataclass(frozen=True)
class Regime:
    """A fact that a case has or has not."""

    id: str
    note: str
    holds: Callable[[Case], bool]


def clamp_regime(case: Case) -> str:
    """linear, curved or saturated: as the recipe says, else by the median |argument of tanh| on the case's inputs."""
    if case.recipe is not None:
        return case.recipe.clamp
    spec = case.spec
    if not spec.A or not case.B:
        return "linear"
    probe = case.subnet_constructor(spec.subnet_in, spec.subnet_out).double()
    with torch.no_grad():
        k = probe.answer(torch.cat([case.x[:, : spec.P], *case.c], 1))[:, : spec.A]
    k = k if spec.dialect is Dialect.DOCUMENTED else k / 10
    if spec.dialect is Dialect.FREIA_MAIN:
        k = k / spec.affine_clamping
    middle = float(k.abs().median())
    return "linear" if middle < 1 / 8 else "curved" if middle < 8 else "saturated"


def _near_top(case: Case) -> bool:
    g = case.spec.global_affine_init
    return g > 9 if case.spec.global_affine_type == "SIGMOID" else g > 16


def _n(case: Case) -> int:
    return case.spec.learned_householder_permutation


def _square(case: Case) -> bool:
    return case.spec.rank > 1 and case.spec.N > 1 and len(set(case.spec.S)) == 1


# id, note, question; k is the case.
_TABLE: list[tuple[str, str, Callable[[Case], bool]]] = [
    ("batch-1", "one sample", lambda k: k.B == 1),
    *((f"batch-over-{n}", f"more than {n} samples", lambda k, n=n: k.B > n) for n in (32, 64)),
    ("channels-odd", "an odd number of channels, 3 or more", lambda k: k.spec.C > 1 and k.spec.C % 2 == 1),
    ("channels-even", "an even number of channels", lambda k: k.spec.C % 2 == 0),
    *((f"channels-over-{n}", f"more than {n} channels", lambda k, n=n: k.spec.C > n) for n in (16, 32, 64, 128, 256)),
    *((f"rank-{n}", f"{n} spatial axes", lambda k, n=n: k.spec.rank == n) for n in range(4)),
    ("pixels-1", "one pixel a sample", lambda k: k.spec.N == 1),
    *((f"pixels-over-{n}", f"more than {n} pixels", lambda k, n=n: k.spec.N > n) for n in (256, 1024)),
    ("square", "2 or 3 axes, all of one size above 1", _square),
    ("gin", "gin_block", lambda k: k.spec.gin_block),
    *((a.lower(), f"global_affine_type {a}", lambda k, a=a: k.spec.global_affine_type == a) for a in AFFINE_TYPES),
    ("g-small", "global_affine_init below 1/16, down to tiny", lambda k: k.spec.global_affine_init < 1 / 16),
    ("g-large", "global_affine_init above 16, for SIGMOID above 9", _near_top),
    ("soft", "permute_soft", lambda k: k.spec.permute_soft),
    ("reflections-1", "one learned reflection", lambda k: _n(k) == 1),
    ("reflections-odd", "an odd number of reflections, 3 or more", lambda k: _n(k) > 1 and _n(k) % 2 == 1),
    ("reflections-even", "an even number of reflections, 2 or more", lambda k: _n(k) > 0 and _n(k) % 2 == 0),
    ("reflections-over-channels", "more reflections than channels", lambda k: _n(k) > k.spec.C),
    ("reverse-permutation", "reverse_permutation", lambda k: k.spec.reverse_permutation),
    *((f"conditions-{n}", f"{n} conditions", lambda k, n=n: len(k.c) == n) for n in range(3)),
    ("conditions-3", "3 conditions or more", lambda k: len(k.c) >= 3),
    ("clamp-linear", "tanh's argument about 2**-6: hardly bent", lambda k: clamp_regime(k) == "linear"),
    ("clamp-curved", "tanh's argument about 1/4 to 2", lambda k: clamp_regime(k) == "curved"),
    ("clamp-saturated", "tanh's argument mostly 16 and more: flat", lambda k: clamp_regime(k) == "saturated"),
    *((f"layout-{name}", f"inputs in memory: {name}", lambda k, name=name: k.layout == name) for name in LAYOUTS),
    *((f"subnet-{name}", f"a subnet of kind {name}", lambda k, name=name: k.subnet.kind == name) for name in PROBES),
    ("batch-0", "an empty batch", lambda k: k.edge == "batch-0"),
    ("channels-1", "one channel: nothing is active", lambda k: k.edge == "channels-1"),
    ("reflections-hard", "learned reflections without permute_soft", lambda k: k.edge == "reflections-hard"),
    ("alpha-0", "affine_clamping 0: no scaling", lambda k: k.edge == "alpha-0"),
]

REGIMES: dict[str, Regime] = {row[0]: Regime(*row) for row in _TABLE}


def regimes_of(case: Case) -> frozenset[str]:
    """The ids of all regimes that hold for the case."""
    return frozenset(name for name, regime in REGIMES.items() if regime.holds(case))
