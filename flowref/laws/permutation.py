"""The mixing matrix W: orthogonal, drawn as promised, made of its reflections in their order."""

import itertools
import math
from dataclasses import replace

import torch
from torch import Tensor

from flowref.bounds import logdet_error
from flowref.laws.registry import BOTH, ONCE, law
from flowref.laws.run import Run, seed_everything

# A new block of which W can be read: σ = 1, o = 0, no coupling.
BARE = {"subnet": "zero", "affine": "EXP", "scale": "one", "offset": "zero", "gin": False}
NEW = {**BARE, "g": 1.0, "S": (), "conditions": (), "reverse_permutation": False, "layout": "contiguous", "B": 1}
FALSE_ALARM = 1 / 10**9  # probability that a right generator fails one statistical law, for the seeds that are run


def _new(run: Run, seed: int = 0) -> tuple[object, Tensor]:
    """A new block, built from this seed, and its W (C, C) in float64, read off the unit vectors."""
    C = run.spec.C
    seed_everything(seed)
    block = run.ask(
        "the constructor",
        lambda: run.target.build(run.spec, run.case.subnet_constructor, run.dtype, run.device),
    )
    unit = torch.eye(C, dtype=run.dtype, device=run.device)
    y = run.go(unit, (), rev=False, block=block).y
    run.equal((C, C), tuple(y.shape), "the shape of the output for the unit vectors")
    return block, y.detach().double().cpu().T


def drawn_error(run: Run) -> float:
    """2-norm of a row's error of a W that was drawn and stored: as of C + n reflections, each (4C + 24)u, and 4u.

    Orthogonal matrices are drawn by a factorisation that is a product of C reflections (Higham, theorem 19.4).
    """
    C, n, ar = run.spec.C, run.spec.learned_householder_permutation, run.arith
    drawn = (C if run.spec.permute_soft else 0) + n
    return drawn * (4 * C + 24) * ar.w + 4 * ar.u + 2 * ar.factor


@law(
    "WWᵀ = I for a new block",
    broken_by="soft-is-not-orthogonal",
    regimes=("soft", "reflections-odd", "reflections-even"),
    fix={**NEW, "C": (2, 3, 4, 5, 8, 12), "dense": True},
    directions=ONCE,
    precisions=("float32",),
    edges=("channels-1", "reflections-hard"),
)
def w_is_orthogonal(run: Run) -> None:
    """A new block's W is orthogonal.

    Bound: rounding of C + n reflections, n those of the block.
    Sees: a W that was never orthogonalised, a reflection that is none.
    Blind to: which orthogonal matrix it is.
    Spec: 3, 5. Since: 0.1.
    """
    _, W = _new(run)
    row = drawn_error(run)
    bound = torch.full_like(W, 2 * row + row * row)
    run.within(torch.eye(len(W), dtype=W.dtype), W @ W.T, bound, "WWᵀ", 1.0)


@law(
    "det W = +1 for a new soft W",
    broken_by=("soft-has-either-determinant", "soft-w-of-one-channel-is-minus-1"),
    regimes=("soft",),
    fix={**NEW, "C": (2, 3, 4, 5), "soft": True, "reflections": 0},
    directions=ONCE,
    precisions=("float32",),
    edges=("channels-1",),
)
def soft_has_determinant_1(run: Run) -> None:
    """A new soft W is a rotation: its determinant is +1.

    Bound: how far the determinant moves when each element is off by W's own error.
    Sees: a sample of O(C) in place of SO(C); eight blocks are drawn, so one in 256 such generators passes a case.
    Blind to: the distribution otherwise.
    Spec: 3. Since: 0.1.
    """
    for seed in range(8):
        _, W = _new(run, seed)
        bound = math.expm1(logdet_error(W, torch.full_like(W, drawn_error(run))))
        run.within(torch.ones(()), torch.linalg.det(W), torch.tensor(bound), f"det W of seed {seed}", 1.0)


@law(
    "W e_j is a unit vector e_i, each i once, for a new hard W",
    broken_by="hard-repeats-a-channel",
    fix={**NEW, "C": (2, 3, 4, 5, 8, 17, 33), "soft": False, "reflections": 0},
    directions=ONCE,
    precisions=("float32",),
)
def hard_is_a_permutation(run: Run) -> None:
    """A new hard W permutes channels.

    Bound: none; its elements are 0 and 1.
    Sees: a channel that is taken twice or lost, a W that mixes.
    Blind to: which permutation it is.
    Spec: 3. Since: 0.1.
    """
    _, W = _new(run)
    C = run.spec.C
    run.equal({0.0, 1.0}, set(W.flatten().tolist()), "the elements of a hard W")
    run.equal(list(range(C)), sorted(W.argmax(1).tolist()), "the channels that a hard W takes")


@law(
    "reverse uses w_perm_inv = w_permᵀ: W⁻¹(W e) = e for a new block",
    broken_by="inverse-is-not-transposed",
    regimes=("soft",),
    fix={**NEW, "C": (3, 4, 5, 8), "reflections": 0},
    directions=ONCE,
    precisions=("float32",),
)
def inverse_is_transpose(run: Run) -> None:
    """A new block's inverse matrix is its matrix transposed.

    Bound: none for a stored matrix, whose elements are read off unit vectors by products with 1 and 0.
    Sees: an inverse that is W itself, another sample, or an approximation.
    Blind to: W.
    Spec: 5. Since: 0.1.
    """
    block, W = _new(run)
    unit = torch.eye(run.spec.C, dtype=run.dtype, device=run.device)
    back = run.go(unit, (), rev=True, block=block).y.detach().double().cpu().T
    bound = 4 * run.arith.factor * abs(W)
    run.within(W.T, back, bound, "W⁻¹", 1.0)


@law(
    "W = W₀ H₁ … H_n (documented H₁ … H_n W₀), H_k = I − 2 v_k v_kᵀ/(v_kᵀv_k)",
    broken_by=("reflections-in-reverse-order", "reflections-rounded-to-even", "reflections-not-normalised"),
    regimes=("reflections-1", "reflections-odd", "reflections-even", "reflections-over-channels"),
    fix={**BARE, "soft": True, "reflections": (1, 2, 3, 5)},
    edges=("reflections-hard",),
)
def reflections_compose_in_order(run: Run) -> None:
    """Reflections follow W₀ in their order, all of them, each normalised.

    Bound: a reflection's error, summed over the reflections by the norm of W's rows.
    Sees: another order or number, a v that is not divided by its length, W₀ on the other side.
    Blind to: the coupling.
    Spec: 3. Since: 0.1.
    """
    run.near(run.want.out, run.answer.y, "the output")


@law(
    "W does not change when v_k is scaled by a power of 2",
    broken_by="reflections-not-normalised",
    regimes=("reflections-1", "reflections-even"),
    fix={**BARE, "soft": True, "reflections": (1, 2, 3)},
)
def reflections_ignore_length(run: Run) -> None:
    """A reflection depends on the direction of its vector, not on its length.

    Bound: the error of the pass.
    Sees: a vector used as if its length were 1, an added constant in the division.
    Blind to: the order.
    Spec: 3. Since: 0.1.
    """
    case = run.case
    v = case.state["vk_householder"]
    lengths = torch.tensor([2.0**-9, 2.0**7, 1.0], dtype=torch.float64)[torch.arange(len(v)) % 3]
    longer = run.on(replace(case, state={**case.state, "vk_householder": v * lengths[:, None]}, recipe=None))
    run.near(run.want.out, longer.answer.y, "the output with longer and shorter vectors")


@law(
    "P(π) = 1/6 for each of the 6 permutations of 3 channels",
    broken_by="hard-is-always-a-shift",
    fix={**NEW, "C": 3, "soft": False, "reflections": 0},
    directions=ONCE,
    precisions=("float32",),
    rows=1,
)
def hard_is_uniform(run: Run) -> None:
    """Each hard permutation is as likely as any other.

    Bound: Hoeffding's inequality for 1000 blocks of different seeds: a right generator fails with probability 1e-9.
    Sees: permutations that never come, or come far too often.
    Blind to: a bias below a tenth; more than 3 channels.
    Spec: 3. Since: 0.1.
    """
    n, kinds = 1000, list(itertools.permutations(range(3)))
    seen = [tuple(_new(run, seed)[1].argmax(1).tolist()) for seed in range(n)]
    share = torch.tensor([seen.count(kind) / n for kind in kinds], dtype=torch.float64)
    bound = math.sqrt(math.log(2 * len(kinds) / FALSE_ALARM) / (2 * n))
    run.within(torch.full_like(share, 1 / 6), share, torch.full_like(share, bound), "share of each permutation", 6.0)


def _largest_gap(sample: Tensor, cdf: Tensor) -> Tensor:
    """Kolmogorov's distance between a sorted sample and its distribution's values there."""
    n = len(sample)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return torch.maximum((steps[1:] - cdf).max(), (cdf - steps[:-1]).max())


@law(
    "each element of a Haar sample of SO(3) is uniform on [−1, 1]; its angle θ has density (1 − cos θ)/π",
    broken_by="soft-lacks-sign-correction",
    fix={**NEW, "C": 3, "soft": True, "reflections": 0},
    directions=ONCE,
    precisions=("float32",),
    rows=1,
)
def soft_is_haar(run: Run) -> None:
    """A soft W is drawn from the Haar measure of SO(C).

    Bound: the Dvoretzky–Kiefer–Wolfowitz inequality (Massart 1990) for 500 blocks, 9 elements and the angle: a right
        generator fails with probability 1e-9.
    Sees: Q of a QR factorisation taken without R's signs, one matrix for all seeds, a fixed sign.
    Blind to: a distance between distributions below 0.16; more than 3 channels.
    Spec: 3. Since: 0.1.
    """
    n = 500
    W = torch.stack([_new(run, seed)[1] for seed in range(n)])
    bound = torch.tensor(math.sqrt(math.log(2 * 10 / FALSE_ALARM) / (2 * n)))
    for i, j in itertools.product(range(3), repeat=2):
        element = W[:, i, j].sort().values
        gap = _largest_gap(element, (element + 1) / 2)
        run.within(torch.zeros(()), gap, bound, f"distance of W[{i},{j}] from its distribution", 16.0)
    angle = torch.arccos(((W.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)).sort().values
    gap = _largest_gap(angle, (angle - torch.sin(angle)) / math.pi)
    run.within(torch.zeros(()), gap, bound, "distance of the angle from its distribution", 16.0)


@law(
    "v_k ~ N(0, 0.2²), elementwise",
    broken_by="reflections-start-tiny",
    fix={**NEW, "C": 16, "soft": False, "reflections": 64},
    directions=ONCE,
    precisions=("float32",),
    needs=("state",),
    edges=("reflections-hard",),
    only_edges=True,
    rows=1,
)
def reflections_start_small(run: Run) -> None:
    """Reflections start as 0.2 times a standard normal sample.

    Bound: the Dvoretzky–Kiefer–Wolfowitz inequality for all elements of one block: a right generator fails with
        probability 1e-9.
    Sees: another spread or distribution, vectors that repeat.
    Blind to: a distance between distributions below 0.1.
    Spec: 5. Since: 0.1.
    """
    block, _ = _new(run)
    v = run.ask("the state", lambda: run.target.state(block)["vk_householder"]).detach().double().cpu()
    run.equal((run.spec.learned_householder_permutation, run.spec.C), tuple(v.shape), "the shape of vk_householder")
    sample = v.flatten().sort().values
    cdf = (1 + torch.erf(sample / (0.2 * math.sqrt(2)))) / 2
    bound = torch.tensor(math.sqrt(math.log(2 / FALSE_ALARM) / (2 * len(sample))))
    run.within(torch.zeros(()), _largest_gap(sample, cdf), bound, "distance of v from its distribution", 16.0)


@law(
    "y = x for a zero subnet, σ = 1, o = 0, with reverse_permutation",
    broken_by="reverse-permutation-uses-w",
    regimes=("soft", "reflections-odd", "rank-0", "rank-2"),
    fix={**BARE, "reverse_permutation": True},
    directions=BOTH,
)
def reverse_permutation_undoes_the_permutation(run: Run) -> None:
    """reverse_permutation undoes exactly what follows.

    Bound: the error of the pass; how far the stored W is from orthogonal is data of the case.
    Sees: W in place of W⁻¹ before the coupling, which is blind only for a W that is its own inverse.
    Blind to: the coupling.
    Spec: 2. Since: 0.1.
    """
    # The reference's pass, which is x up to the distance of the stored W from orthogonal: data of the case.
    run.near(run.want.out, run.answer.y, "y")
