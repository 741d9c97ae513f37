"""Precisions: float64 that is float64, half precisions and autocast within bounds of their own."""

import torch

from flowref.bounds import AUTOCAST
from flowref.laws.logdet import scale_of
from flowref.laws.registry import HALF, law
from flowref.laws.run import Run, wanted

# Sums of some hundred terms: shorter ones are as good in half precision as the terms themselves.
SUMS = {**HALF, "S": ((), (3,), (100,), (10, 10), (4, 5, 5)), "max_CN": 400}
ANSWERS = {"bits": 8, "B": (1, 2, 3), "C": (2, 3, 4), "max_CN": 24, "g": (0.25, 4.0), "layout": "contiguous"}


def _answers(run: Run) -> None:
    got, want = run.answer, run.want
    for what, value, right in (("output", got.y, want.out), ("log-det", got.logdet, want.logdet)):
        run.equal(tuple(right.shape), tuple(value.shape), f"the shape of the {what}")
        run.equal(run.dtype, value.dtype, f"the dtype of the {what}")
        answers = value.isfinite().cpu() | run.bound(right).isinf()  # infinite where the right one is beyond the dtype
        run.equal(True, bool(answers.all()), f"whether the {what} is finite")


def _within(run: Run) -> None:
    run.near(run.want.out, run.answer.y, "the output")
    run.near(run.want.logdet, run.answer.logdet, "the log-det", scale=scale_of(run))


@law("a bfloat16 block maps bfloat16 to bfloat16", broken_by="half-reflections-mix-dtypes", precisions=("bfloat16",),
     gatekeeper="bfloat16", fix=ANSWERS, needs=("bfloat16",), rows=16)  # fmt: skip
def answers_in_bfloat16(run: Run) -> None:
    """The block answers in bfloat16, in finite numbers.

    Bound: none; where the pass's is infinite, since an answer may be beyond the dtype, it need not be finite.
    Sees: a tensor of its own in the default dtype beside half parameters.
    Blind to: the values; other laws meet this precision only where this one holds.
    Spec: 6. Since: 0.2.
    """
    _answers(run)


@law("a float16 block maps float16 to float16", broken_by="half-reflections-mix-dtypes", precisions=("float16",),
     gatekeeper="float16", fix=ANSWERS, needs=("float16",), rows=16)  # fmt: skip
def answers_in_float16(run: Run) -> None:
    """The block answers in float16, in finite numbers.

    Bound: none; where the pass's is infinite, since an answer may be beyond the dtype, it need not be finite.
    Sees: a tensor of its own in the default dtype beside half parameters.
    Blind to: the values; other laws meet this precision only where this one holds.
    Spec: 6. Since: 0.2.
    """
    _answers(run)


@law("y and logdet of a bfloat16 block, sums, products and functions in float32 and rounded once",
     broken_by="half-sums-in-half", precisions=("bfloat16",), fix=SUMS, needs=("bfloat16",), rows=24)  # fmt: skip
def bfloat16_rounds_once(run: Run) -> None:
    """In bfloat16 outputs and log-dets are as accurate as float32 arithmetic that is rounded once.

    Bound: the rules of the reference's lines, with u = 2⁻⁸ for results and 2⁻²⁴ inside sums, products and functions.
    Sees: a sum, product or function that is accumulated in bfloat16.
    Blind to: round trips and reflections, which such a bound can't decide.
    Spec: 6. Since: 0.2.
    """
    _within(run)


@law("y and logdet of a float16 block, sums, products and functions in float32 and rounded once",
     broken_by="half-sums-in-half", precisions=("float16",), fix=SUMS, needs=("float16",), rows=24)  # fmt: skip
def float16_rounds_once(run: Run) -> None:
    """In float16 outputs and log-dets are as accurate as float32 arithmetic that is rounded once.

    Bound: the rules of the reference's lines, with u = 2⁻¹¹ for results and 2⁻²⁴ inside sums, products and functions.
    Sees: a sum, product or function that is accumulated in float16.
    Blind to: round trips and reflections, which such a bound can't decide.
    Spec: 6. Since: 0.2.
    """
    _within(run)


@law("y and logdet under autocast to bfloat16, factors of products rounded to it", broken_by="autocast-raises",
     precisions=("float32",), fix={**HALF, "layout": "contiguous"}, needs=("autocast",), rows=24)  # fmt: skip
def autocast_stays_within_bfloat16(run: Run) -> None:
    """Under autocast outputs and log-dets are as accurate as the lower precision.

    Bound: that of bfloat16, with both factors of each product rounded to it first.
    Sees: a block that refuses mixed dtypes under autocast, or loses more than the lower precision does.
    Blind to: the dtype of the result, which autocast leaves open.
    Spec: 6. Since: 0.2.
    """
    with torch.autocast(run.device if run.device == "cpu" else "cuda", dtype=torch.bfloat16):
        got = run.go()
    want = wanted(run.case, AUTOCAST).go(run.rev)
    run.near(want.out, got.y, "the output under autocast")
    run.near(want.logdet, got.logdet, "the log-det under autocast", scale=scale_of(run))


@law("y and logdet for inputs and state of 53 significant bits", broken_by="float64-input-cut-to-float32",
     precisions=("float64",), fix={"bits": 53}, rows=24,
     regimes=("rank-0", "rank-2", "gin", "soft", "reflections-odd", "reverse-permutation", "conditions-1"))  # fmt: skip
def float64_keeps_every_bit(run: Run) -> None:
    """A float64 block uses all bits of what it is given.

    Bound: that of float64; other laws give numbers that float32 holds, and can't see an input that is cut to it.
    Sees: inputs, conditions or state that pass through float32.
    Blind to: float32 arithmetic on numbers that it holds (`reference` sees that).
    Spec: 6. Since: 0.2.
    """
    _within(run)
