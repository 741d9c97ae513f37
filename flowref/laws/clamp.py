"""The clamp of the coupling's log-scale."""

from dataclasses import replace

import torch

from flowref.laws.logdet import scale_of
from flowref.laws.registry import BOTH, law
from flowref.laws.run import Run
from flowref.spec import Dialect

# Coefficients that a law sets itself, and σ = 1, so that the log-det is Σ l alone.
BARE = {"subnet": "constant", "affine": "EXP", "scale": "one", "gin": False, "max_CN": 300}


def _with_coefficients(run: Run, k: torch.Tensor, t: torch.Tensor) -> Run:
    """The run with a constant subnet whose tanh is given k, whatever the dialect, and whose shift is t."""
    spec, case = run.spec, run.case
    factor = 1.0 if spec.dialect is Dialect.DOCUMENTED else 10.0
    alpha = spec.affine_clamping if spec.dialect is Dialect.FREIA_MAIN else 1.0
    name = next(n for n in case.state if n.startswith("subnet."))
    was = case.state[name]
    answer = torch.cat([alpha * k, t]).reshape(was.shape) * factor
    answer = answer.float().double()  # exact in every precision of the run
    return run.on(replace(case, state={**case.state, name: answer}, recipe=None))


def _signs(A: int) -> torch.Tensor:
    return 1 - 2 * (torch.arange(A, dtype=torch.float64) % 2)


@law(
    "|l| <= α for coefficients of any size, so |logdet| <= α·A·N at σ = 1",
    broken_by="clamp-reaches-past-alpha",
    regimes=("rank-0", "rank-1"),
    fix=BARE,
)
def bounded_by_alpha(run: Run) -> None:
    """The log-scale stays within α.

    Bound: the error of the log-det, beside α·A·N.
    Sees: a clamp that is missing, too wide, or one-sided.
    Blind to: the clamp's form between its limits.
    Spec: 2. Since: 0.1.
    """
    spec, A = run.spec, run.spec.A
    for sign in (1.0, -1.0):
        far = _with_coefficients(run, torch.full((A,), sign * 64.0), torch.zeros(A))
        limit = spec.affine_clamping * A * spec.N * sign * (-1 if run.rev else 1)
        want = far.want.logdet
        run.within(torch.full_like(want.value, limit), far.answer.logdet, run.bound(want), "the log-det at k = ±64",
                   scale_of(far))  # fmt: skip


@law(
    "l = α·k·(1 + O(k²)) (freia-main: k), relatively accurate for small k",
    broken_by=("clamp-divides-by-alpha", "tanh-loses-digits-near-0"),
    regimes=("rank-0",),
    fix={**BARE, "alpha": (0.5, 2.0, 1.5)},
)
def accurate_near_0(run: Run) -> None:
    """Small coefficients are clamped with the right slope and full relative accuracy.

    Bound: the error of tanh, 4 ulps of its own value, and of the sum.
    Sees: a slope other than the dialect's, and a tanh that cancels near 0.
    Blind to: large coefficients.
    Spec: 2, 6. Since: 0.1.
    """
    A = run.spec.A
    for power in (-4, -14, -24, -60):
        small = _with_coefficients(run, torch.full((A,), 1.375 * 2.0**power), torch.zeros(A))
        run.near(small.want.logdet, small.answer.logdet, f"the log-det at k = 1.375·2^{power}", scale=scale_of(small))


@law(
    "l(−k) = −l(k), so logdet(−k) = −logdet(k) at σ = 1",
    broken_by="clamp-one-sided",
    regimes=("rank-0", "rank-1"),
    fix=BARE,
)
def odd(run: Run) -> None:
    """The clamp is odd.

    Bound: the sum of both log-dets' errors.
    Sees: a one-sided clamp, or one with an offset.
    Blind to: the clamp's form for positive coefficients.
    Spec: 2. Since: 0.1.
    """
    A = run.spec.A
    k = (1 + torch.arange(A, dtype=torch.float64) % 5) / 4
    plus, minus = (_with_coefficients(run, sign * k, torch.zeros(A)) for sign in (1, -1))
    want = plus.want.logdet
    got = plus.answer.logdet.double() + minus.answer.logdet.double()
    run.within(0 * want.value, got, 2 * run.bound(want), "logdet(k) + logdet(−k)", scale_of(plus))


@law(
    "l = ±α at |k| = 10³⁰, y and logdet finite",
    broken_by="clamp-through-exp-overflows",
    regimes=("rank-0", "rank-1"),
    fix=BARE,
)
def saturates_without_overflow(run: Run) -> None:
    """Huge coefficients saturate the clamp.

    Bound: the error of the pass, at l = ±α.
    Sees: an overflow, Inf or NaN on the way to a saturated value.
    Blind to: moderate coefficients.
    Spec: 6. Since: 0.1.
    """
    A = run.spec.A
    far = _with_coefficients(run, 1e30 * _signs(A), torch.ones(A))
    run.near(far.want.logdet, far.answer.logdet, "the log-det at |k| = 1e30", scale=scale_of(far))
    run.near(far.want.out, far.answer.y, "the output at |k| = 1e30")


@law(
    "α = 0: l = 0, y depends on the shift alone",
    broken_by="alpha-0-divides",
    fix={"gin": False, "subnet": ("constant", "linear", "network")},
    directions=BOTH,
    edges=("alpha-0",),
    only_edges=True,
    half=True,
)
def alpha_0_switches_scaling_off(run: Run) -> None:
    """A clamp of 0 leaves the shift alone.

    Bound: the error of the pass.
    Sees: a division by α, and a clamp that ignores it.
    Blind to: every other α.
    Spec: 3, 6. Since: 0.1.
    """
    run.near(run.want.out, run.answer.y, "the output")
    run.near(run.want.logdet, run.answer.logdet, "the log-det", scale=scale_of(run))


@law(
    "y moves by σ·t for a shift t of any size",
    broken_by="shift-is-clamped-too",
    regimes=("rank-0", "rank-1"),
    fix=BARE,
)
def leaves_shift_alone(run: Run) -> None:
    """The shift is not clamped.

    Bound: the error of the pass.
    Sees: a shift that saturates, or is bounded by α.
    Blind to: small shifts.
    Spec: 2. Since: 0.1.
    """
    A = run.spec.A
    far = _with_coefficients(run, torch.full((A,), 0.25), 512.0 * _signs(A))
    run.near(far.want.out, far.answer.y, "the output at |t| = 512")
