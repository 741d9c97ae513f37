"""A pass in torch's own operators, as functions of an explicit state: any device, dtype and transform.

Also what the kernels are differentiated by a second time. Nothing here holds a tensor or changes one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flowref.fast import ops
from flowref.spec import BlockSpec, Dialect


class State(NamedTuple):
    """The tensors that a pass depends on besides its inputs, as the block stores them.

    scale, offset: (1, C, 1…); there, back: W and W⁻¹, or W₀ and W₀ᵀ where there are reflection vectors (n, C).
    """

    scale: Tensor
    offset: Tensor
    there: Tensor
    back: Tensor
    vectors: Tensor | None


class Formulas:
    """The parts of one pass: `before` the subnet and `behind` it. State and inputs have the dtype to compute in."""

    def __init__(self, spec: BlockSpec, state: State, work: torch.dtype) -> None:
        self.spec, self.work = spec, work
        self.documented = spec.dialect is Dialect.DOCUMENTED
        self.offset = state.offset.to(work)
        self.sigma, self.log_sigma = global_scale(spec, state.scale, work)
        self.mixing = _Mixing(spec, state, work)

    def before(self, x: Tensor, reverse: bool) -> Tensor:
        """What is split into p and q: W⁻¹ x or x, and in reverse u = (W⁻¹ y − o) / σ."""
        if reverse:
            return self._undo_affine(x)
        return self.mixing.undo(x) if self.spec.reverse_permutation else x

    def behind(self, z: Tensor, a: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
        """Output and log-det, of z, as `before` gave it, and the subnet's answer a."""
        p, q = self.split(z)
        l, logdet = self._log_scale(a)  # noqa: E741
        t, unit = a[:, self.spec.A :], unit_of(self.spec)
        if reverse:
            y = self._join(p, torch.sub(q, t, alpha=unit) * torch.exp(-l))
            if self.spec.reverse_permutation:
                y = self.mixing.apply(y)
        else:
            y = self._affine(self._join(p, torch.add(q * torch.exp(l), t, alpha=unit)))
        if self.log_sigma is not None:
            logdet = logdet + self.spec.N * self.log_sigma
        return y, -logdet if reverse else logdet

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """p, q: passive and active channels."""
        P, A = self.spec.P, self.spec.A
        return (z[:, A:], z[:, :A]) if self.documented else (z[:, :P], z[:, P:])

    def _join(self, p: Tensor, q: Tensor) -> Tensor:
        """The inverse of `split`."""
        return torch.cat((q, p) if self.documented else (p, q), 1)

    def _log_scale(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """l, (B, A, *S), and Σ l over channels and pixels, (B,), of a subnet's answer a."""
        alpha, unit, axes = self.spec.affine_clamping, unit_of(self.spec), tuple(range(1, a.dim()))
        k = a[:, : self.spec.A]
        k = k if unit == 1 else unit * k
        if self.spec.dialect is Dialect.FREIA_MAIN:
            # An α below the smallest normal number would divide by 0; l moves by less than that number.
            alpha = max(alpha, torch.finfo(a.dtype).tiny)
            k = k if alpha == 1 else k / alpha
        l = alpha * torch.tanh(k)  # noqa: E741
        if not self.spec.gin_block:
            return l, l.sum(axes)
        # At C = 1 the mean of nothing, which is NaN, is taken from nothing.
        l = l - l.mean(axes, keepdim=True)  # noqa: E741
        # The centred sum is 0 in exact arithmetic. One element times 0 keeps it part of the graph, as the sum would be.
        return l, 0 * l.flatten(1)[:, :1].sum(1)

    def _affine(self, u: Tensor) -> Tensor:
        """W (σ u + o), or W (σ u) + o as documented."""
        if self.documented:
            return self.mixing.apply(u if self.sigma is None else self.sigma * u) + self.offset
        return self.mixing.apply(u + self.offset if self.sigma is None else torch.addcmul(self.offset, self.sigma, u))

    def _undo_affine(self, y: Tensor) -> Tensor:
        """(W⁻¹ y − o) / σ, or W⁻¹ (y − o) / σ as documented."""
        v = self.mixing.undo(y - self.offset) if self.documented else self.mixing.undo(y) - self.offset
        return v if self.sigma is None else v / self.sigma


def unit_of(spec: BlockSpec) -> float:
    """What the subnet's answer is multiplied by to give k and t."""
    return 1.0 if spec.dialect is Dialect.DOCUMENTED else 0.1


def global_scale(spec: BlockSpec, scale: Tensor, work: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """σ (1, C, 1…) and Σ log σ; None for both where σ = 1."""
    if spec.gin_block:
        return None, None
    kind, s = spec.global_affine_type, scale.to(work)
    sigma = ops.global_scale(kind, s)
    return sigma, (s if kind == "EXP" else torch.log(sigma)).sum()


class _Mixing:
    """W and W⁻¹ as they stand at the beginning of one pass; without reflections W⁻¹ is what w_perm_inv holds."""

    def __init__(self, spec: BlockSpec, state: State, work: torch.dtype) -> None:
        self.may_gather = not spec.permute_soft
        self.there, self.back = state.there, state.back
        self.reflections_first = spec.dialect is not Dialect.DOCUMENTED  # W = W₀ H₁…H_n, else H₁…H_n W₀
        self.reflections = None if state.vectors is None else ops.Reflections.of(state.vectors.to(work))

    def apply(self, v: Tensor) -> Tensor:
        """W v."""
        if self.reflections is None:
            return ops.mix(self.there, v, may_gather=self.may_gather)
        if self.reflections_first:
            return ops.mix(self.there, self.reflections.apply(v), may_gather=self.may_gather)
        return self.reflections.apply(ops.mix(self.there, v, may_gather=self.may_gather))

    def undo(self, v: Tensor) -> Tensor:
        """W⁻¹ v."""
        if self.reflections is None:
            return ops.mix(self.back, v, may_gather=self.may_gather)
        if self.reflections_first:
            return self.reflections.undo(ops.mix(self.back, v, may_gather=self.may_gather))
        return ops.mix(self.back, self.reflections.undo(v), may_gather=self.may_gather)
