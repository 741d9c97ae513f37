"""The log-det is that of the map, one value a sample."""

import math
from dataclasses import replace

import torch

from flowref.bounds import EPS, logdet_error
from flowref.laws.registry import EDGES, law
from flowref.laws.run import Run


def scale_of(run: Run) -> float:
    """``Σ α|tanh k| + N Σ|log σ|`` before centring, at its largest: what a log-det is decided against."""
    scale = run.want.l_scale.value
    return float(scale.max()) if len(scale) else 1.0


def jacobians(run: Run) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``J`` of every sample by the target's autograd, and the reference's with its error: (B, n, n) each, n = C·N.

    Each sample is repeated n times and asked for one row a copy, so one backward pass is enough.
    """
    case, n, B = run.case, run.spec.C * run.spec.N, run.case.B
    repeat = lambda v: v.repeat_interleave(n, 0)  # noqa: E731
    rows = torch.eye(n, dtype=torch.float64).reshape(n, *run.spec.dims).repeat(B, *(1,) * len(run.spec.dims))
    wide = replace(case, x=repeat(case.x), c=tuple(map(repeat, case.c)), gy=rows, gj=repeat(case.gj), recipe=None)
    many = run.on(wide)
    got = many.gradients("output")["x"]
    want = many.wanted.gradients(run.rev, "output")["x"]
    shape = (B, n, n)
    if got is None:
        got = torch.zeros(want.shape)
    return got.double().cpu().reshape(shape), want.value.reshape(shape), run.bound(want).reshape(shape)


def log_abs_det(J: torch.Tensor) -> tuple[float, float]:
    """``log|det J|`` and how far the factorisation's own rounding lets it be off (Higham, theorem 9.3)."""
    n = len(J)
    P, L, U = torch.linalg.lu(J)
    rounding = n * EPS / (1 - n * EPS) * (P @ (abs(L) @ abs(U)))
    logs = torch.log(abs(torch.diagonal(U)))
    return float(logs.sum()), logdet_error(J, rounding) + (n + 4) * EPS * float(abs(logs).sum())


def share_of_w(run: Run) -> tuple[float, float]:
    """``(1 + reverse_permutation) · N · log|det W|`` of the stored W, and its rounding; reflections add nothing."""
    state, C = run.case.state, run.spec.C
    W = state["w_0" if "w_0" in state else "w_perm"].reshape(C, C)
    times = (1 + run.spec.reverse_permutation) * run.spec.N
    log_det, rounding = log_abs_det(W)
    return times * log_det, times * rounding


@law(
    "logdet = log|det ∂y/∂x| − (1 + reverse_permutation)·N·log|det W|",
    broken_by="logdets-both-negated",
    regimes=("rank-0", "rank-1", "rank-2", "clamp-curved", "reverse-permutation"),
    fix={
        "max_CN": 24,
        "max_B": 3,
        "alpha": (1.0, 2.0, 0.5),
        "subnet": ("linear", "network", "convolutional", "constant", "zero"),
    },
    needs=("gradient",),
)
def equals_jacobian(run: Run) -> None:
    """The log-det is the log of the absolute determinant of the target's own Jacobian.

    Bound: the log-det's error, and how far the determinant moves when each derivative is off by its error.
    Sees: a log-det that is not that of the map, whatever the map is.
    Blind to: a map that is wrong together with its log-det.
    Spec: 2. Since: 0.1.
    """
    J, want, error = jacobians(run)
    share, share_rounding = share_of_w(run)
    for b in range(run.case.B):
        log_det, rounding = log_abs_det(J[b])
        own = torch.tensor([log_det - share], dtype=torch.float64)
        bound = run.bound(run.want.logdet)[b : b + 1] + logdet_error(want[b], error[b])
        bound = bound + rounding + share_rounding
        logdet = run.answer.logdet
        run.equal((run.case.B,), tuple(logdet.shape), "the shape of the log-det")
        run.within(own, logdet[b : b + 1], bound, f"the log-det of sample {b}, by the Jacobian,", scale_of(run))


@law(
    "logdet = Σ l + N Σ log σ, in reverse −(Σ l + N Σ log σ)",
    broken_by="logdet-forgets-pixels",
    regimes=("rank-0", "rank-1", "rank-2", "rank-3", "gin", "softplus", "sigmoid", "exp", "channels-over-64",
             "pixels-over-1024", "batch-over-64"),
    edges=EDGES,
    half=True,
)  # fmt: skip
def equals_reference(run: Run) -> None:
    """The log-det is the reference's.

    Bound: the errors of l and log σ, summed, and the sum's own rounding at depth h(n).
    Sees: any mistake in the log-det, at sizes where a Jacobian can't be had.
    Blind to: the output.
    Spec: 2. Since: 0.1.
    """
    run.near(run.want.logdet, run.answer.logdet, "the log-det", scale=scale_of(run))


@law(
    "logdet has shape (B,)",
    broken_by="logdet-is-one-number-under-gin",
    regimes=("batch-1", "batch-over-32", "gin", "rank-2"),
    half=True,
)
def one_value_a_sample(run: Run) -> None:
    """The log-det holds one value a sample.

    Bound: none; a shape is right or wrong.
    Sees: a log-det summed over the batch, kept per pixel, or left as a number where nothing depends on the sample.
    Blind to: the values.
    Spec: 2. Since: 0.1.
    """
    run.equal((run.case.B,), tuple(getattr(run.answer.logdet, "shape", ("no tensor",))), "the shape of the log-det")


@law(
    "logdet(x)[b] = logdet(x[b:b+1])[0]",
    broken_by="logdet-sums-over-the-batch",
    regimes=("batch-over-32",),
    fix={"B": (2, 3, 33)},
)
def independent_of_the_batch(run: Run) -> None:
    """A sample's log-det does not depend on the rest of the batch.

    Bound: the sum of both log-dets' errors.
    Sees: a mean or sum taken over the batch as well.
    Blind to: a log-det that is wrong for each sample alike.
    Spec: 2. Since: 0.1.
    """
    x, c = run.inputs
    b = run.case.B - 1
    alone = run.go(x[b:], [v[b:] for v in c])
    run.equal((run.case.B,), tuple(run.answer.logdet.shape), "the shape of the log-det")
    want = run.bound(run.want.logdet)[b:]
    run.within(run.answer.logdet[b:].detach().double().cpu(), alone.logdet, 2 * want,
               f"the log-det of sample {b} alone", scale_of(run))  # fmt: skip


@law(
    "forward(x, jac=False) gives the y of forward(x)",
    broken_by="jac-false-skips-global-affine",
    regimes=("gin", "rank-2"),
    half=True,
)
def jac_false_changes_no_output(run: Run) -> None:
    """Asking for no log-det changes no output.

    Bound: the error of the pass.
    Sees: work that the flag leaves out of the map.
    Blind to: the log-det.
    Spec: 2. Since: 0.1.
    """
    run.near(run.want.out, run.go(jac=False).y, "the output with jac=False")


@law(
    "logdet = Σ l + N Σ log σ, with at most h(n) = 2⌈√n⌉ + 16 additions on any path",
    broken_by="logdet-sums-one-by-one",
    regimes=("pixels-over-1024", "subnet-constant"),
    rows=6,
    fix={
        "B": (1, 2), "C": (2, 4), "S": ((65536,), (256, 256), (32, 64, 32)), "subnet": "constant", "conditions": (),
        "soft": False, "reflections": 0, "gin": False, "scale": "drawn", "clamp": "curved", "layout": "contiguous",
    },
)  # fmt: skip
def long_sums_stay_accurate(run: Run) -> None:
    """A log-det over many pixels is as accurate as a pairwise or tiled sum.

    Bound: as of `equals-reference`; a running sum of 65,536 equal terms exceeds it.
    Sees: a sum of float32 numbers one after another.
    Blind to: sums that are short.
    Spec: 6. Since: 0.1.
    """
    run.near(run.want.logdet, run.answer.logdet, "the log-det", scale=scale_of(run))
    assert math.prod(run.spec.S) >= 4096  # the law says nothing about short sums
