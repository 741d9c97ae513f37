"""The affine coupling: what passes through, what the subnet is given, what its answer is for."""

from dataclasses import replace

import torch

from flowref.laws.logdet import jacobians, scale_of
from flowref.laws.registry import EDGES, law
from flowref.laws.run import Run
from flowref.laws.spread import SMALL, reaches_the_outputs
from flowref.reference import split

# A block that is its coupling alone: W = I, σ = 1, o = 0.
ALONE = {"soft": False, "reflections": 0, "reverse_permutation": False, "permutation": "identity", "affine": "EXP",
         "scale": "one", "offset": "zero"}  # fmt: skip
HARD = {"soft": False, "reflections": 0, "reverse_permutation": False}


@law(
    "y_p = x_p, bit for bit, for W = I, σ = 1, o = 0",
    broken_by="parts-joined-the-other-way",
    regimes=("rank-0", "rank-2", "channels-odd", "conditions-1"),
    fix=ALONE,
    half=True,
)
def passive_passes_through(run: Run) -> None:
    """The passive channels pass through unchanged.

    Bound: none; nothing is computed on them here. Where products are declared tf32, W = I rounds them: its bound.
    Sees: parts that are cut or joined otherwise, conditions that leak into the output, a passive part that is scaled.
    Blind to: the active channels.
    Spec: 2, 3. Since: 0.1.
    """
    got, _ = split(run.spec, run.answer.y.cpu())
    if run.target.precision == "tf32":
        run.near(split(run.spec, run.want.out)[0], got, "the passive channels")
        return
    want, _ = split(run.spec, run.case.x)
    run.same(want.to(run.dtype), got, "the passive channels")


@law(
    "∂y_p/∂x_q = 0 and ∂y_q/∂x_q is diagonal, for a hard W",
    broken_by="parts-swapped",
    regimes=("rank-0", "rank-1", "channels-odd"),
    fix={
        **HARD,
        "permutation": "identity",
        "max_CN": 24,
        "max_B": 3,
        "subnet": ("linear", "network", "convolutional", "constant", "zero"),
    },
    needs=("gradient",),
)
def jacobian_is_triangular(run: Run) -> None:
    """Passive outputs do not depend on active inputs, and each active output on its own active input alone.

    Bound: the error of each derivative, which is none where it is 0 by structure.
    Sees: the wrong half conditioned on, or a subnet that is given what it is about to change.
    Blind to: the size of the derivatives.
    Spec: 2. Since: 0.1.
    """
    J, _, error = jacobians(run)
    C, N, B = run.spec.C, run.spec.N, run.case.B
    channels = torch.arange(C).repeat_interleave(N)
    pixels = torch.arange(N).repeat(C)
    passive, active = (part[0] for part in split(run.spec, torch.arange(C)[None]))
    is_active = torch.isin(channels, active)
    assert len(passive) == run.spec.P
    same = (channels[:, None] == channels) & (pixels[:, None] == pixels)
    zero = is_active[None, :] & ~same
    got = J[:, zero]
    run.within(0 * got, got, error[:, zero], "∂y/∂x_q off the diagonal", 1.0)
    run.equal((B, C * N, C * N), tuple(J.shape), "the shape of the Jacobian")


@law(
    "one call of the subnet a pass",
    broken_by=("subnet-called-twice", "subnet-not-called-at-one-channel"),
    regimes=("gin", "reverse-permutation"),
    half=True,
    edges=EDGES,
)
def subnet_called_once(run: Run) -> None:
    """The subnet is called exactly once a pass.

    Bound: none; a count.
    Sees: a subnet that is evaluated again, which moves batch statistics and draws dropout anew; one left out.
    Blind to: what it is called with.
    Spec: 1. Since: 0.1.
    """
    run.equal(1, len(run.answer.seen), "calls of the subnet in one pass")


@law(
    "hooks of the subnet run once a pass",
    broken_by="subnet-called-past-its-hooks",
    rows=4,
)
def subnet_is_called_with_its_hooks(run: Run) -> None:
    """The subnet is called as a module is: hooks that were registered on it run.

    Bound: none; a count.
    Sees: a call of `subnet.forward` itself, which leaves out what spectral normalisation, profilers and sharding hang
        on a module.
    Blind to: hooks of modules within the subnet.
    Spec: 1. Since: 0.2.
    """
    block, ran = run.build(), []
    before = run.probe.register_forward_pre_hook(lambda *_: ran.append("before"))
    behind = run.probe.register_forward_hook(lambda *_: ran.append("behind"))
    run.go(block=block)
    before.remove()
    behind.remove()
    run.equal(["before", "behind"], ran, "hooks of the subnet that ran in one pass")


@law(
    "the subnet is given cat(p, c₁, c₂, …)",
    broken_by="conditions-come-first",
    regimes=("rank-0", "rank-2", "conditions-0", "conditions-1", "conditions-2", "conditions-3", "channels-odd",
             "reverse-permutation"),
    half=True,
    edges=("batch-0", "channels-1"),
)  # fmt: skip
def subnet_sees_passive_then_conditions(run: Run) -> None:
    """The subnet is given the passive part, then the conditions in their order.

    Bound: the error of the passive part, which is none unless W or the global affine comes before it.
    Sees: the active half handed over, conditions swapped, changed or left out.
    Blind to: what is done with the answer.
    Spec: 1, 2. Since: 0.1.
    """
    run.equal(True, bool(run.answer.seen), "whether the subnet was called")
    run.near(run.want.seen, run.answer.seen[0], "the subnet's input")


@law(
    "logdet depends on the first half of the answer only, the shift is the second",
    broken_by=("shift-read-from-scale-half", "answer-halves-swapped"),
    regimes=("rank-0", "rank-1"),
    fix={"subnet": "constant"},
)
def halves_have_their_roles(run: Run) -> None:
    """The first half of the subnet's answer scales, the second shifts.

    Bound: the error of each pass.
    Sees: both coefficients read from one half, halves exchanged or interleaved.
    Blind to: how each coefficient acts.
    Spec: 1, 2. Since: 0.1.
    """
    case, A = run.case, run.spec.A
    name = next(n for n in case.state if n.startswith("subnet."))
    answer = case.state[name]
    shifted = answer.clone()
    shifted.flatten()[A:] *= -2  # rounds nothing
    moved = run.on(replace(case, state={**case.state, name: shifted}, recipe=None))
    run.near(run.want.logdet, moved.answer.logdet, "the log-det after the shift moved", scale=scale_of(run))
    run.near(moved.want.out, moved.answer.y, "the output after the shift moved")


@law(
    "f(x) is not finite where the map's value isn't, for a subnet that answers NaN in one row of k, or of t",
    broken_by="exponential-that-is-no-number-becomes-1",
    regimes=("rank-0", "rank-2", "gin", "soft"),
    fix={**SMALL, "subnet": "constant"},
    rows=10,
)
def not_finite_answer_reaches_the_outputs(run: Run) -> None:
    """What is not finite in the subnet's answer is not finite in all outputs that depend on it, and in the log-det.

    Bound: none; as of `batch.not-finite-reaches-its-outputs`, where k and t are NaN together.
    Sees: a log-scale or a shift, each alone, that is replaced, clamped or skipped where it is not finite.
    Blind to: a subnet whose answer differs by sample.
    Spec: 6. Since: 0.2.
    """
    A, at = run.spec.A, int(run.case.id[:8], 16)
    for row, what in ((at % A, "log-scale"), (A + at % A, "shift")):
        coefficients = run.case.state["subnet.coefficients"].clone()
        coefficients.view(-1)[row] = torch.nan
        case = replace(run.case, state=run.case.state | {"subnet.coefficients": coefficients}, recipe=None)
        reaches_the_outputs(run, case, f"of a {what} that is NaN")
