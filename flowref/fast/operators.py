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
        self.p = slice(self.passive, self.passive + self.P)
        self.o_halves = self._halves(self.o)
        self.sigma_halves = None if self.sigma is None else self._halves(self.sigma)
        count = max(1, min(B, B * self.C * self.N // ROOM))
        self.parts = [slice(B * k // count, B * (k + 1) // count) for k in range(count)]

    # ---- W

    def permutes(self, wanted: Sequence[tuple[Tensor, int]]) -> list[bool]:
        return [self._is_permutation(W, row) for W, row in wanted]

    def _is_permutation(self, W: Tensor, row: int) -> bool:
        if self.spec.permute_soft:
            return False
        W = W.detach()
        index = W.clone() if W.dim() == 1 else ops.one_hot_index(W.reshape(self.C, self.C))
        if index is None:
            return False
        found, inverse = index.sort()
        self.rows[row], self.rows[row + 1] = index, inverse
        return torch.equal(found, torch.arange(self.C, device=index.device))

    def _moved(self, v: Tensor, row: int, out: Tensor | None = None) -> Tensor:
        """v[:, row], in out where it is given, or v itself where channels stay."""
        index = self.rows[row]
        return v if index is None else torch.index_select(v, 1, index, out=out)

    # ---- in front of the subnet

    def _passive(self, data: Tensor) -> Tensor:
        """p, (B, P, N); a view of data where that is all of it."""
        index = self.rows[self.src]
        p = data[:, self.p] if index is None else data.index_select(1, index[self.p])
        if self.reverse:
            p = p - self.o_halves[0]
            p = p if self.sigma_halves is None else p.div_(self.sigma_halves[0])
        return p

    def asked(self, data: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """The subnet's input, (B, P + ΣC_k, *S)."""
        # cat copies even a single tensor, so that a subnet that writes to its input reaches nobody else's.
        return torch.cat((self._passive(data).view(self.B, self.P, *self.spec.S), *conditions), 1)

    def asked_back(self, data: Tensor, g: Tensor, gx: Tensor) -> Tensor | None:
        """Adds to gx the gradient by x of g by what was asked; gives those by σ and o, (2, C), in reverse."""
        by, index, g = None, self.rows[self.src], g.view(self.B, self.width, self.N)[:, : self.P]
        if self.reverse:
            by = data.new_zeros(2, self.C)
            if self.sigma_halves is not None:
                g = g / self.sigma_halves[0]
                by[0, self.p] = (self._passive(data) * g).sum((0, 2))
            by[1, self.p] = g.sum((0, 2))
        if index is None:
            gx[:, self.p].add_(g)
        else:
            gx.index_add_(1, index[self.p], g)
        return by

    # ---- behind it

    def _halves(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The passive and the active channels of v."""
        first, second = v.split_with_sizes((self.A, self.P) if self.documented else (self.P, self.A), 1)
        return (second, first) if self.documented else (first, second)

    def _tanh(self, k: Tensor) -> Tensor:
        """T = tanh(c k), new memory."""
        m = torch.mul(k, 2 * self.c).clamp_max_(SATURATED).expm1_()
        return m.div_(m + 2)

    def _exp(self, T: Tensor, own: bool = False) -> Tensor:
        """exp(±l), l = α T, under GIN less its mean; in the memory of T where that is our own."""
        if self.gin:
            mean = T.mean((1, 2), keepdim=True)
            T, own = T.sub_(mean) if own else T - mean, True
        factor = (-self.alpha if self.reverse else self.alpha) / math.log(2)
        return (T.mul_(factor) if own else T * factor).exp2_()

    def _undone(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """z = (x − o) / σ, in out where it is given."""
        z = torch.sub(self._moved(x, self.src), self.o, out=out)
        return z if self.sigma is None else z.div_(self.sigma)

    def _couple(self, x: Tensor, a: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """v of some samples, which `post` makes y of, in out; Σ T by sample."""
        k, t = a.chunk(2, 1)
        T = self._tanh(k)
        logs = T.sum((1, 2))
        e = self._exp(T, own=True)
        if self.reverse:
            _, q = self._halves(self._undone(x, out))
            q.sub_(t, alpha=self.unit).mul_(e)
            return out, logs
        p, q = self._halves(self._moved(x, self.src))
        w = e.mul_(q).add_(t, alpha=self.unit)
        for half, (v, into, o) in enumerate(zip((p, w), self._halves(out), self.o_halves, strict=True)):
            v = v if self.sigma_halves is None else torch.mul(v, self.sigma_halves[half], out=into)
            torch.add(v, o, out=into)
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
        gj = gj.view(-1, 1, 1)
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
            self._couple_back(x, a[part], g, gj[part], into, ga_[part], by[k])
            if turned:
                self._moved(into, self.src ^ 1, gx[part])
        return gx, ga, by.sum(0), self.by_factors(factors)

    def _couple_back(self, x: Tensor, a: Tensor, g: Tensor, gj: Tensor, gz: Tensor, ga: Tensor, by: Tensor) -> None:
        """Gradients by z and a, and by σ and o into by, (2, C), of g by v and gj by the log-det.

        Of v = σ w + o, w = q e + u t, e = exp(l), by l: σ g q e; in reverse, of v = (q − u t) e, e = exp(−l): −g v.
        """
        k, t = a.chunk(2, 1)
        gk, gt = ga.chunk(2, 1)
        gp, gq = self._halves(gz)
        T = self._tanh(k)
        e = self._exp(T)
        if self.reverse:
            z = self._undone(x)
            gz.copy_(g)
            gq.mul_(e)
            torch.mul(gq, -self.unit, out=gt)
            by_l = torch.sub(self._halves(z)[1], t, alpha=self.unit, out=e).mul_(gq).neg_()
            if self.sigma is not None:
                torch.sum(gz.div_(self.sigma) * z, (0, 2), out=by[0])
            torch.sum(gz, (0, 2), out=by[1])
        else:
            p, q = self._halves(self._moved(x, self.src))
            torch.sum(g, (0, 2), out=by[1])
            if self.sigma is None:
                gz.copy_(g)
            else:
                w = torch.mul(q, e).add_(t, alpha=self.unit)
                for v, half, into in zip((p, w), self._halves(g), (gp, gq), strict=True):
                    torch.mul(v, half, out=into)
                torch.sum(gz, (0, 2), out=by[0])
                torch.mul(g, self.sigma, out=gz)
            torch.mul(gq, self.unit, out=gt)
            by_l = torch.mul(gq.mul_(e), q, out=e)
        if self.gin:
            by_l.sub_(by_l.mean((1, 2), keepdim=True))
        else:
            by_l.add_(gj, alpha=-1 if self.reverse else 1)
        torch.mul(by_l, T.mul_(T).sub_(1).mul_(-self.slope), out=gk)

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
