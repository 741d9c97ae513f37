"""Conditions reach the subnet and nothing else. That they reach it whole and in order is a law of `coupling`."""

from dataclasses import replace

import torch

from flowref.laws.logdet import scale_of
from flowref.laws.registry import law
from flowref.laws.run import Answer, Run
from flowref.laws.spread import SMALL, poisoned, reaches_the_outputs

SOME = ((1,), (2,), (2, 1), (1, 3, 2))


@law(
    "f(x, 2¹⁰⁰ c) = f(x, c) for a subnet that does not read c",
    broken_by="condition-leaks-past-the-subnet",
    regimes=("conditions-1", "conditions-2", "conditions-3", "rank-0", "rank-2"),
    fix={"conditions": SOME, "subnet": ("constant", "zero"), "max_CN": 64, "max_B": 5},
    precisions=("float32",),
    rows=16,
)
def reaches_nothing_but_the_subnet(run: Run) -> None:
    """Where the subnet ignores the conditions, nothing depends on them.

    Bound: the error of the pass; the conditions are so large that a leak of one part in 10²⁰ shows.
    Sees: a condition that is added to, mixed with or normalises anything beside the subnet's input.
    Blind to: what the subnet is given (`coupling` sees that).
    Spec: 1, 2. Since: 0.2.
    """
    x, c = run.inputs
    got = run.go(x, [v * 2.0**100 for v in c])
    run.near(run.want.out, got.y, "the output under large conditions")
    run.near(run.want.logdet, got.logdet, "the log-det under large conditions", scale=scale_of(run))


@law(
    "(y_b, logdet_b) keep their bits whatever c_b' holds, b' ≠ b",
    broken_by=("non-finite-conditions-refused", "non-finite-condition-masks-the-batch"),
    regimes=("conditions-1", "conditions-2", "rank-0", "rank-2"),
    fix={"conditions": SOME, "B": (2, 3), "max_CN": 64},
    precisions=("float32",),
    rows=16,
)
def nan_stays_in_its_sample(run: Run) -> None:
    """A non-finite condition leaves the bits of the other samples alone.

    Bound: none; the neighbours keep their bits.
    Sees: a condition that is refused for its values, a mask or statistic over the batch of conditions.
    Blind to: what becomes of the sample itself.
    Spec: 6. Since: 0.2.
    """

    def others(value: float) -> Answer:
        x, c = run.inputs
        changed = [v.clone() for v in c]
        for v in changed:
            v[0] = value
        return run.go(x, changed)

    want = others(1.0)
    for value in (torch.nan, torch.inf):
        got = others(value)
        run.same(want.y[1:], got.y[1:], f"the other samples' output beside a condition of {value}")
        run.same(want.logdet[1:], got.logdet[1:], f"the other samples' log-det beside a condition of {value}")


@law(
    "f(x, c) is not finite where the map's value isn't, for a c[0] with a NaN in it and a c[1] with ∞ in it",
    broken_by="condition-that-is-no-number-becomes-0",
    regimes=("conditions-1", "conditions-2", "rank-0", "rank-2"),
    fix={**SMALL, "conditions": SOME, "subnet": ("linear", "network", "convolutional")},
    rows=10,
)
def not_finite_reaches_its_outputs(run: Run) -> None:
    """What is not finite in a condition is not finite in all outputs that depend on it, and in the log-det.

    Bound: none; as of `batch.not-finite-reaches-its-outputs`.
    Sees: conditions that are replaced, clamped or skipped where they are not finite.
    Blind to: what becomes of finite samples.
    Spec: 6. Since: 0.2.
    """
    at = int(run.case.id[:8], 16)
    changed = [poisoned(v, at, (torch.nan, torch.inf)) if k == at % len(run.case.c) else v
               for k, v in enumerate(run.case.c)]  # fmt: skip
    reaches_the_outputs(run, replace(run.case, c=tuple(changed), recipe=None), "beside a condition that is not finite")
