"""A pass in torch's operators with a backward of its own: float32 on the CPU, where there are no kernels.

Nothing is recorded but the two nodes of `flowref.fast.nodes`, so that operators may write where they read. New memory
and what does not fit a cache cost more than arithmetic: samples are taken a few at a time, through scratch that all of
them share. torch's tanh and exp are MKL's on many machines, up to ten times slower than a multiplication; they are made
of expm1 and exp2 here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flowref.fast import eager, nodes, ops
from flowref.fast.eager import State
from flowref.fast.nodes import STRAIGHT, Dense
from flowref.spec import BlockSpec

ROOM = 2**18  # numbers of x that are taken at a time: 1 MiB
# From here on expm1(v) / (expm1(v) + 2) is 1 in float32; above 88 it would be ∞/∞.
SATURATED = 40.0


def run(
    spec: BlockSpec,
    state: State,
    x: Tensor,
    conditions: Sequence[Tensor],
    ask: Callable[[Tensor], Tensor],
    reverse: bool,
) -> tuple[tuple[Tensor], Tensor]:
    """One pass: ``((y,), logdet)``. x, conditions, state: float32, on the CPU, of no subclass; B > 0."""
    return nodes.run(Plan, spec, state, x, conditions, ask, reverse)


class Plan(nodes.Plan):
    """The operators of one pass. z, which is split into p and q, is x by a permutation; y is v by another one."""

    def __init__(self, spec: BlockSpec, state: State, B: int, reverse: bool) -> None:
        super().__init__(spec, state, B, reverse)
        channels = (1, self.C, 1)
        s, o = state.scale.detach(), state.offset.detach().reshape(channels)
        o = torch.zeros_like(o) if self.offset_apart else o
        sigma, self.log_sigma = eager.global_scale(spec, s, torch.float32)
        self.sigma = None if sigma is None else sigma.reshape(channels)
        # o by channel of z: as documented it stands where the channels of x or y do.
        self.o_row = self.rows[self.src if reverse else self.dst] if self.outside else None
        self.o = o if self.o_row is None else o.index_select(1, self.o_row)
        self.p, self.q = (slice(at, at + n) for at, n in ((self.passive, self.P), (self.first, self.A)))
        count = max(1, min(B, B * self.C * self.N // ROOM))
        self.parts = [slice(B * k // count, B * (k + 1) // count) for k in range(count)]

    # ---- W

    def permutes(self, wanted: Sequence[tuple[Tensor, int]]) -> list[bool]:
        return [self._is_permutation(W, row) for W, row in wanted]

    def _is_permutation(self, W: Tensor, row: int) -> bool:
        if self.spec.permute_soft:
            return False
        W = W.detach()
        index = self.keep(W) if W.dim() == 1 else ops.one_hot_index(W.reshape(self.C, self.C))
        if index is None or not ops.is_permutation(index):
            return False
        self.rows[row], self.rows[row + 1] = index, index.argsort()
        return True

    def _moved(self, v: Tensor, row: int, out: Tensor | None = None) -> Tensor:
        """v[:, row], in out where it is given, or v itself where channels stay."""
        index = self.rows[row]
        return v if index is None else torch.index_select(v, 1, index, out=out)

    # ---- in front of the subnet

    def _passive(self, data: Tensor) -> tuple[Tensor, bool]:
        """p, (B, P, N), and whether it is new memory."""
        index = self.rows[self.src]
        p = data[:, self.p] if index is None else data.index_select(1, index[self.p])
        if self.reverse:
            p = p - self.o[:, self.p]
            p = p if self.sigma is None else p.div_(self.sigma[:, self.p])
        return p, self.reverse or index is not None

    def asked(self, data: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """The subnet's input, (B, P + ΣC_k, *S)."""
        p, own = self._passive(data)
        p = ops.shaped(p.contiguous() if own else p.clone(), (self.B, self.P, *self.spec.S)) if not conditions else p
        # What is asked is new memory, so that a subnet that writes to its input reaches nobody else's.
        return torch.cat((p.view(self.B, self.P, *self.spec.S), *conditions), 1) if conditions else p

    def asked_back(self, data: Tensor, g: Tensor, gx: Tensor) -> Tensor | None:
        """Adds to gx the gradient by x of g by what was asked; gives those by σ and o, (2, C), in reverse."""
        by, g = None, g.view(self.B, self.width, self.N)[:, : self.P]
        if self.reverse:
            by = data.new_zeros(2, self.C)
            g = g if self.sigma is None else g / self.sigma[:, self.p]
            self._by_global(by, self.p, g, self._passive(data)[0])
        index = self.rows[self.src]
        if index is None:
            gx[:, self.p].add_(g)
        else:
            gx.index_add_(1, index[self.p], g)
        return by

    # ---- behind it

    def _tanh(self, a: Tensor) -> Tensor:
        """T = tanh(c k), new memory."""
        m = torch.mul(a[:, : self.A], 2 * self.c).clamp_max_(SATURATED).expm1_()
        return m.div_(m + 2)

    def _exp(self, T: Tensor, own: bool = False) -> Tensor:
        """exp(±l), l = α T, under GIN less its mean; in the memory of T where that is our own."""
        if self.gin:
            mean = T.mean((1, 2), keepdim=True)
            T, own = T.sub_(mean) if own else T - mean, True
        factor = (-self.alpha if self.reverse else self.alpha) / math.log(2)
        return (T.mul_(factor) if own else T * factor).exp2_()

    def _couple(self, x: Tensor, a: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """v of some samples, which `post` makes y of, in out; Σ T by sample."""
        t, T = a[:, self.A :], self._tanh(a)
        logs = T.sum((1, 2))
        e = self._exp(T, own=True)
        if self.reverse:
            torch.sub(self._moved(x, self.src), self.o, out=out)
            if self.sigma is not None:
                out.div_(self.sigma)
            out[:, self.q].sub_(t, alpha=self.unit).mul_(e)
            return out, logs
        z = self._moved(x, self.src)
        w = e.mul_(z[:, self.q]).add_(t, alpha=self.unit)
        for at, v in ((self.p, z[:, self.p]), (self.q, w)):
            into = out[:, at]
            v = v if self.sigma is None else torch.mul(v, self.sigma[:, at], out=into)
            torch.add(v, self.o[:, at], out=into)
        return out, logs

    def coupled(self, data: Tensor, a: Tensor, own: bool = False) -> tuple[Tensor, Tensor, None]:
        """y (B, C, *S) and logdet (B,); y in the memory of data where that is its own."""
        a = a.detach().contiguous().view(self.B, 2 * self.A, self.N)
        y, logs = data if own else torch.empty_like(data), data.new_empty(self.B)
        turned = self.dst != STRAIGHT
        room = self._room(data) if turned or any(type(operator) is Dense for operator in self.post) else None
        for part in self.parts:
            out = y[part]
            v, logs[part] = self._couple(data[part], a[part], out if room is None else room[: len(out)])
            v = self._moved(v, self.dst ^ 1, out) if turned else v
            self.through(self.post, v, own=True, out=out)
        logdet = torch.zeros_like(logs) if self.gin else logs.mul_(self.alpha)
        if self.log_sigma is not None:
            logdet.add_(self.log_sigma, alpha=self.N)
        return ops.shaped(y, (self.B, self.C, *self.spec.S)), logdet.neg_() if self.reverse else logdet, None

    def _room(self, data: Tensor) -> Tensor:
        """Memory for the samples of any part."""
        return data.new_empty(max(part.stop - part.start for part in self.parts), self.C, self.N)

    def coupled_back(
        self, data: Tensor, a: Tensor, gy: Tensor, gj: Tensor, means: None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Gradients by data, by a, by σ and o (2, C), by the vectors."""
        gx, ga, by = torch.empty_like(data), torch.empty_like(a), data.new_empty(len(self.parts), 2, self.C)
        a, ga_ = a.view(self.B, 2 * self.A, self.N), ga.view(self.B, 2 * self.A, self.N)
        room = self._room(data) if self.post and self.state.vectors is not None else None
        factors = None
        for k, part in enumerate(self.parts):
            x, g = data[part], gy[part]
            if self.post:
                v = x if room is None else self._moved(self._couple(x, a[part], room[: len(x)])[0], self.dst ^ 1)
                g, found = self.back(self.post, g, v)
                if found is not None:
                    factors = found if factors is None else (factors[0] + found[0], factors[1] + found[1])
            turned = self.rows[self.src] is not None
            into = torch.empty_like(x) if turned else gx[part]
            g = self._moved(g, self.dst)
            self._couple_back(self._moved(x, self.src), a[part], g, gj[part], into, ga_[part], by[k])
            if turned:
                self._moved(into, self.src ^ 1, gx[part])
        return gx, ga, by.sum(0), self.by_factors(factors)

    def _couple_back(self, z: Tensor, a: Tensor, g: Tensor, gj: Tensor, gz: Tensor, ga: Tensor, by: Tensor) -> None:
        """Gradients by z and a, and by σ and o into by, (2, C), of g by v and gj by the log-det.

        Of v = σ (q e + u t) + o by l: σ e q g; in reverse, of v = (q − u t) e, e = exp(−l): −v g.
        """
        p, q, t, gp, gq = z[:, self.p], z[:, self.q], a[:, self.A :], gz[:, self.p], gz[:, self.q]
        gk, gt = ga[:, : self.A], ga[:, self.A :]
        T = self._tanh(a)
        e = self._exp(T)
        if self.reverse:
            z = z - self.o
            z = z if self.sigma is None else z.div_(self.sigma)
            p, q = z[:, self.p], z[:, self.q]
            torch.mul(g[:, self.q], e, out=gq)
            torch.mul(gq, -self.unit, out=gt)
            by_l = torch.sub(q, t, alpha=self.unit, out=e).mul_(gq).neg_()
            gp.copy_(g[:, self.p])
            if self.sigma is not None:
                gz.div_(self.sigma)
            self._by_global(by, slice(None), gz, z)
            gj = -gj
        else:
            self._by_global(by, self.p, g[:, self.p], p)
            w = torch.mul(q, e).add_(t, alpha=self.unit)
            self._by_global(by, self.q, g[:, self.q], w)
            g = g if self.sigma is None else torch.mul(g, self.sigma, out=gz)
            torch.mul(g[:, self.q], self.unit, out=gt)
            torch.mul(g[:, self.q], e, out=gq)
            if self.sigma is None:
                gp.copy_(g[:, self.p])
            by_l = torch.mul(gq, q, out=e)
        by_l = by_l.sub_(by_l.mean((1, 2), keepdim=True)) if self.gin else by_l.add_(gj.view(-1, 1, 1))
        torch.mul(by_l, T.mul_(T).sub_(1).mul_(-self.slope), out=gk)

    def _by_global(self, by: Tensor, at: slice, g: Tensor, v: Tensor) -> None:
        """Sums of v g and g into by[0] and by[1]: gradients by σ and o; in reverse g is by x, and they are negative."""
        if self.sigma is not None:
            torch.sum(v * g, (0, 2), out=by[0, at])
        torch.sum(g, (0, 2), out=by[1, at])

    def by_affine(self, by: Tensor, s: Tensor | None, o: Tensor, gj: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Gradients by s, None where it is, and o."""
        by = -by if self.reverse else by
        go = by[1] if self.o_row is None else torch.empty_like(by[1]).index_copy_(0, self.o_row, by[1])
        if s is None or self.sigma is None:
            return None, go.view(o.shape)
        sigma = self.sigma.view(-1)
        gs = by[0] if gj is None else by[0] + (-self.N if self.reverse else self.N) * gj.sum() / sigma
        return (gs * ops.scale_slope(self.spec.global_affine_type, s.detach().view(-1), sigma)).view(s.shape), go.view(
            o.shape
        )
