"""The clamp of the coupling's log-scale."""

from dataclasses import replace

import torch

from flowref.bounds import exact
from flowref.laws.logdet import scale_of
from flowref.laws.registry import BOTH, HALVES, law
from flowref.laws.run import Run, wanted
from flowref.reference import clamp, coefficients, join
from flowref.spec import Dialect

# Coefficients that a law sets itself, and σ = 1, so that the log-det is Σ l alone.
BARE = {"subnet": "constant", "affine": "EXP", "scale": "one", "gin": False, "max_CN": 300}

# Two channels and nothing but the coupling: the subnet's answer is (the passive channel, 0), so the log-det is l.
ALONE = {"B": 1, "C": 2, "S": (), "conditions": (), "subnet": "linear", "gin": False, "alpha": 2.0, "g": 1.0,
         "affine": "EXP", "scale": "one", "offset": "zero", "permutation": "identity", "soft": False, "reflections": 0,
         "reverse_permutation": False, "clamp": "curved", "size": 0}  # fmt: skip
PART = 2**22  # coefficients of float32 that are judged at a time


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


def _passing(run: Run) -> Run:
    """The run with a subnet that answers the passive channel itself, and 0 as shift."""
    state = {"subnet.weight": torch.tensor([[1.0], [0.0]]), "subnet.bias": torch.zeros(2)}
    return run.on(replace(run.case, state=run.case.state | {name: v.double() for name, v in state.items()}))


def _legal(bits: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The numbers of these bit patterns; 0 for those that no legal case holds: above max/2⁴, infinite, NaN."""
    a = bits.view(dtype)
    return torch.where(abs(a) <= torch.finfo(dtype).max / 2**4, a, 0.0)


def _samples(run: Run, a: torch.Tensor) -> torch.Tensor:
    """A sample for each coefficient (n,): passive a, active 1. Shape (n, 2)."""
    return join(run.spec, a[:, None], torch.ones_like(a)[:, None])


@law(
    "l = clamp(k) for the k of every a_k that a half precision has",
    broken_by="clamp-leaves-a-gap",
    fix=ALONE,
    precisions=("float32", *HALVES),
    rows=1,
)
def exhaustive_half(run: Run) -> None:
    """Every coefficient that a half precision has is clamped as the formula says.

    Bound: the error of the pass, coefficient by coefficient; sample i of the batch has the coefficient of bit pattern
    i, or 0 where that is above max/16, infinite or NaN, which no legal case holds. A pass in float32 is given those of
    both half precisions: the bounds of branches and tables are short numbers.
    Sees: a clamp that is wrong at a few coefficients only: a gap between two branches, one entry of a table.
    Blind to: other α than 2, longer numbers, and to what a coefficient's neighbours in memory do to it.
    Spec: 2, 6. Since: 0.2.
    """
    one = _passing(run)
    for half in HALVES if run.dtype is torch.float32 else [str(run.dtype).removeprefix("torch.")]:
        x = _samples(run, _legal(torch.arange(2**16).to(torch.int16), getattr(torch, half)).to(run.dtype))
        want, got = wanted(one.case, one.arith).go(run.rev, x.double()), one.go(x.to(run.device))
        run.near(want.logdet, got.logdet, f"the log-det at the coefficient of {half} bit pattern ")
        run.near(want.out, got.y, f"the output at the coefficient of {half} bit pattern ")


@law(
    "l = clamp(k) for the k of every a_k that float32 has",
    broken_by="clamp-wrong-at-one-coefficient",
    fix=ALONE,
    precisions=("float32",),
    directions=("forward",),
    parts=2**32 // PART,
    rows=1,
)
def exhaustive_float32(run: Run) -> None:
    """Every coefficient that float32 has is clamped as the formula says.

    Bound: the error of the clamp, coefficient by coefficient. Part p has the bit patterns from p·2²² on, with 0 for
    those above max/16, infinite or NaN, which no legal case holds. The reference's lines of the clamp stand for its
    whole pass: with one active channel, one pixel and σ = 1 the log-det is l, to which zeros are added.
    Sees: a clamp that is wrong at a few coefficients of float32 only.
    Blind to: the output, the reverse pass, other α than 2 (`exhaustive-half` looks at the first two).
    Spec: 2, 6. Since: 0.2.
    """
    assert run.case.recipe is not None  # which part it is stands in its seed alone
    spec, one, first = run.spec, _passing(run), run.case.recipe.seed * PART
    step = PART if run.device.startswith("cuda") else 2**17  # on a CPU, what fits its cache
    for start in range(first, first + PART, step):
        a = _legal(torch.arange(start, start + step, device=run.device).to(torch.int32), run.dtype)
        x = _samples(run, a)
        with torch.no_grad():
            k, _ = coefficients(spec, exact(torch.stack([a, torch.zeros_like(a)], 1), run.arith))
            l, got = clamp(spec, k)[1][:, 0], one.go(x).logdet  # noqa: E741
        what = f"the log-det at the coefficient of bit pattern {start:#x} + "
        run.within(l.value.cpu(), got, run.bound(l).cpu(), what, spec.affine_clamping)
