"""The reference: against numbers worked by hand, its gradient against autograd's, its inverse against itself."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from flowref.reference import ReferenceBlock, initial_scale, reflect
from flowref.spec import IllegalArgument

EPS = 2.0**-52


class Fixed(nn.Module):
    """A subnet that answers with these numbers."""

    def __init__(self, *answer: float) -> None:
        super().__init__()
        self.answer = torch.tensor(answer, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.answer.reshape(1, -1, *(1,) * (x.ndim - 2)).expand(x.shape[0], -1, *x.shape[2:]).clone()


class Linear(nn.Module):
    """A pixelwise subnet with the gradient by hand that the reference asks for."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.w = nn.Parameter(3 * torch.randn(outputs, inputs, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("oi,bi...->bo...", self.w, x)

    def pullback(self, x: Tensor, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        flat = (g.reshape(*g.shape[:2], -1), x.reshape(*x.shape[:2], -1))
        return torch.einsum("oi,bo...->bi...", self.w, g), {"w": torch.einsum("bon,bin->oi", *flat)}


# One sample, C = 2, x = (3, 5), α = 2, EXP with s = (0, log 2), o = (1/2, 1/4), W exchanges the channels,
# subnet answer a = (5, 10). Worked by hand: T = tanh of 0.5, 0.25 and 5.
T_HALF, T_QUARTER, T_5 = math.tanh(0.5), math.tanh(0.25), math.tanh(5.0)
BY_HAND = {
    # k = 0.5, t = 1; q = 5: u = (3, 5·e^(2·tanh 0.5) + 1), v = (3 + 1/2, 2u₂ + 1/4), y = (v₂, v₁)
    "anomalib": ((2 * (5 * math.exp(2 * T_HALF) + 1) + 0.25, 3.5), 2 * T_HALF + math.log(2)),
    # l = 2·tanh(0.5/2)
    "freia-main": ((2 * (5 * math.exp(2 * T_QUARTER) + 1) + 0.25, 3.5), 2 * T_QUARTER + math.log(2)),
    # k = 5, t = 10, q = 3 is the first channel: u = (3·e^(2·tanh 5) + 10, 5), σu = (u₁, 10), y = (10 + 1/2, u₁ + 1/4)
    "documented": ((10 + 0.5, 3 * math.exp(2 * T_5) + 10 + 0.25), 2 * T_5 + math.log(2)),
}


@pytest.mark.parametrize("dialect", BY_HAND)
def test_forward_is_what_one_works_out_by_hand(dialect: str) -> None:
    block = ReferenceBlock([(2,)], None, lambda n, m: Fixed(5, 10), global_affine_type="EXP", dialect=dialect)
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    block.load_state_dict(
        {
            "global_scale": torch.tensor([[0.0, math.log(2)]], dtype=torch.float64),
            "global_offset": torch.tensor([[0.5, 0.25]], dtype=torch.float64),
            "w_perm": swap,
            "w_perm_inv": swap,
        }
    )

    (y,), logdet = block([torch.tensor([[3.0, 5.0]], dtype=torch.float64)])

    want_y, want_logdet = BY_HAND[dialect]
    assert abs(y - torch.tensor([want_y], dtype=torch.float64)).max() <= 8 * EPS * max(want_y)
    assert abs(logdet - want_logdet).item() <= 8 * EPS * want_logdet


def test_gin_subtracts_the_mean_over_channels_and_pixels() -> None:
    """C = 4, two active channels with k = 1/2 and 1: l − mean l = ±(tanh 1 − tanh 1/2)/2·α, log-det 0."""
    block = ReferenceBlock([(4,)], None, lambda n, m: Fixed(5, 10, 0, 0), 1.0, gin_block=True)
    eye = torch.eye(4, dtype=torch.float64)
    block.load_state_dict({**block.state_dict(), "w_perm": eye, "w_perm_inv": eye})

    (y,), logdet = block([torch.ones(1, 4, dtype=torch.float64)])

    half = (math.tanh(1.0) - math.tanh(0.5)) / 2
    want = torch.tensor([[1.0, 1.0, math.exp(-half), math.exp(half)]], dtype=torch.float64)
    assert abs(y - want).max() <= 8 * EPS * 2
    assert abs(logdet).item() <= 4 * EPS


def test_a_reflection_mirrors_along_its_vector() -> None:
    """v = (1, 1): H exchanges the two axes with a minus."""
    got = reflect(torch.eye(2, dtype=torch.float64), torch.tensor([2.0, 2.0], dtype=torch.float64))

    assert torch.equal(got, torch.tensor([[0.0, -1.0], [-1.0, 0.0]], dtype=torch.float64))


def test_an_index_vector_loads_as_the_matrix_it_means() -> None:
    block = ReferenceBlock([(3,)], None, lambda n, m: Fixed(0, 0))
    index = torch.tensor([2, 0, 1])
    state = {**block.state_dict(), "w_perm": index, "w_perm_inv": torch.argsort(index)}
    block.load_state_dict(state)

    x = torch.tensor([[10.0, 20.0, 30.0]], dtype=torch.float64)
    (y,), _ = block([x])

    sigma = 0.2 * math.log1p(math.exp(block.global_scale[0, 0].item() / 2))
    assert abs(y - sigma * x[:, index]).max() <= 8 * EPS * 30


@pytest.mark.parametrize("kind", ["SIGMOID", "SOFTPLUS", "EXP"])
@pytest.mark.parametrize("g", [1e-30, 1e-8, 0.3, 1.0, 9.99])
def test_the_initial_scale_gives_g(kind: str, g: float) -> None:
    s = initial_scale(kind, g)
    psi = {
        "SIGMOID": lambda: 10 / (1 + math.exp(2 - s)),
        "SOFTPLUS": lambda: 0.2 * math.log1p(math.exp(s / 2)),
        "EXP": lambda: math.exp(s),
    }[kind]()

    # s is right to an ulp of |s| or so, and Ψ carries that on: 16 ulps of max(|s|, 1), relative
    assert abs(psi / g - 1) <= 16 * EPS * max(abs(s), 1)


FLAGS = list(
    itertools.product(
        ("anomalib", "freia-main", "documented"), (False, True), ("SIGMOID", "SOFTPLUS", "EXP"),
        ((False, 0), (True, 0), (True, 3)), (False, True), ((), (2,), (2, 3)), (False, True),
    )
)  # fmt: skip


def block_of(dialect, gin, kind, mixing, reverse_permutation, S) -> ReferenceBlock:
    soft, reflections = mixing
    block = ReferenceBlock(
        [(5, *S)], [(2, *S)], Linear, 1.5, gin, 1.3, kind, soft, reflections, reverse_permutation, dialect=dialect
    )
    with torch.no_grad():
        block.global_scale += torch.randn_like(block.global_scale)
        block.global_offset += torch.randn_like(block.global_offset)
    return block


def test_pullback_is_autograds_gradient() -> None:
    """All flags, both directions, incoming gradients of output and log-det at once.

    Compared by the largest element: both are float64 evaluations of the same derivative through some 20 operations,
    and the inverse amplifies by up to 1/σ and exp(α), some hundreds; 2⁻³⁶ leaves three digits and sees any mistake.
    """
    torch.manual_seed(0)
    worst = 0.0
    for *flags, rev in FLAGS:
        block, S = block_of(*flags), flags[-1]
        x, c = (torch.randn(3, n, *S, dtype=torch.float64, requires_grad=True) for n in (5, 2))
        (y,), logdet = block([x], [c], rev=rev)
        gy, gj = torch.randn_like(y), torch.randn_like(logdet)
        leaves = {"x": x, "c0": c, **dict(block.named_parameters())}
        loss = (gy * y).sum() + (gj * logdet).sum()
        want = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        with torch.no_grad():
            got = block.pullback(block.trace(x, (c,), rev), gy, gj)
        assert set(got) == set(leaves)
        for name, w in zip(leaves, want, strict=True):
            w = torch.zeros_like(leaves[name]) if w is None else w
            worst = max(worst, float(abs(got[name] - w).max() / max(1.0, float(abs(w).max()))))

    assert worst <= 2.0**-36


def test_reverse_undoes_forward() -> None:
    torch.manual_seed(1)
    worst = 0.0
    for *flags, rev in FLAGS:
        block, S = block_of(*flags), flags[-1]
        x, c = (torch.randn(3, n, *S, dtype=torch.float64) for n in (5, 2))
        with torch.no_grad():
            (y,), there = block([x], [c], rev=rev)
            (back,), again = block([y], [c], rev=not rev)
        worst = max(worst, float(abs(back - x).max()), float(abs(there + again).max()))

    assert worst <= 2.0**-36  # as above


@pytest.mark.parametrize("S", [(), (3,), (2, 2), (1, 2, 3)])
@pytest.mark.parametrize("rev", [False, True])
def test_answers_empty_batches_and_one_channel(S: tuple[int, ...], rev: bool) -> None:
    for B, C in ((0, 4), (2, 1), (0, 1)):
        block = ReferenceBlock([(C, *S)], None, Linear, gin_block=bool(B))
        (y,), logdet = block([torch.randn(B, C, *S, dtype=torch.float64)], rev=rev)
        assert (y.shape, logdet.shape) == ((B, C, *S), (B,))
        assert bool(y.isfinite().all()) and bool(logdet.isfinite().all())


def test_refuses_what_the_spec_refuses() -> None:
    with pytest.raises(IllegalArgument, match="affine_clamping"):
        ReferenceBlock([(4,)], None, Linear, affine_clamping=-1)
