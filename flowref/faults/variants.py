"""Variants: correct blocks, written in other ways than the plain one. The gate must not break on any of them.

Each takes one liberty that docs/block.md, section 6, grants, in all three dialects: another order of summation,
another place of the constants, another form of the permutation or of the reflections.

    VARIANTS   all of them
    find(id)   the variant of that id
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowref.faults.plain import PlainBlock, one_hot
from flowref.spec import Dialect


@dataclass(frozen=True)
class Variant:
    """One correct block: ``make()`` gives its class, with the documented constructor."""

    id: str
    make: Callable[[], type[nn.Module]]
    note: str
    halves: bool = True  # whether sums in bfloat16 and float16 are carried in float32, as a correct block does


def find(id: str) -> Variant:
    """The variant of this id. Raises KeyError with the nearest ids."""
    for variant in VARIANTS:
        if variant.id == id:
            return variant
    near = get_close_matches(id, [variant.id for variant in VARIANTS])
    raise KeyError(f"no variant {id!r}. Nearest: {', '.join(near) or 'none'}.")


# The product with W.


class Einsum(PlainBlock):
    """W x as einsum."""

    def mix(self, M: Tensor, x: Tensor) -> Tensor:
        return torch.einsum("ij,bj...->bi...", M, x)


class Convolution(PlainBlock):
    """W x as a convolution with a stencil of one pixel."""

    def mix(self, M: Tensor, x: Tensor) -> Tensor:
        convolve = (functional.linear, functional.conv1d, functional.conv2d, functional.conv3d)[self.spec.rank]
        return convolve(x, M.reshape(*M.shape, *(1,) * self.spec.rank))


class ReversedChannels(PlainBlock):
    """W x, its terms from the last channel to the first."""

    def mix(self, M: Tensor, x: Tensor) -> Tensor:
        return super().mix(M.flip(1), x.flip(1))


class ChannelsInChunks(PlainBlock):
    """W x as a sum of products of three channels each."""

    def mix(self, M: Tensor, x: Tensor) -> Tensor:
        parts = [torch.einsum("ij,bj...->bi...", m, v) for m, v in zip(M.split(3, 1), x.split(3, 1), strict=True)]
        return sum(parts[1:], parts[0])


class SumOverBroadcast(PlainBlock):
    """W x without a matrix product: multiply, then sum over an axis."""

    def mix(self, M: Tensor, x: Tensor) -> Tensor:
        return (M.reshape(1, *M.shape, *(1,) * self.spec.rank) * x.unsqueeze(1)).sum(2)


class IndexPermutation(PlainBlock):
    """A hard permutation stored as an int64 index vector, W v = v[:, w_perm]; a soft matrix is taken when loaded."""

    def store(self, W: Tensor) -> None:
        super().store(W)
        if not self.spec.permute_soft:
            self.w_perm = self.w_perm.flatten(1).argmax(1)
            self.w_perm_inv = self.w_perm_inv.flatten(1).argmax(1)

    def mixing(self) -> tuple[Tensor, Tensor]:
        if "w_perm" in self._buffers and not self.w_perm.is_floating_point():
            return self.w_perm, self.w_perm_inv
        return super().mixing()

    def mix(self, M: Tensor, x: Tensor) -> Tensor:
        return super().mix(M, x) if M.is_floating_point() else x[:, M]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Loads as the plain block does, as matrices; then what is a hard permutation becomes an index vector."""
        names = [name for name in ("w_perm", "w_perm_inv") if name in self._buffers]
        for name in names:
            W = getattr(self, name)
            M = W if W.is_floating_point() else one_hot(W).to(self.global_scale)
            setattr(self, name, M.reshape(len(W), len(W), *(1,) * self.spec.rank))
        try:
            super()._load_from_state_dict(state_dict, prefix, *rest)
        finally:
            for name in names:
                M = getattr(self, name).flatten(1)
                pi = M.argmax(1)
                if torch.equal(M, one_hot(pi).to(M)):
                    setattr(self, name, pi)


# Scale and offset.


class FoldedForward(PlainBlock):
    """Forward as (W σ) u + W o, as documented (W σ) u + o, in one baddbmm."""

    def affine_forward(self, W: Tensor, sigma: Tensor, u: Tensor) -> Tensor:
        o = self.global_offset.reshape(-1, 1)
        bias = o if self.spec.dialect is Dialect.DOCUMENTED else W @ o
        return folded(W * sigma.reshape(1, -1), u, bias)


class FoldedReverse(PlainBlock):
    """Reverse as (σ⁻¹ V) y − σ⁻¹ o, as documented (σ⁻¹ V) y − (σ⁻¹ V) o, in one baddbmm."""

    def affine_reverse(self, V: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        o, sigma = self.global_offset.reshape(-1, 1), sigma.reshape(-1, 1)
        M = V / sigma
        bias = M @ o if self.spec.dialect is Dialect.DOCUMENTED else o / sigma
        return folded(M, y, -bias)


def folded(M: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    """M x + bias at every pixel: M (C, C), bias (C, 1), x (B, C, *S)."""
    columns = x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)
    B, _, N = columns.shape
    return torch.baddbmm(bias.expand(B, -1, N), M.expand(B, -1, -1), columns).reshape(x.shape)


class Reciprocals(PlainBlock):
    """A product by 1/σ, by 1/α and by 1/vᵀv for each division."""

    def clamp(self, k: Tensor) -> Tensor:
        alpha = self.spec.affine_clamping
        k = k * (1 / alpha) if self.spec.dialect is Dialect.FREIA_MAIN else k
        return alpha * torch.tanh(k)

    def affine_reverse(self, V: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        inverse = sigma.reciprocal()
        if self.spec.dialect is Dialect.DOCUMENTED:
            return self.mix(V, y - self.global_offset) * inverse
        return (self.mix(V, y) - self.global_offset) * inverse

    def reflection(self, W: Tensor, v: Tensor) -> Tensor:
        """W H, with the reciprocal of vᵀv."""
        return W - torch.outer(W @ v, v) * (2 * (v @ v).reciprocal())

    def mixing(self) -> tuple[Tensor, Tensor]:
        if not self.spec.learned_householder_permutation:
            return super().mixing()
        return reflected(self, self.reflection)


class Addcmul(PlainBlock):
    """Multiply and add in one call, in the coupling and around W."""

    def couple(self, q: Tensor, l: Tensor, t: Tensor) -> Tensor:  # noqa: E741
        return torch.addcmul(t, q, torch.exp(l))

    def affine_forward(self, W: Tensor, sigma: Tensor, u: Tensor) -> Tensor:
        if self.spec.dialect is Dialect.DOCUMENTED:
            return super().affine_forward(W, sigma, u)
        return self.mix(W, torch.addcmul(self.global_offset, sigma, u))


class ScaleInsideExp(PlainBlock):
    """Forward with σ spread over the coupling: q exp(l + log σ) + σ t, and σ p."""

    def pass_forward(self, x: Tensor, c: list[Tensor]) -> tuple[Tensor, Tensor]:
        W, V = self.mixing()
        sigma, o = self.scale(), self.global_offset
        p, q = self.split(self.mix(V, x) if self.spec.reverse_permutation else x)
        sigma_p, sigma_q = self.split(sigma)
        k, t = self.coefficients(p, c)
        l = self.centre(self.clamp(k)) if self.spec.gin_block else self.clamp(k)  # noqa: E741
        su = self.join(sigma_p * p, q * torch.exp(l + torch.log(sigma_q)) + sigma_q * t)
        y = self.mix(W, su) + o if self.spec.dialect is Dialect.DOCUMENTED else self.mix(W, su + o)
        return y, self.volume(l, sigma)


class LogOfExpIsS(PlainBlock):
    """Of EXP, log σ is s itself."""

    def volume(self, l: Tensor, sigma: Tensor) -> Tensor:  # noqa: E741
        if self.spec.gin_block or self.spec.global_affine_type != "EXP":
            return super().volume(l, sigma)
        return l.sum(dim=tuple(range(1, l.ndim))) + self.spec.N * self.global_scale.sum()


# GIN.


class GinAsProduct(PlainBlock):
    """GIN as exp(l) exp(−mean), with a log-det of 0; the mean as a sum over n."""

    def mean(self, l: Tensor) -> Tensor:  # noqa: E741
        """The mean over channels and pixels, (B, 1, 1…)."""
        return l.sum(dim=tuple(range(1, l.ndim)), keepdim=True) / max(1, self.spec.A * self.spec.N)

    def centre(self, l: Tensor) -> Tensor:  # noqa: E741
        return l

    def couple(self, q: Tensor, l: Tensor, t: Tensor) -> Tensor:  # noqa: E741
        if not self.spec.gin_block:
            return super().couple(q, l, t)
        return q * (torch.exp(l) * torch.exp(-self.mean(l))) + t

    def uncouple(self, q: Tensor, l: Tensor, t: Tensor) -> Tensor:  # noqa: E741
        if not self.spec.gin_block:
            return super().uncouple(q, l, t)
        return (q - t) * (torch.exp(-l) * torch.exp(self.mean(l)))

    def volume(self, l: Tensor, sigma: Tensor) -> Tensor:  # noqa: E741
        return l.new_zeros(len(l)) if self.spec.gin_block else super().volume(l, sigma)


# Reflections.


def reflected(block: PlainBlock, reflection: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """W and its transpose, made with reflection(M, v) = M H: as documented, (H₁ … H_n W₀)ᵀ = W₀ᵀ H_n … H₁."""
    documented = block.spec.dialect is Dialect.DOCUMENTED
    M = block.w_0.T if documented else block.w_0
    for v in block.vk_householder.flip(0) if documented else block.vk_householder:
        M = reflection(M, v)
    return (M.T, M) if documented else (M, M.T)


class NormalisedVectors(PlainBlock):
    """H = I − 2 v vᵀ of vectors that were divided by their length."""

    def mixing(self) -> tuple[Tensor, Tensor]:
        if not self.spec.learned_householder_permutation:
            return super().mixing()

        def reflection(M: Tensor, v: Tensor) -> Tensor:
            v = v / v.norm()
            return M - 2 * torch.outer(M @ v, v)

        return reflected(self, reflection)


class CompactWY(PlainBlock):
    """H₁ … H_n = I − Yᵀ T Y with T upper triangular, the vectors in the rows of Y."""

    def mixing(self) -> tuple[Tensor, Tensor]:
        if not self.spec.learned_householder_permutation:
            return super().mixing()
        Y = self.vk_householder
        T = Y.new_zeros(0, 0)
        for k, v in enumerate(Y):  # I − Yᵀ T Y times I − τ v vᵀ has the same form, with one row and column more
            tau = (2 / (v @ v)).reshape(1, 1)
            column = -tau * (T @ (Y[:k] @ v).reshape(k, 1))
            T = torch.cat([torch.cat([T, column], dim=1), torch.cat([Y.new_zeros(1, k), tau], dim=1)], dim=0)
        if self.spec.dialect is Dialect.DOCUMENTED:
            W = self.w_0 - Y.T @ (T @ (Y @ self.w_0))
        else:
            W = self.w_0 - (self.w_0 @ Y.T) @ T @ Y
        return W, W.T


class ReflectsVectors(PlainBlock):
    """W is never made: W₀ and the reflections are applied to the pixels, one after another."""

    def mixing(self) -> tuple[Tensor, Tensor]:
        if not self.spec.learned_householder_permutation:
            return super().mixing()
        return self.w_0, self.w_0.T

    def mix(self, M: Tensor, x: Tensor) -> Tensor:
        if not self.spec.learned_householder_permutation:
            return super().mix(M, x)
        inverse = M is not self.w_0
        w_0_first = inverse != (self.spec.dialect is Dialect.DOCUMENTED)
        x = super().mix(M, x) if w_0_first else x
        for v in self.vk_householder if inverse else self.vk_householder.flip(0):
            x = self.reflect(v, x)
        return x if w_0_first else super().mix(M, x)

    def reflect(self, v: Tensor, x: Tensor) -> Tensor:
        """H x at every pixel."""
        column = v.reshape(-1, *(1,) * self.spec.rank)
        along = (column * x).sum(1, keepdim=True) / (v @ v)
        return x - 2 * along * column


# Sums of the log-det.


class SumsPixelsFirst(PlainBlock):
    """Σ l over the pixels of each channel, then over channels."""

    def volume(self, l: Tensor, sigma: Tensor) -> Tensor:  # noqa: E741
        return l.reshape(*l.shape[:2], self.spec.N).sum(2).sum(1) + self.spec.N * sigma.log().sum()


class SumsChannelsFirst(PlainBlock):
    """Σ l over the channels of each pixel, then over pixels."""

    def volume(self, l: Tensor, sigma: Tensor) -> Tensor:  # noqa: E741
        return l.reshape(*l.shape[:2], self.spec.N).sum(1).sum(1) + self.spec.N * sigma.log().sum()


class SumsInPairs(PlainBlock):
    """Σ l by neighbours, then by neighbours of neighbours, and so on."""

    def volume(self, l: Tensor, sigma: Tensor) -> Tensor:  # noqa: E741
        terms = functional.pad(l.flatten(1), (0, int(l[:1].numel() == 0)))
        while terms.shape[1] > 1:
            terms = functional.pad(terms, (0, terms.shape[1] % 2))
            terms = terms[:, 0::2] + terms[:, 1::2]
        return terms[:, 0] + self.spec.N * sigma.log().sum()


class SumsCompensated(PlainBlock):
    """Σ l over pieces of 32 terms, these with Kahan's compensation."""

    def volume(self, l: Tensor, sigma: Tensor) -> Tensor:  # noqa: E741
        total, lost = l.new_zeros(len(l)), l.new_zeros(len(l))
        for piece in l.flatten(1).split(32, dim=1):
            term = piece.sum(1) - lost
            longer = total + term
            lost = (longer - total) - term
            total = longer
        return total + self.spec.N * sigma.log().sum()


# Other ways to say the same.

Step = Callable[[Tensor], Tensor]


class Float64Inside(PlainBlock):
    """Everything but the subnet in float64, rounded once."""

    def pass_forward(self, x: Tensor, c: list[Tensor]) -> tuple[Tensor, Tensor]:
        y, logdet = super().pass_forward(x.double(), c)
        return y.to(x.dtype), logdet.to(x.dtype)

    def pass_reverse(self, y: Tensor, c: list[Tensor]) -> tuple[Tensor, Tensor]:
        x, logdet = super().pass_reverse(y.double(), c)
        return x.to(y.dtype), logdet.to(y.dtype)

    def coefficients(self, p: Tensor, c: list[Tensor]) -> tuple[Tensor, Tensor]:
        k, t = super().coefficients(p.to(self.global_scale.dtype), c)
        return k.double(), t.double()

    def scale(self) -> Tensor:
        return super().scale().double()

    def mix(self, M: Tensor, x: Tensor) -> Tensor:
        return super().mix(M.double(), x)


class Couple(torch.autograd.Function):
    """q exp(l) + t with its gradient by hand, itself differentiable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(q: Tensor, l: Tensor, t: Tensor) -> Tensor:  # noqa: E741
        return q * torch.exp(l) + t

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, l = ctx.saved_tensors  # noqa: E741
        g_q = gradients[0] * torch.exp(l)
        return g_q, g_q * q, gradients[0]


class GradientByHand(PlainBlock):
    """The coupling of forward as an autograd function of its own."""

    def couple(self, q: Tensor, l: Tensor, t: Tensor) -> Tensor:  # noqa: E741
        return Couple.apply(q, l, t)


class PrivateBuffers(PlainBlock):
    """In place, but only on tensors that this pass has made and that no gradient needs."""

    def centre(self, l: Tensor) -> Tensor:  # noqa: E741
        l -= l.mean(dim=tuple(range(1, l.ndim)), keepdim=True)  # noqa: E741
        return l

    def couple(self, q: Tensor, l: Tensor, t: Tensor) -> Tensor:  # noqa: E741
        scaled = q * torch.exp(l)
        scaled += t
        return scaled

    def join(self, p: Tensor, q: Tensor) -> Tensor:
        z = p.new_empty(p.shape[0], self.spec.C, *p.shape[2:])
        self.split(z)[0].copy_(p)
        self.split(z)[1].copy_(q)
        return z


class ChannelsMovedLast(PlainBlock):
    """xᵀ Wᵀ with the channels on the last axis: the output is not contiguous."""

    def mix(self, M: Tensor, x: Tensor) -> Tensor:
        return (x.movedim(1, -1) @ M.T).movedim(-1, 1)


class StepsAndInverses(PlainBlock):
    """The map as a list of steps, each a pair of functions; reverse runs the inverses from the last to the first."""

    def steps(self, c: list[Tensor]) -> tuple[list[tuple[Step, Step]], list[Tensor]]:
        """The steps, and a list into which the coupling puts its log-scale."""
        W, V = self.mixing()
        sigma, o = self.scale(), self.global_offset
        seen: list[Tensor] = []

        def coupled(z: Tensor, one: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
            p, q = self.split(z)
            k, t = self.coefficients(p, c)
            seen.append(self.centre(self.clamp(k)) if self.spec.gin_block else self.clamp(k))
            return self.join(p, one(q, seen[0], t))

        undo = (lambda x: self.mix(V, x), lambda x: self.mix(W, x))
        couple = (lambda x: coupled(x, self.couple), lambda x: coupled(x, self.uncouple))
        scale = (lambda x: sigma * x, lambda x: x / sigma)
        shift = (lambda x: x + o, lambda x: x - o)
        mix = (lambda x: self.mix(W, x), lambda x: self.mix(V, x))
        affine = [scale, mix, shift] if self.spec.dialect is Dialect.DOCUMENTED else [scale, shift, mix]
        return [*([undo] if self.spec.reverse_permutation else []), couple, *affine], seen

    def pass_forward(self, x: Tensor, c: list[Tensor]) -> tuple[Tensor, Tensor]:
        steps, seen = self.steps(c)
        for do, _ in steps:
            x = do(x)
        return x, self.volume(seen[0], self.scale())

    def pass_reverse(self, y: Tensor, c: list[Tensor]) -> tuple[Tensor, Tensor]:
        steps, seen = self.steps(c)
        for _, undo in reversed(steps):
            y = undo(y)
        return y, -self.volume(seen[0], self.scale())


VARIANTS: tuple[Variant, ...] = (
    Variant("plain", lambda: PlainBlock, "the block that the faults edit"),
    Variant("einsum-for-matmul", lambda: Einsum, "W x as einsum"),
    Variant("convolution-for-matmul", lambda: Convolution, "W x as a convolution with a stencil of one pixel"),
    Variant("channels-from-last-to-first", lambda: ReversedChannels, "another order of the contraction's terms"),
    Variant("channels-in-chunks", lambda: ChannelsInChunks, "the contraction as a sum of products", halves=False),
    Variant("sum-of-products-for-matmul", lambda: SumOverBroadcast, "W x without a matrix product", halves=False),
    Variant("channels-moved-last", lambda: ChannelsMovedLast, "channels on the last axis, output not contiguous"),
    Variant("index-permutation", lambda: IndexPermutation, "hard permutations as int64 index vectors"),
    Variant("scale-and-offset-folded", lambda: FoldedForward, "(W σ) u + W o with baddbmm"),
    Variant("scale-and-offset-folded-in-reverse", lambda: FoldedReverse, "(σ⁻¹ V) y − σ⁻¹ o with baddbmm"),
    Variant("reciprocals-for-divisions", lambda: Reciprocals, "products by rounded reciprocals"),
    Variant("multiply-and-add-in-one", lambda: Addcmul, "addcmul, which may fuse"),
    Variant("scale-inside-exp", lambda: ScaleInsideExp, "q exp(l + log σ) + σ t"),
    Variant("log-of-exp-is-s", lambda: LogOfExpIsS, "log σ without a logarithm"),
    Variant("gin-as-product", lambda: GinAsProduct, "exp(l) exp(−mean), log-det 0 without a graph"),
    Variant("normalised-vectors", lambda: NormalisedVectors, "reflections of unit vectors"),
    Variant("compact-wy", lambda: CompactWY, "all reflections as I − Yᵀ T Y"),
    Variant("reflects-vectors", lambda: ReflectsVectors, "reflections applied to pixels, W never made"),
    Variant("sums-pixels-first", lambda: SumsPixelsFirst, "another tree of the log-det's sum"),
    Variant("sums-channels-first", lambda: SumsChannelsFirst, "another tree of the log-det's sum"),
    Variant("sums-in-pairs", lambda: SumsInPairs, "pairwise summation of the log-det"),
    Variant("sums-compensated", lambda: SumsCompensated, "Kahan's summation of the log-det"),
    Variant("float64-inside", lambda: Float64Inside, "rounded once"),
    Variant("gradient-by-hand", lambda: GradientByHand, "the coupling as an autograd function"),
    Variant("private-buffers", lambda: PrivateBuffers, "in place on tensors of its own"),
    Variant("steps-and-inverses", lambda: StepsAndInverses, "a list of steps, functional style"),
)
