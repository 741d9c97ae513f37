"""The global affine part: its scale, its offset, their initial values."""

import math
from dataclasses import replace

import torch

from flowref.bounds import FLOAT32
from flowref.laws.logdet import scale_of
from flowref.laws.registry import ONCE, law
from flowref.laws.run import Run
from flowref.reference import initial_scale

PLAIN = {"subnet": "zero", "gin": False}


@law(
    "|s − Ψ⁻¹(g)| <= 8u·max(|s|, 1) for the initial s, u of float32",
    broken_by=("initial-scale-is-log-g", "initial-scale-ignores-g"),
    regimes=("sigmoid", "softplus", "exp", "g-small", "g-large"),
    fix={"B": 1, "C": (2, 3), "S": ((), (2,)), "conditions": (), "soft": False, "reflections": 0, "subnet": "zero",
         "layout": "contiguous", "gin": False},
    directions=ONCE,
    precisions=("float32",),
    needs=("state",),
    edges=("channels-1", "reflections-hard"),
)  # fmt: skip
def initial_scale_is_g(run: Run) -> None:
    """A new block scales by global_affine_init.

    Bound: 8u·max(|s|, 1), granted by the specification.
    Sees: an inverse of Ψ that is wrong, or loses digits or overflows near the ends of the range of g.
    Blind to: Ψ itself.
    Spec: 4. Since: 0.1.
    """
    block = run.build(load=False)
    got = run.ask("the state", lambda: run.target.state(block)["global_scale"])
    s = initial_scale(run.spec.global_affine_type, run.spec.global_affine_init)
    want = torch.full((1, run.spec.C, *(1,) * run.spec.rank), s, dtype=torch.float64)
    granted = 8 * FLOAT32.u * max(abs(s), 1.0)
    run.within(want, got, torch.full_like(want, granted), "the initial global_scale", max(abs(s), 1.0))


@law(
    "y = W(Ψ(s) ⊙ x + o) for a zero subnet, s far from its initial value too",
    broken_by="sigmoid-scale-off-by-shift",
    regimes=("sigmoid", "softplus", "exp"),
    fix={**PLAIN, "scale": ("wide", "drawn")},
)
def scale_follows_its_activation(run: Run) -> None:
    """The scale is Ψ(s), all over the range of s.

    Bound: the error of Ψ, with s as data.
    Sees: another activation, constant or threshold, or lost digits for very negative s.
    Blind to: the coupling.
    Spec: 4. Since: 0.1.
    """
    run.near(run.want.out, run.answer.y, "the output")
    run.near(run.want.logdet, run.answer.logdet, "the log-det", scale=scale_of(run))


@law(
    "∂y_i/∂x_j = W_ij σ_j for a zero subnet",
    broken_by="scale-applied-after-mixing",
    regimes=("soft", "reverse-permutation", "rank-1"),
    fix={**PLAIN, "offset": "zero"},
)
def scale_enters_once(run: Run) -> None:
    """The scale enters once, before W (in reverse, after W⁻¹).

    Bound: the error of the pass.
    Sees: a scale on the wrong side of W, applied twice, or taken from another channel.
    Blind to: the offset and the coupling.
    Spec: 2. Since: 0.1.
    """
    run.near(run.want.out, run.answer.y, "the output without offset")


@law(
    "y(4o) − y(o) = 3 W o, in the dialect documented 3 o",
    broken_by="offset-after-mixing",
    regimes=("soft", "rank-1", "gin"),
    fix={"subnet": "zero", "offset": ("drawn", "dyadic")},
)
def offset_enters_once(run: Run) -> None:
    """The offset enters once, at its dialect's place.

    Bound: the errors of both passes.
    Sees: an offset on the wrong side of W, with another sign, doubled, or left out.
    Blind to: the scale and the coupling.
    Spec: 2, 3. Since: 0.1.
    """
    case = run.case
    four_times = 4 * case.state["global_offset"]  # rounds nothing, and moves every channel by another amount
    moved = run.on(replace(case, state={**case.state, "global_offset": four_times}, recipe=None))
    want, was = moved.want.out, run.want.out
    run.equal(want.shape, moved.answer.y.shape, "the shape of the output")
    shift = moved.answer.y.double() - run.answer.y.double()
    difference = want.value - was.value
    run.within(difference, shift, run.bound(want) + run.bound(was), "what the offset adds",
               float(abs(difference).max()) if difference.numel() else 1.0)  # fmt: skip


@law(
    "logdet = N Σ log σ for a zero subnet",
    broken_by="logdet-forgets-pixels",
    regimes=("rank-0", "rank-1", "rank-2", "rank-3", "pixels-over-256"),
    fix=PLAIN,
)
def logdet_counts_every_pixel(run: Run) -> None:
    """The global scale's share of the log-det counts every pixel.

    Bound: the error of log σ, summed over channels and pixels.
    Sees: a missing factor N, one of another axis, or one that counts samples.
    Blind to: the coupling's share.
    Spec: 2. Since: 0.1.
    """
    run.near(run.want.logdet, run.answer.logdet, "the log-det", scale=scale_of(run))
    assert not math.isnan(scale_of(run))
