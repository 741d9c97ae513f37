"""One plain, correct block: the text that every fault edits and every variant is held against.

Every formula of docs/block.md stands on a line of its own, so that a fault is one textual edit of this file.
Nothing is fused or cached, no operation is in place, and autograd makes the gradients.

Letters: B batch, C channels, N pixels, P and A channels of the passive and the active part, S spatial axes,
k and t the subnet's coefficients, l the clamped log-scale, s and o the global scale and offset, σ = Ψ(s),
W the mixing matrix and V its inverse, both (C, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowref.spec import BlockSpec, Dialect, IllegalArgument


class PlainBlock(nn.Module):
    """The AllInOneBlock of FrEIA and anomalib, in any of its three dialects, written down line by line.

    Shapes: x and y are (B, C, *S), condition k is (B, C_k, *S), the log-det is (B,).
    Raises: IllegalArgument from the constructor, ValueError from `forward` and from loading a state.
    """

    w_perm: Tensor
    w_perm_inv: Tensor
    w_0: Tensor

    def __init__(
        self,
        dims_in: Sequence[Sequence[int]],
        dims_c: Sequence[Sequence[int]] | None = None,
        subnet_constructor: Callable[[int, int], nn.Module] | None = None,
        affine_clamping: float = 2.0,
        gin_block: bool = False,
        global_affine_init: float = 1.0,
        global_affine_type: str = "SOFTPLUS",
        permute_soft: bool = False,
        learned_householder_permutation: int = 0,
        reverse_permutation: bool = False,
        *,
        dialect: str | Dialect = "anomalib",
    ) -> None:
        super().__init__()
        self.spec = BlockSpec.from_arguments(
            dims_in,
            dims_c,
            subnet_constructor,
            affine_clamping=affine_clamping,
            gin_block=gin_block,
            global_affine_init=global_affine_init,
            global_affine_type=global_affine_type,
            permute_soft=permute_soft,
            learned_householder_permutation=learned_householder_permutation,
            reverse_permutation=reverse_permutation,
            dialect=dialect,
        )
        C = self.spec.C
        n = self.spec.learned_householder_permutation
        ones = (1,) * self.spec.rank
        g = self.spec.global_affine_init
        s = initial_scale(g, self.spec.global_affine_type)
        self.global_scale = nn.Parameter(torch.full((1, C, *ones), s))
        self.global_offset = nn.Parameter(torch.zeros(1, C, *ones))
        W = draw_rotation(C) if self.spec.permute_soft else draw_permutation(C)
        if n:
            self.register_buffer("w_0", in_defaults(W))
            self.vk_householder = nn.Parameter(in_defaults(draw_reflections(n, C)))
        else:
            self.store(W)
        assert subnet_constructor is not None  # the spec refuses None
        self.subnet = subnet_constructor(self.spec.subnet_in, self.spec.subnet_out)

    def store(self, W: Tensor) -> None:
        """Keep W and its inverse, both (C, C), as buffers of the shape (C, C, 1, …)."""
        shape = (*W.shape, *(1,) * self.spec.rank)
        self.register_buffer("w_perm", in_defaults(W).reshape(shape))
        self.register_buffer("w_perm_inv", in_defaults(W.T).reshape(shape))

    def forward(
        self, x: Sequence[Tensor], c: Sequence[Tensor] | None = None, rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor], Tensor]:
        """((y,), log-det) of one pass, the inverse one if ``rev``. The log-det is given whatever ``jac`` says."""
        tensor, conditions = self.checked(x, c)
        y, logdet = self.pass_reverse(tensor, conditions) if rev else self.pass_forward(tensor, conditions)
        return (y,), logdet

    def output_dims(self, input_dims: Any) -> Any:
        """The shapes of the outputs: those of the inputs."""
        return input_dims

    # The two passes.

    def pass_forward(self, x: Tensor, c: list[Tensor]) -> tuple[Tensor, Tensor]:
        """y and log-det: mix back if asked, couple, scale and mix."""
        W, V = self.mixing()
        sigma = self.scale()
        z = self.mix(V, x) if self.spec.reverse_permutation else x
        p, q = self.split(z)
        k, t = self.coefficients(p, c)
        l = self.clamp(k)  # noqa: E741 (the letter of the formula)
        l = self.centre(l) if self.spec.gin_block else l  # noqa: E741
        u = self.join(p, self.couple(q, l, t))
        y = self.affine_forward(W, sigma, u)
        logdet = self.volume(l, sigma)
        return y, logdet

    def pass_reverse(self, y: Tensor, c: list[Tensor]) -> tuple[Tensor, Tensor]:
        """x and log-det: the inverse of the same map, in the opposite order."""
        W, V = self.mixing()
        sigma = self.scale()
        u = self.affine_reverse(V, sigma, y)
        p, q = self.split(u)
        k, t = self.coefficients(p, c)
        l = self.clamp(k)  # noqa: E741
        l = self.centre(l) if self.spec.gin_block else l  # noqa: E741
        z = self.join(p, self.uncouple(q, l, t))
        x = self.mix(W, z) if self.spec.reverse_permutation else z
        logdet = -self.volume(l, sigma)
        return x, logdet

    # The coupling.

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The passive part p (B, P, *S) and the active part q (B, A, *S)."""
        if self.spec.dialect is Dialect.DOCUMENTED:
            return z[:, self.spec.A :], z[:, : self.spec.A]
        return z[:, : self.spec.P], z[:, self.spec.P :]

    def join(self, p: Tensor, q: Tensor) -> Tensor:
        """The parts, in the places that `split` took them from."""
        return torch.cat([q, p] if self.spec.dialect is Dialect.DOCUMENTED else [p, q], dim=1)

    def coefficients(self, p: Tensor, c: list[Tensor]) -> tuple[Tensor, Tensor]:
        """k and t, each (B, A, *S): the halves of the subnet's answer, times the dialect's factor."""
        a = self.answered(self.subnet(torch.cat([p, *c], dim=1)), p)
        factor = 1.0 if self.spec.dialect is Dialect.DOCUMENTED else 0.1
        k = factor * a[:, : self.spec.A]
        t = factor * a[:, self.spec.A :]
        return k, t

    def clamp(self, k: Tensor) -> Tensor:
        """l = α tanh(k), in freia-main α tanh(k / α)."""
        alpha = self.spec.affine_clamping
        k = k / alpha if self.spec.dialect is Dialect.FREIA_MAIN else k
        T = torch.tanh(k)
        return alpha * T

    def centre(self, l: Tensor) -> Tensor:  # noqa: E741
        """l minus its mean over channels and pixels, sample by sample."""
        axes = tuple(range(1, l.ndim))
        return l - l.mean(dim=axes, keepdim=True)

    def couple(self, q: Tensor, l: Tensor, t: Tensor) -> Tensor:  # noqa: E741
        """q exp(l) + t."""
        return q * torch.exp(l) + t

    def uncouple(self, q: Tensor, l: Tensor, t: Tensor) -> Tensor:  # noqa: E741
        """(q − t) exp(−l)."""
        return (q - t) * torch.exp(-l)

    # The global affine map and the mixing of channels.

    def scale(self) -> Tensor:
        """σ = Ψ(s), shape (1, C, 1, …); 1 if gin_block."""
        s = self.global_scale
        if self.spec.gin_block:
            return torch.ones_like(s)
        if self.spec.global_affine_type == "SIGMOID":
            return 10 * torch.sigmoid(s - 2)
        if self.spec.global_affine_type == "SOFTPLUS":
            return 0.2 * functional.softplus(s / 2)
        return torch.exp(s)

    def affine_forward(self, W: Tensor, sigma: Tensor, u: Tensor) -> Tensor:
        """W (σ u + o), as documented W (σ u) + o."""
        o = self.global_offset
        if self.spec.dialect is Dialect.DOCUMENTED:
            return self.mix(W, sigma * u) + o
        return self.mix(W, sigma * u + o)

    def affine_reverse(self, V: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        """(V y − o) / σ, as documented V (y − o) / σ."""
        o = self.global_offset
        if self.spec.dialect is Dialect.DOCUMENTED:
            return self.mix(V, y - o) / sigma
        return (self.mix(V, y) - o) / sigma

    def volume(self, l: Tensor, sigma: Tensor) -> Tensor:  # noqa: E741
        """Σ l over channels and pixels + N Σ log σ, shape (B,)."""
        coupling = l.sum(dim=tuple(range(1, l.ndim)))
        affine = self.spec.N * torch.log(sigma).sum()
        return coupling + affine

    def mixing(self) -> tuple[Tensor, Tensor]:
        """W and its inverse V, each (C, C)."""
        C = self.spec.C
        if not self.spec.learned_householder_permutation:
            return self.w_perm.reshape(C, C), self.w_perm_inv.reshape(C, C)
        W = self.w_0
        if self.spec.dialect is Dialect.DOCUMENTED:  # H₁ H₂ … H_n W₀
            for v in self.vk_householder.flip(0):
                W = W - (2 / (v @ v)) * torch.outer(v, v @ W)
        else:  # W₀ H₁ H₂ … H_n
            for v in self.vk_householder:
                W = W - (2 / (v @ v)) * torch.outer(W @ v, v)
        return W, W.T

    def mix(self, M: Tensor, x: Tensor) -> Tensor:
        """M x over the channels, at every pixel: M (C, C), x (B, C, *S)."""
        columns = x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)
        return (M @ columns).reshape(x.shape)

    # What is refused.

    def checked(self, x: Any, c: Any) -> tuple[Tensor, list[Tensor]]:
        """The input and its conditions, held against the shapes given to the constructor."""
        c = [] if c is None else c
        if not isinstance(x, (list, tuple)) or len(x) != 1 or not isinstance(x[0], Tensor):
            raise ValueError(f"x must be a list of one tensor {('B', *self.spec.dims)}, got {shown(x)}: give (x,).")
        if not isinstance(c, (list, tuple)) or len(c) != len(self.spec.dims_c):
            raise ValueError(f"c must be a list of {len(self.spec.dims_c)} conditions, got {shown(c)}.")
        v = x[0]
        for name, tensor, dims in [("x", v, self.spec.dims), *zip(names(c), c, self.spec.dims_c, strict=True)]:
            if tuple(tensor.shape) != (v.shape[0] if v.ndim else 0, *dims):
                raise ValueError(f"{name} must have the shape {('B', *dims)}, got {tuple(tensor.shape)}.")
            if tensor.device != self.global_scale.device:
                raise ValueError(f"{name} must be on {self.global_scale.device} as the block, got {tensor.device}.")
            if tensor.dtype != self.global_scale.dtype and not torch.is_autocast_enabled(tensor.device.type):
                raise ValueError(f"{name} must be {self.global_scale.dtype} as the block, got {tensor.dtype}.")
        return v, list(c)

    def answered(self, a: Any, p: Tensor) -> Tensor:
        """The subnet's answer, refused unless it is (B, 2A, *S): nothing is broadcast."""
        want = (p.shape[0], self.spec.subnet_out, *self.spec.S)
        if not isinstance(a, Tensor) or tuple(a.shape) != want:
            raise ValueError(f"the subnet must answer with the shape {want}, got {shown(a)}.")
        return a

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Takes a permutation as a matrix or as an index vector, and refuses what is no rotation."""
        for name in ("w_perm", "w_perm_inv", "w_0"):
            W = state_dict.get(prefix + name)
            if W is None or name not in self._buffers:
                continue
            M = W if W.is_floating_point() else one_hot(W)
            if M.shape[:2] != (self.spec.C, self.spec.C) or M.numel() != self.spec.C**2 or not is_orthogonal(M):
                raise ValueError(f"{name} must be orthogonal, {self.spec.C} x {self.spec.C}: got {shown(W)}.")
            state_dict[prefix + name] = M.reshape(getattr(self, name).shape)
        W, V = state_dict.get(prefix + "w_perm"), state_dict.get(prefix + "w_perm_inv")
        if W is not None and V is not None and not torch.equal(W.transpose(0, 1), V):
            raise ValueError("w_perm_inv must be the transpose of w_perm: give both from one state.")
        super()._load_from_state_dict(state_dict, prefix, *rest)


def initial_scale(g: float, kind: str) -> float:
    """The s with Ψ(s) = g, in float64; refuses a g that is no normal number of the default dtype."""
    limits = torch.finfo(torch.get_default_dtype())
    if not limits.tiny <= g <= limits.max:
        raise IllegalArgument(
            "global_affine_init", g, f"is no normal number of {limits.dtype}",
            f"{limits.tiny:.3g} <= g <= {limits.max:.3g}", "Use a g nearer to 1.",
        )  # fmt: skip
    if kind == "SIGMOID":
        return 2 + math.log(g) - math.log(10 - g)
    if kind == "SOFTPLUS":
        return 2 * (5 * g + math.log(-math.expm1(-5 * g)))
    return math.log(g)


def draw_permutation(C: int) -> Tensor:
    """A uniform hard permutation as a matrix: W[i, π(i)] = 1."""
    pi = torch.randperm(C, device="cpu")
    return one_hot(pi)


def one_hot(pi: Tensor) -> Tensor:
    """The matrix of an index vector: row i is 1 at column π(i)."""
    columns = torch.arange(len(pi), device=pi.device)
    return (pi.reshape(-1, 1) == columns).to(torch.float64)


def draw_rotation(C: int) -> Tensor:
    """A sample of SO(C), Haar measure: Q of a Gaussian matrix, R's diagonal made positive, det made +1."""
    Q, R = torch.linalg.qr(torch.randn(C, C, dtype=torch.float64, device="cpu"))
    Q = Q * torch.sign(torch.diagonal(R))
    Q[:, 0] *= torch.sign(torch.linalg.det(Q))
    return Q


def draw_reflections(n: int, C: int) -> Tensor:
    """n vectors v, initially 0.2 randn."""
    return 0.2 * torch.randn(n, C, dtype=torch.float64, device="cpu")


def in_defaults(a: Tensor) -> Tensor:
    """A copy of its own, contiguous, in the default dtype and on the default device."""
    return torch.empty(a.shape).copy_(a)


def is_orthogonal(M: Tensor) -> bool:
    """Whether no element of MᵀM − I is above 1/64: rounding to bfloat16 stays below."""
    M = M.reshape(M.shape[:2]).double()
    return bool((M.T @ M - torch.eye(len(M)).to(M)).abs().max() <= 1 / 64)


def names(c: Sequence[Any]) -> list[str]:
    """The names of the conditions in messages."""
    return [f"c[{k}]" for k in range(len(c))]


def shown(value: Any) -> str:
    """Shape or type of a value, for messages."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"{len(value)}: {', '.join(map(shown, value))}" if value else "none"
    return type(value).__name__
