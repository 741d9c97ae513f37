"""GIN mode keeps volume."""

from dataclasses import replace

import torch

from flowref.bounds import logdet_error
from flowref.laws.logdet import jacobians, log_abs_det, scale_of, share_of_w
from flowref.laws.registry import law
from flowref.laws.run import Run

GIN = {"gin": True}


@law(
    "logdet = 0 in GIN mode",
    broken_by="gin-mean-over-channels-only",
    regimes=("rank-0", "rank-2", "pixels-over-256", "batch-over-32", "channels-odd"),
    fix=GIN,
    half=True,
)
def logdet_is_0(run: Run) -> None:
    """In GIN mode the log-det is 0.

    Bound: the rounding of a sum of centred log-scales; an exact 0 is always right.
    Sees: a mean that is not that over channels and pixels, or a global scale that enters.
    Blind to: log-scales that change the volume without showing in the log-det.
    Spec: 2. Since: 0.1.
    """
    want = run.want.logdet
    run.within(0 * want.value, run.answer.logdet, run.bound(want), "the log-det", scale_of(run))


@law(
    "|det ∂y/∂x| = 1 in GIN mode, for an orthogonal W",
    broken_by="gin-keeps-global-scale",
    regimes=("rank-0", "rank-1", "clamp-curved"),
    fix={
        **GIN,
        "max_CN": 24,
        "max_B": 3,
        "subnet": ("constant", "linear", "network", "convolutional"),
        "clamp": ("curved", "saturated"),
        "alpha": (2.0, 1.0, 0.5),
    },
    needs=("gradient",),
)
def preserves_volume(run: Run) -> None:
    """In GIN mode the target's own Jacobian has determinant ±1.

    Bound: how far the determinant moves when each derivative is off by its error; W's own share is data.
    Sees: a map that changes the volume, whatever its log-det says.
    Blind to: the log-det, and which volume-preserving map it is.
    Spec: 2. Since: 0.1.
    """
    J, want, error = jacobians(run)
    share, share_rounding = share_of_w(run)
    for b in range(run.case.B):
        log_det, rounding = log_abs_det(J[b])
        known, own, bound = (
            torch.tensor([value], dtype=torch.float64)
            for value in (share, log_det, logdet_error(want[b], error[b]) + rounding + share_rounding)
        )
        run.within(known, own, bound, f"log|det J| of sample {b}", scale_of(run))


@law(
    "Σ (l − mean l) over channels and pixels = 0 for every sample, l seen as log of ∂y/∂q",
    broken_by=("gin-mean-over-the-batch", "gin-mean-per-channel"),
    regimes=("rank-1", "rank-2"),
    fix={**GIN, "B": (2, 3), "C": (4, 5, 6, 7), "S": ((3,), (2, 2), (2, 3)), "soft": False, "reflections": 0,
         "reverse_permutation": False, "max_CN": 42, "subnet": ("linear", "network", "convolutional")},
    needs=("gradient",),
)  # fmt: skip
def mean_is_per_sample(run: Run) -> None:
    """The mean that is subtracted is one number a sample, over channels and pixels.

    Bound: the error of each scale in the target's Jacobian.
    Sees: a mean over the batch, a channel, a pixel or one axis only.
    Blind to: a log-scale that is wrong before centring.
    Spec: 2. Since: 0.1.
    """
    J, want, error = jacobians(run)
    n = J.shape[1]
    # With a hard W each output is one input's, scaled: the largest entry of its own column block.
    state, C, N = run.case.state, run.spec.C, run.spec.N
    W = state["w_perm"].reshape(C, C)
    W = W.T if run.rev else W
    at = torch.einsum("ij,nm->injm", W, torch.eye(N, dtype=W.dtype)).reshape(n, n) != 0
    scales, wanted, bound = J[:, at], want[:, at], error[:, at]
    run.within(wanted, scales, bound, "the scales of all channels and pixels", float(abs(wanted).max()))


@law(
    "y does not depend on global_scale in GIN mode, and moves with global_offset",
    broken_by="gin-keeps-global-scale",
    regimes=("rank-0", "rank-2"),
    fix={**GIN, "offset": ("drawn", "dyadic")},
    half=True,
)
def ignores_global_scale(run: Run) -> None:
    """In GIN mode the global scale has no influence, the offset has.

    Bound: the error of each pass.
    Sees: a scale that still enters the map or the log-det; an offset that was dropped with it.
    Blind to: the coupling.
    Spec: 2. Since: 0.1.
    """
    case = run.case
    for name, factor in (("global_scale", -1.0), ("global_offset", 2.0)):  # factors that round nothing
        moved = run.on(replace(case, state={**case.state, name: factor * case.state[name]}, recipe=None))
        run.near(moved.want.out, moved.answer.y, f"the output after {name} moved")
