"""Two comparisons of a correct block with what it should be, and cases to make them on.

against_exact       the float64 reference, held against exact arithmetic (`flowref.exact`)
against_reference   the plain float32 block, held against the reference
drawn               the case of a number: every flag, dialect, rank, edge with samples, and three classes of sizes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowref.bounds import FLOAT32, FLOAT64, Bounded
from flowref.cases import Case, Recipe
from flowref.cases.bulk import Bulk
from flowref.cases.stream import CONDITIONS
from flowref.cases.twin import twin
from flowref.exact import flat
from flowref.faults.plain import PlainBlock
from flowref.laws.logdet import scale_of
from flowref.laws.run import DECIDED, Run, Wanted
from flowref.spec import AFFINE_TYPES, Dialect
from flowref.targets.module import Module

QUANTITIES = ("y", "log-det", "round trip", "gradient by x, c", "by s, o", "by the subnet", "by reflections")
DIGITS = 50  # of the exact side: its own error is 30 digits below any bound
TITLES = {"exact": "float64 reference against exact", "reference": "plain float32 against the reference"}
SHARE = FLOAT64.u / FLOAT32.u
STRICT = replace(FLOAT64, threshold=False)  # a linear softplus is granted to targets; the reference needs no grant


class Compared(NamedTuple):
    """One comparison: what, its errors and their bounds, and the scale that says whether they decide."""

    quantity: str
    error: Tensor
    bound: Tensor
    scale: float

    @property
    def ratios(self) -> Tensor:
        """error ÷ bound; 0/0 is 0, and a bound that is infinite grants everything."""
        none = (self.error == 0) | self.bound.isinf()
        return torch.where(none, 0.0, self.error / self.bound).nan_to_num(nan=math.inf)

    @property
    def largest(self) -> float:
        """The largest error ÷ bound of all elements; above 1 the bound or the reference is wrong."""
        return float(self.ratios.max()) if self.error.numel() else 0.0

    @property
    def sharp(self) -> tuple[float, bool]:
        """The largest error ÷ bound of the decided elements, and whether these are at least half of all."""
        decided = self.bound <= DECIDED * self.scale
        share = self.ratios[decided]
        return float(share.max()) if share.numel() else 0.0, 2 * int(decided.sum()) >= self.error.numel()


def quantity_of(name: str) -> str:
    """The row of the table for a gradient by this name."""
    if name == "vk_householder":
        return "by reflections"
    if name.startswith("subnet."):
        return "by the subnet"
    return "by s, o" if name.startswith("global_") else "gradient by x, c"


def against_exact(case: Case, rev: bool) -> Iterator[Compared]:
    """The float64 reference, run on tensors and on numbers with bounds, held against exact arithmetic.

    The bound is the one that a float64 block is judged by, before it is doubled for the reference's own rounding: a
    share of float32's, or, behind an uncertain tanh, float64's own (docs/bounds.md, *float64*).
    """
    one, shared, own = twin(case, DIGITS), Wanted(case, FLOAT32), Wanted(case, STRICT)
    block, go = shared.block, (one.reverse if rev else one.forward)

    def compared(name: str, ask: Callable[[Wanted], Bounded], also: Tensor, exact: Any, size: Any = None) -> Compared:
        bounded, share = ask(shared), SHARE
        if bounded.arith.bent:
            bounded, share = ask(own), 1.0
        scale = float(abs(bounded.value).max()) if bounded.value.numel() else 1.0
        scale = float(size.max()) if size is not None and size.numel() else scale or float(bounded.size.max())
        return Compared(name, _apart(exact, bounded.value, also), share * bounded.error, scale)

    plain, true = block.trace(case.x, case.c, rev), go(case.x, case.c)
    yield compared("y", lambda w: w.go(rev).out, plain.out, true.out)
    yield compared("log-det", lambda w: w.go(rev).logdet, plain.logdet, true.logdet, plain.l_scale)
    back = (one.forward if rev else one.reverse)(true.out, case.c)
    yield compared("round trip", lambda w: w.trip(rev).out, block.trace(plain.out, case.c, not rev).out, back.out)
    by_hand = block.pullback(plain, case.gy, case.gj)
    for name, exact in one.gradient(case.x, case.c, case.gy, case.gj, rev=rev).items():
        if name in by_hand:  # buffers of the subnet have none
            gradient = lambda w, name=name: w.gradients(rev, "both")[name]  # noqa: E731
            yield compared(quantity_of(name), gradient, by_hand[name], exact)


def _apart(exact: Any, *got: Tensor) -> Tensor:
    """For each element the largest |got − exact|, subtracted exactly."""
    want = flat(exact)
    far = torch.zeros(len(want), dtype=torch.float64)
    for one in got:
        apart = [float(abs(e - g)) for e, g in zip(want, one.flatten().tolist(), strict=True)]
        far = torch.maximum(far, torch.tensor(apart, dtype=torch.float64))
    return far.reshape(got[0].shape)


def against_reference(case: Case, rev: bool) -> Iterator[Compared]:
    """The plain float32 block, held against the reference."""
    target = Module(PlainBlock, dialect=case.spec.dialect)
    run = Run(case, target, "float32", "reverse" if rev else "forward")

    def compared(name: str, want: Bounded, got: Tensor | None, scale: float | None = None) -> Compared:
        largest = float(abs(want.value).max()) if want.value.numel() else 1.0
        largest = largest or float(want.size.max())
        got = torch.zeros_like(want.value) if got is None else got.detach().double()
        return Compared(name, abs(got - want.value), want.error, largest if scale is None else scale)

    yield compared("y", run.want.out, run.answer.y)
    yield compared("log-det", run.want.logdet, run.answer.logdet, scale_of(run))
    yield compared("round trip", run.wanted.trip(rev).out, run.go(run.answer.y.detach(), rev=not rev).y)
    got = run.gradients("both")
    for name, want in run.wanted.gradients(rev, "both").items():
        yield compared(quantity_of(name), want, got[name])


COMPARE: dict[str, Callable[[Case, bool], Iterator[Compared]]] = {
    "exact": against_exact,
    "reference": against_reference,
}

# What `drawn` chooses from. Every flag, dialect, rank and edge with samples; the values make each other legal.
SMALL: dict[str, tuple[Any, ...]] = {
    "dialect": tuple(d.value for d in Dialect),
    "affine": AFFINE_TYPES,
    "C": (2, 3, 4, 5, 6, 7, 8, 9, 1),
    "B": (1, 1, 2, 3),
    "S": ((), (), (), (1,), (2,), (3,), (1, 2), (2, 2), (1, 1, 1), (1, 3, 2)),
    "conditions": CONDITIONS,
    "gin": (False, False, True),
    "soft": (False, True, True),
    "reflections": (0, 0, 0, 1, 2, 3),
    "reverse_permutation": (False, True),
    "alpha": (2.0, 1.0, 0.5, 3.0, 0.1, 5.0, 2.0**-20, 0.0),
    "subnet": ("linear", "network", "convolutional", "activation", "constant", "zero", "view", "parameter"),
    "clamp": ("curved", "linear", "saturated"),
    "scale": ("drawn", "drawn", "wide", "one"),
    "offset": ("drawn", "drawn", "dyadic", "zero"),
    "permutation": ("drawn",) * 7 + ("identity",),
    "size": (0, 1, -1, 2, -2, 6, -6),
}
MEDIUM = SMALL | {
    "C": (4, 9, 17, 33),
    "S": ((33,), (7, 6), (3, 4, 5), (19, 3)),
    "B": (1,),
    "subnet": SMALL["subnet"][:6],
    "alpha": (1.0, 2.0),
}
LARGE = (  # (C, S, subnet, soft)
    (64, (9, 9), "network", True),
    (128, (6, 6), "linear", False),
    (32, (12, 12), "linear", True),
    (8, (24, 24), "convolutional", True),
    (256, (5, 4), "linear", True),
    (4, (1100,), "network", False),
)


def drawn(number: int, bits: int = 24) -> Recipe:
    """The case of this number: every 40th has a C·N of some hundreds, every 600th one above 4096."""
    if number % 600 == 599:
        C, S, subnet, soft = LARGE[number // 600 % len(LARGE)]
        dialect = SMALL["dialect"][number // 600 // 2 % 3]
        return Recipe(C=C, S=S, B=1, subnet=subnet, soft=soft, seed=number, dialect=dialect, bits=bits)
    choices = MEDIUM if number % 40 == 39 else SMALL
    word = Bulk(number, bits).words
    chosen = {name: values[int(word(name, 1)[0] % len(values))] for name, values in choices.items()}
    return Recipe(**chosen, seed=number, bits=bits)
