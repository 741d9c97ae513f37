"""Samples do not know of each other; pixels neither, where the subnet is pixelwise."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from flowref.laws.logdet import scale_of
from flowref.laws.registry import law
from flowref.laws.run import Answer, Run
from flowref.laws.spread import SMALL, poisoned, reaches_the_outputs

SEVERAL = {"B": (2, 3, 5, 33, 67)}


def _agree(run: Run, got: Answer, y: Tensor, logdet: Tensor, at: Tensor, what: str) -> None:
    """``got`` equals (y, logdet), what the target answered otherwise, to within both passes' errors; at: samples."""
    want = run.want
    scale = float(abs(want.out.value).max()) if want.out.value.numel() else 1.0
    run.equal(y.shape, got.y.shape, f"the shape of the output {what}")
    run.equal(logdet.shape, got.logdet.shape, f"the shape of the log-det {what}")
    run.within(y.detach().double().cpu(), got.y, 2 * run.bound(want.out)[at], f"the output {what}", scale)
    run.within(logdet.detach().double().cpu(), got.logdet, 2 * run.bound(want.logdet)[at], f"the log-det {what}",
               scale_of(run))  # fmt: skip


def _pick(run: Run, at: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
    x, c = run.inputs
    at = at.to(x.device)
    return x[at], [v[at] for v in c]


@law(
    "f(x)[part] = f(x[part])",
    broken_by="gin-mean-over-the-batch",
    regimes=("batch-over-32", "batch-over-64", "gin", "rank-0", "rank-2"),
    fix=SEVERAL,
    half=True,
)
def samples_are_independent(run: Run) -> None:
    """A batch cut in two gives the two parts of the answer.

    Bound: the errors of both passes.
    Sees: a statistic over the batch, an index that works for some batch sizes only.
    Blind to: what is wrong in every sample alike.
    Spec: 2. Since: 0.1.
    """
    B = run.case.B
    whole = run.answer
    run.equal((B,), tuple(whole.logdet.shape), "the shape of the log-det")
    for at in (torch.arange(B // 2), torch.arange(B // 2, B)):
        part = run.go(*_pick(run, at))
        _agree(run, part, whole.y[at], whole.logdet[at], at, f"of samples {int(at[0])} to {int(at[-1])} alone")


@law(
    "f(x[π]) = f(x)[π] for a permutation π of the samples",
    broken_by="first-sample-serves-all",
    regimes=("batch-over-32", "rank-0"),
    fix=SEVERAL,
    half=True,
)
def order_of_samples_does_not_matter(run: Run) -> None:
    """Samples in another order give answers in that order.

    Bound: the errors of both passes.
    Sees: a value of one sample that is used for others, an index into the wrong sample.
    Blind to: what is wrong in every sample alike.
    Spec: 2. Since: 0.1.
    """
    at = torch.arange(run.case.B).flip(0)
    whole = run.answer
    run.equal((run.case.B,), tuple(whole.logdet.shape), "the shape of the log-det")
    _agree(run, run.go(*_pick(run, at)), whole.y[at], whole.logdet[at], at, "with the samples in reverse order")


@law(
    "f commutes with a permutation of pixels, logdet does not change, for a pixelwise subnet",
    broken_by="mixing-along-the-last-axis",
    regimes=("rank-1", "rank-2", "rank-3", "gin", "soft", "pixels-over-256"),
    fix={"S": ((3,), (2, 2), (2, 3), (4, 3), (2, 1, 3), (2, 3, 2), (257,), (17, 16)),
         "subnet": ("linear", "network", "constant", "zero")},
)  # fmt: skip
def pixels_are_equivariant(run: Run) -> None:
    """Pixels moved give answers moved, and the same log-det.

    Bound: the errors of both passes.
    Sees: a matrix applied along a spatial axis, a scale that belongs to a position, a sum that leaves out pixels.
    Blind to: what is wrong at every pixel alike.
    Spec: 1, 2. Since: 0.1.
    """
    N = run.spec.N
    order = torch.arange(N).roll(N // 2 + 1).flip(0)
    move = lambda v: v.flatten(2)[..., order].reshape(v.shape)  # noqa: E731
    x, c = run.inputs
    whole, moved = run.answer, run.go(move(x), [move(v) for v in c])
    want = run.want
    run.equal(tuple(want.out.shape), tuple(whole.y.shape), "the shape of the output")
    bound = run.bound(want.out)
    run.within(move(whole.y).detach().double().cpu(), moved.y, bound.flatten(2)[..., order].reshape(bound.shape) * 2,
               "the output with pixels moved", float(abs(want.out.value).max()))  # fmt: skip
    run.within(whole.logdet.detach().double().cpu(), moved.logdet, 2 * run.bound(want.logdet),
               "the log-det with pixels moved", scale_of(run))  # fmt: skip


@law(
    "x[0] = NaN or Inf: f(x)[1:] keeps the bits that it has with x[0] = 1",
    broken_by="nan-spreads-over-the-batch",
    regimes=("rank-0", "rank-2", "gin", "soft", "batch-over-32"),
    fix={"B": (2, 3, 33), "layout": "contiguous"},
    half=True,
)
def nan_stays_in_its_sample(run: Run) -> None:
    """A non-finite sample leaves its neighbours' bits alone.

    Bound: none; the neighbours keep their bits.
    Sees: a mask by multiplication, a statistic over the batch, a shared accumulator.
    Blind to: what becomes of the non-finite sample itself.
    Spec: 6. Since: 0.1.
    """

    def others(value: float, whole: bool) -> Answer:
        x, c = run.inputs
        x = x.clone()
        x[0] = value if whole else x[0]
        x.flatten(1)[0, 0] = value
        return run.go(x, c)

    for value, whole in ((torch.nan, False), (torch.inf, True)):
        want, got = others(1.0, whole), others(value, whole)
        run.same(want.y[1:], got.y[1:], f"the other samples' output beside {value}")
        run.same(want.logdet[1:], got.logdet[1:], f"the other samples' log-det beside {value}")


@law(
    "f(x) is NaN where the map's value is, for x[0] with a NaN in it; not finite where it isn't, for x[1] with ∞ in it",
    broken_by=(
        "output-that-is-no-number-becomes-0",
        "logdet-sums-what-is-a-number",
        "output-kept-below-a-large-number",
    ),
    regimes=("rank-0", "rank-2", "gin", "soft", "reflections-1", "reverse-permutation"),
    fix=SMALL,
    rows=10,
)
def not_finite_reaches_its_outputs(run: Run) -> None:
    """What is not finite in an input is not finite in all outputs that depend on it, and in the log-det.

    Bound: none; the reference says where, products taken as a gather takes them. Under GIN no log-det is asked for,
    which may be 0 by itself.
    Sees: values that are replaced, clamped or skipped, a minimum or maximum that drops NaN, a branch on isfinite.
    Blind to: what becomes of finite samples.
    Spec: 6. Since: 0.2.
    """
    at = int(run.case.id[:8], 16)
    case = replace(run.case, x=poisoned(run.case.x, at, (torch.nan, (-1) ** at * torch.inf)), recipe=None)
    reaches_the_outputs(run, case, "beside an input that is not finite")
