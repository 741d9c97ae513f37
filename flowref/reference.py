"""The block in plain float64 torch: each line is one formula of docs/block.md, in the same letters.

    ReferenceBlock   the module: documented constructor, state names of the public blocks
    Pass             every quantity of one pass; `out` and `logdet` are the answer
    reflect, reflect_pullback, difference, scaled   operations with a name, since docs/block.md grants them other forms
                     than it grants to sums and products; `flowref.bounds` has a rule for each

Nothing here is clever, nothing is in place, nothing is cached. The functions take whatever `torch` dispatches on,
so the same lines run on tensors and on `flowref.bounds.Bounded`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from flowref.spec import BlockSpec, Dialect, IllegalArgument

State = Mapping[str, Any]  # name -> Tensor, or what stands for one


def reflect(w: Tensor, v: Tensor) -> Tensor:
    """``w H`` with ``H = I − 2 v vᵀ / (vᵀv)``: each row of ``w`` (m, C) reflected along ``v`` (C,)."""
    if has_torch_function((w, v)):
        return handle_torch_function(reflect, (w, v), w, v)
    return w - 2 * torch.outer(w @ v, v) / (v @ v)


def reflect_pullback(g: Tensor, w: Tensor, v: Tensor) -> Tensor:
    """Gradient by ``v`` of ``Σ g ⊙ reflect(w, v)``: ``−2/(vᵀv) (gᵀ(wv) + wᵀ(gv) − 2 v Σ (gv)(wv)/(vᵀv))``."""
    if has_torch_function((g, w, v)):
        return handle_torch_function(reflect_pullback, (g, w, v), g, w, v)
    gv, wv, vv = g @ v, w @ v, v @ v
    return -2 / vv * (g.T @ wv + w.T @ gv - 2 * v * (gv @ wv) / vv)


def difference(q: Tensor, t: Tensor) -> Tensor:
    """``q − t``, the one difference that is rounded as it stands: its terms are not spread over what follows."""
    if has_torch_function((q, t)):
        return handle_torch_function(difference, (q, t), q, t)
    return q - t


def scaled(sigma: Tensor, u: Tensor) -> Tensor:
    """``σ ⊙ u``, where σ may reach an exponential in u as its logarithm: ``σ exp(l) = exp(l + log σ)``."""
    if has_torch_function((sigma, u)):
        return handle_torch_function(scaled, (sigma, u), sigma, u)
    return sigma * u


def mix(W: Tensor, x: Tensor) -> Tensor:
    """``W`` (m, C) applied to the channels of ``x`` (B, C, *S), at every pixel."""
    return torch.einsum("ij,bj...->bi...", W, x)


def total(x: Tensor) -> Tensor:
    """Sum over channels and pixels, one value a sample: (B, C, *S) -> (B,)."""
    return x.flatten(1).sum(1)


def activation(kind: str, s: Tensor) -> tuple[Tensor, Tensor]:
    """``σ = Ψ(s)`` and ``Ψ'(s)`` of one global_affine_type."""
    if kind == "SIGMOID":
        h = torch.sigmoid(s - 2)
        return 10 * h, 10 * (h * (1 - h))
    if kind == "SOFTPLUS":  # 0.2·log(1 + exp(s/2)); past 40 the softplus is s/2 to the last bit of a float64
        return nn.functional.softplus(s / 2, threshold=40) / 5, torch.sigmoid(s / 2) / 10
    return torch.exp(s), torch.exp(s)


def initial_scale(kind: str, g: float) -> float:
    """The ``s`` with ``Ψ(s) = g``, in forms that lose nothing near the ends of the range of ``g``."""
    tiny = torch.finfo(torch.float64).tiny
    if g < tiny:
        raise IllegalArgument("global_affine_init", g, "is no normal number", f"g >= {tiny:.3g}", "Use a larger g.")
    if kind == "SIGMOID":
        return 2 + math.log(g) - math.log(10 - g)
    if kind == "SOFTPLUS":
        return 2 * (5 * g + math.log(-math.expm1(-5 * g)))
    return math.log(g)


@dataclass
class Pass:
    """One pass and all that it computed; letters as in docs/block.md."""

    x: Any
    c: Sequence[Any]
    rev: bool
    W: Any
    W_inv: Any
    steps: Sequence[Any]  # the matrices on the way to W (or its inverse), before each reflection
    sigma: Any
    dsigma: Any
    w: Any  # reverse: W⁻¹y, in the dialect documented y − o
    z: Any  # what the coupling is given
    p: Any
    q: Any
    seen: Any  # what the subnet is given
    a: Any
    tanh: Any
    l: Any  # noqa: E741
    t: Any
    E: Any  # exp(±l)
    d: Any  # reverse: q − t
    u: Any  # what the coupling answers
    v: Any  # forward: what W is applied to
    out: Any
    logdet: Any
    l_scale: Any  # Σ α|tanh k| + N Σ|log σ|: the size of the log-det's terms


class ReferenceBlock(nn.Module):
    """The AllInOneBlock in float64, all dialects; arguments as the public blocks', plus keyword-only ``dialect``.

    Raises IllegalArgument (a ValueError) for an argument that no block can honour.
    """

    def __init__(
        self,
        dims_in: Sequence[tuple[int, ...]],
        dims_c: Sequence[tuple[int, ...]] | None = None,
        subnet_constructor: Callable[[int, int], nn.Module] | None = None,
        affine_clamping: float = 2.0,
        gin_block: bool = False,
        global_affine_init: float = 1.0,
        global_affine_type: str = "SOFTPLUS",
        permute_soft: bool = False,
        learned_householder_permutation: int = 0,
        reverse_permutation: bool = False,
        *,
        dialect: str = "anomalib",
    ) -> None:
        super().__init__()
        self.spec = spec = BlockSpec.from_arguments(
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
        assert subnet_constructor is not None  # the spec refused None
        C, ones = spec.C, (1,) * spec.rank
        s = torch.full((1, C, *ones), initial_scale(spec.global_affine_type, spec.global_affine_init))
        self.global_scale = nn.Parameter(s.double())
        self.global_offset = nn.Parameter(torch.zeros(1, C, *ones, dtype=torch.float64))
        with torch.device("cpu"):  # drawn where torch.manual_seed reaches, kept on the default device
            W_0 = _haar(C) if spec.permute_soft else torch.eye(C, dtype=torch.float64)[torch.randperm(C)]
            v = 0.2 * torch.randn(spec.learned_householder_permutation, C, dtype=torch.float64)
        W_0, v = W_0.to(s.device).contiguous(), v.to(s.device)
        if spec.learned_householder_permutation:
            self.register_buffer("w_0", W_0)
            self.vk_householder = nn.Parameter(v)
        else:
            self.register_buffer("w_perm", W_0.reshape(C, C, *ones).clone())
            self.register_buffer("w_perm_inv", W_0.T.clone(memory_format=torch.contiguous_format).reshape(C, C, *ones))
        self.subnet = subnet_constructor(spec.subnet_in, spec.subnet_out).double()

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take either form of a permutation: an index vector ``i`` becomes the matrix ``v -> v[:, i]``.

        Raises ValueError for an index that is no permutation, an element of WᵀW − I above 1/64, W⁻¹ ≠ Wᵀ.
        """
        C, W = self.spec.C, dict[str, Tensor]()
        for name in ("w_perm", "w_perm_inv", "w_0"):
            value = state.get(prefix + name)
            if value is None or value.shape[:1] != (C,):
                continue
            if value.ndim == 1:
                if sorted(value.tolist()) != list(range(C)):
                    raise ValueError(f"{name} is no permutation: need each of 0 to {C - 1} once, got {value.tolist()}.")
                state[prefix + name] = torch.eye(C, dtype=torch.float64)[value].reshape(C, C, *(1,) * self.spec.rank)
            W[name] = state[prefix + name].flatten(1)
            far = (W[name].T @ W[name] - torch.eye(C).to(W[name])).abs().max()
            if not far <= 1 / 64:
                raise ValueError(f"{name} is not orthogonal: need |WᵀW − I| <= 1/64, got {float(far):.3g}.")
        if "w_perm" in W and "w_perm_inv" in W and not torch.equal(W["w_perm"].T, W["w_perm_inv"]):
            raise ValueError("w_perm_inv is not the transpose of w_perm: need both from one state.")
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(
        self, x: Sequence[Tensor], c: Sequence[Tensor] | None = None, rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor], Tensor]:
        """``((y,), logdet)`` of one pass; x and c in float64, logdet of shape (B,)."""
        admit(self.spec, x, c, self.global_scale)
        one = self.trace(x[0], tuple(c or ()), rev)
        return (one.out,), one.logdet

    def output_dims(self, input_dims: Any) -> Any:
        """The block keeps shapes."""
        return input_dims

    def tensors(self) -> dict[str, Tensor]:
        """The block's own state, without the subnet's."""
        return {name: value for name, value in self.state_dict(keep_vars=True).items() if "." not in name}

    def trace(self, x: Any, c: Sequence[Any], rev: bool, state: State | None = None) -> Pass:
        """One pass with everything that it computes; ``state`` stands in for the block's own."""
        spec, state = self.spec, self.tensors() if state is None else state
        documented = spec.dialect is Dialect.DOCUMENTED
        W, W_inv, steps = mixing(spec, state)
        s, o = state["global_scale"], state["global_offset"]
        sigma, dsigma = activation(spec.global_affine_type, s)
        w = v = d = None
        if not rev:
            z = mix(W_inv, x) if spec.reverse_permutation else x
        elif documented:
            w = x - o
            z = mix(W_inv, w) if spec.gin_block else mix(W_inv, w) / sigma
        else:
            w = mix(W_inv, x)
            z = w - o if spec.gin_block else (w - o) / sigma

        p, q = split(spec, z)
        seen = torch.cat([p, *c], 1)
        a = answered(spec, self.subnet(seen), x)
        k, t = coefficients(spec, a)
        tanh, l = clamp(spec, k)  # noqa: E741
        l_scale = total(abs(l))
        if spec.gin_block:
            l = l - l.flatten(1).mean(1).reshape(-1, *(1,) * (l.ndim - 1))  # noqa: E741
        logdet = total(l)
        if not spec.gin_block:
            log_sigma = torch.log(sigma).expand(1, *spec.dims)
            logdet = logdet + total(log_sigma)  # N Σ log σ: every pixel counts
            l_scale = l_scale + total(abs(log_sigma))

        if not rev:
            E = torch.exp(l)
            u = join(spec, p, q * E + t)
            v = u if spec.gin_block else scaled(sigma, u)
            v = v if documented else v + o
            out = mix(W, v) + o if documented else mix(W, v)
        else:
            d = difference(q, t)
            E = torch.exp(-l)
            u = join(spec, p, d * E)
            out = mix(W, u) if spec.reverse_permutation else u
            logdet = -logdet
        return Pass(x, c, rev, W, W_inv, steps, sigma, dsigma, w, z, p, q, seen, a, tanh, l, t, E, d, u, v, out,
                    logdet, l_scale)  # fmt: skip

    def pullback(self, one: Pass, gy: Any, gj: Any, state: State | None = None) -> dict[str, Any]:
        """Gradient of ``Σ gy·out + Σ gj·logdet`` by hand: by ``x``, ``c0`` …, and each trained name of the state.

        gy: like out; gj: (B,). The subnet must have ``pullback(seen, g) -> (g_seen, {name: g})``.
        """
        spec, state = self.spec, self.tensors() if state is None else state
        documented = spec.dialect is Dialect.DOCUMENTED
        sigma, N = one.sigma, spec.N
        column = gj.reshape(-1, *(1,) * (one.out.ndim - 1))  # gj, one value a sample, over channels and pixels
        g_W = g_Winv = None  # gradients by W and by W⁻¹, (C, C)
        g: dict[str, Any] = {}

        if not one.rev:
            gv = mix(one.W_inv, gy)  # y = W v
            g_W = outer(spec, gy, one.v)
            g["global_offset"] = channel_sum(spec, gy if documented else gv)
            gu = gv if spec.gin_block else scaled(sigma, gv)
            if not spec.gin_block:
                g_sigma = channel_dot(spec, gu, one.u) / sigma + N * gj.sum() / sigma  # gu = σ gv
        else:
            gu = mix(one.W_inv, gy) if spec.reverse_permutation else gy
            if spec.reverse_permutation:
                g_W = outer(spec, gy, one.u)
            column = -column

        gp, gu_active = split(spec, gu)
        gq = gu_active * one.E
        if not one.rev:
            gt, gl = gu_active, gu_active * (one.q * one.E) + column
        else:
            gt, gl = -gq, -(gu_active * (one.d * one.E)) + column
        if spec.gin_block:
            gl = gl - gl.flatten(1).mean(1).reshape(-1, *(1,) * (gl.ndim - 1))
        ga = coefficients_pullback(spec, gl, gt, one.tanh)
        g_seen, g_subnet = self.subnet.pullback(one.seen, ga)  # type: ignore[operator]
        g.update({f"subnet.{name}": value for name, value in g_subnet.items()})
        start = spec.P
        for i, c in enumerate(one.c):
            g[f"c{i}"], start = g_seen[:, start : start + c.shape[1]], start + c.shape[1]
        gz = join(spec, gp + g_seen[:, : spec.P], gq)

        if not one.rev:
            g["x"] = mix(one.W, gz) if spec.reverse_permutation else gz  # z = W⁻¹ x
            if spec.reverse_permutation:
                g_Winv = outer(spec, gz, one.x)
        else:
            gm = gz if spec.gin_block else gz / sigma
            g["x"] = mix(one.W, gm)
            g_Winv = outer(spec, gm, one.w if documented else one.x)
            g["global_offset"] = -channel_sum(spec, g["x"] if documented else gm)
            if not spec.gin_block:
                g_sigma = -channel_dot(spec, gz, one.z / sigma) - N * gj.sum() / sigma
        g["global_scale"] = torch.zeros_like(state["global_scale"]) if spec.gin_block else g_sigma * one.dsigma
        if "vk_householder" in state:
            g["vk_householder"] = mixing_pullback(spec, state["vk_householder"], one.steps, g_W, g_Winv)
        return g


def admit(spec: BlockSpec, x: Any, c: Any, like: Tensor) -> None:
    """Hold what a pass is given against the shapes of the spec, and its dtype and device against ``like``'s.

    Raises ValueError.
    """
    for name, given, shapes in (("x", x, [spec.dims]), ("c", () if c is None else c, spec.dims_c)):
        if isinstance(given, Tensor) or len(given) != len(shapes):
            raise ValueError(f"{name} must be a sequence of {len(shapes)} tensors, got {len(given)}.")
        for v, dims in zip(given, shapes, strict=True):
            want = (*x[0].shape[:1], *dims), like.dtype, like.device
            got = tuple(v.shape), v.dtype, v.device
            if got != want:
                raise ValueError(f"{name} must hold a tensor of {want}, got {got}.")


def answered(spec: BlockSpec, a: Any, x: Any) -> Any:
    """The subnet's answer. Raises ValueError unless it is (B, 2A, *S), as nothing is broadcast."""
    want = (x.shape[0], spec.subnet_out, *spec.S)
    if tuple(a.shape) != want:
        raise ValueError(f"the subnet must answer with the shape {want}, got {tuple(a.shape)}.")
    return a


def split(spec: BlockSpec, z: Any) -> tuple[Any, Any]:
    """``p, q``: the passive and the active channels."""
    if spec.dialect is Dialect.DOCUMENTED:
        return z[:, spec.A :], z[:, : spec.A]
    return z[:, : spec.P], z[:, spec.P :]


def join(spec: BlockSpec, p: Any, q: Any) -> Any:
    """The inverse of `split`."""
    return torch.cat([q, p] if spec.dialect is Dialect.DOCUMENTED else [p, q], 1)


def coefficients(spec: BlockSpec, a: Any) -> tuple[Any, Any]:
    """``k, t`` from the subnet's answer."""
    k, t = a[:, : spec.A], a[:, spec.A :]
    return (k, t) if spec.dialect is Dialect.DOCUMENTED else (k / 10, t / 10)


def clamp(spec: BlockSpec, k: Any) -> tuple[Any, Any]:
    """``tanh`` and ``l``: ``l = α tanh(k)``, in freia-main ``l = α tanh(k / α)``."""
    tanh = torch.tanh(k / spec.affine_clamping if spec.dialect is Dialect.FREIA_MAIN else k)
    return tanh, spec.affine_clamping * tanh


def coefficients_pullback(spec: BlockSpec, gl: Any, gt: Any, tanh: Any) -> Any:
    """Gradient by the subnet's answer, from those by ``l`` and ``t``; the derivative is that of the rounded tanh."""
    gk = gl * spec.affine_clamping * (1 - tanh * tanh)
    if spec.dialect is Dialect.FREIA_MAIN:
        gk = gk / spec.affine_clamping
    ga = torch.cat([gk, gt], 1)
    return ga if spec.dialect is Dialect.DOCUMENTED else ga / 10


def mixing(spec: BlockSpec, state: State) -> tuple[Any, Any, list[Any]]:
    """``W``, ``W⁻¹`` and the matrices before each reflection.

    ``W = W₀ H₁ … H_n`` (documented ``H₁ … H_n W₀``), ``W⁻¹ = Wᵀ``. The product that starts with W₀ is built by
    reflecting its rows, its transpose by reflecting those of I: so each is known by its own rows.
    """
    if "vk_householder" not in state:
        C = spec.C
        return state["w_perm"].reshape(C, C), state["w_perm_inv"].reshape(C, C), []
    documented = spec.dialect is Dialect.DOCUMENTED
    W_0, vk = state["w_0"], state["vk_householder"]
    order = list(range(vk.shape[0]))
    head, tail = (W_0.T, order[::-1]) if documented else (W_0, order)
    built, steps = head, []
    for k in tail:
        steps.append(built)
        built = reflect(built, vk[k])
    other = torch.eye(spec.C, dtype=getattr(W_0, "dtype", torch.float64))
    for k in tail[::-1]:
        other = reflect(other, vk[k])
    other = torch.einsum("ij,kj->ik", other, head)
    return (other, built, steps) if documented else (built, other, steps)


def mixing_pullback(spec: BlockSpec, vk: Any, steps: Sequence[Any], g_W: Any, g_Winv: Any) -> Any:
    """Gradient by the reflections' vectors, from those by ``W`` and by ``W⁻¹ = Wᵀ`` (either may be None)."""
    documented = spec.dialect is Dialect.DOCUMENTED
    mine, other = (g_Winv, g_W) if documented else (g_W, g_Winv)
    g = other.T if mine is None else mine if other is None else mine + other.T
    order = list(range(vk.shape[0]))[:: -1 if documented else 1]
    rows: dict[int, Any] = {}
    for k, before in zip(order[::-1], steps[::-1], strict=True):
        rows[k] = reflect_pullback(g, before, vk[k])
        g = reflect(g, vk[k])
    return torch.stack([rows[k] for k in range(len(order))])


def outer(spec: BlockSpec, a: Any, b: Any) -> Any:
    """``Σ a bᵀ`` over batch and pixels: (C, C)."""
    B, C, N = a.shape[0], spec.C, spec.N
    return torch.einsum("bin,bjn->ij", a.reshape(B, C, N), b.reshape(B, C, N))


def channel_dot(spec: BlockSpec, a: Any, b: Any) -> Any:
    """``Σ a ⊙ b`` over batch and pixels, as a matrix product is summed: (1, C, 1…)."""
    B, C, N = a.shape[0], spec.C, spec.N
    dot = torch.einsum("bcn,bcn->c", a.reshape(B, C, N), b.reshape(B, C, N))
    return dot.reshape(1, C, *(1,) * spec.rank)


def channel_sum(spec: BlockSpec, a: Any) -> Any:
    """``Σ a`` over batch and pixels: (1, C, 1…)."""
    return a.sum((0, *range(2, a.ndim))).reshape(1, spec.C, *(1,) * spec.rank)


def _haar(C: int) -> Tensor:
    """A sample of SO(C): QR of a normal matrix, R's signs moved into Q (Mezzadri 2007), last column ± for det +1."""
    Q, R = torch.linalg.qr(torch.randn(C, C, dtype=torch.float64))
    Q = Q * torch.sign(torch.diagonal(R))
    if torch.linalg.det(Q) < 0:
        Q = torch.cat([Q[:, :-1], -Q[:, -1:]], 1)
    return Q
