"""A pass with the kernels of `flowref.fast.cpu`, and its gradient. Float32 on the CPU; the caller has looked.

Around the subnet stand two nodes of the graph. `_Asked` makes what the subnet is asked, `_Coupled` makes output and
log-det of its answer. Between them goes `link`: x behind what a dense W⁻¹ or reflections in front of the kernels do to
it (`Plan.before`), which no one else sees. Saved for backward are x, the answer and parameters; all else is made anew.
A gradient that is itself to be differentiated, or is mapped over, goes through the eager formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowref.fast import cpu, eager
from flowref.fast.eager import Formulas, State
from flowref.fast.pool import spread
from flowref.spec import BlockSpec, Dialect

KINDS = {"SIGMOID": 1, "SOFTPLUS": 2, "EXP": 3}
GROUPS = 64  # at most so many groups of samples, each summed by itself
ALONE = 2**17  # below so many numbers in x, a second thread costs more than it saves


def run(
    spec: BlockSpec,
    state: State,
    x: Tensor,
    conditions: Sequence[Tensor],
    ask: Callable[[Tensor], Tensor],
    reverse: bool,
) -> tuple[tuple[Tensor], Tensor]:
    """One pass: ``((y,), logdet)``. x, conditions, state: float32, on the CPU, of no subclass; B > 0."""
    recorded = torch.is_grad_enabled()
    with _full_precision():
        plan = Plan(spec, state, x.shape[0], reverse)
        if plan.offset_apart:
            # As documented, o stands between W and the block's edge: it is added by torch, and is 0 within.
            if reverse:
                x = x - state.offset
            plan.state = state = state._replace(offset=torch.zeros_like(state.offset))
        s, o, v = None if spec.gin_block else state.scale, state.offset, state.vectors
        data = link = plan.before(x.detach().contiguous())
        used = (s, o, v) if plan.state_before else (None, None, None)
        if recorded and any(w is not None and w.requires_grad for w in (x, *used, *conditions)):
            asked, link = _Asked.apply(x, *used, plan, data, *conditions)
        else:
            asked = plan.asked(data, conditions)

    answer = ask(asked)

    with _full_precision():
        a = answer if answer.dtype is torch.float32 else answer.to(torch.float32)
        if type(a) not in PLAIN or a.is_neg() or a.layout is not torch.strided:
            formulas = plan.formulas(s, o, v)
            y, logdet = formulas.behind(formulas.before(x, reverse), a, reverse)
        elif recorded and any(w is not None and w.requires_grad for w in (link, x, a, s, o, v)):
            y, logdet = _Coupled.apply(link, x, a, s, o, v, plan)
        else:
            y, logdet, _ = plan.coupled(data, a)
        if plan.offset_apart and not reverse:
            y = y + plan.offset
        return (y,), logdet


PLAIN = (Tensor, torch.nn.Parameter)


class Dense(NamedTuple):
    """v ↦ W v."""

    W: Tensor

    def apply(self, v: Tensor, own: bool = False) -> Tensor:
        return _times(self.W, v)

    def back(self, g: Tensor, v: Tensor) -> tuple[Tensor, None]:
        return _times(self.W.mT, g), None


class Reflected(NamedTuple):
    """v ↦ v − K U v. Kt, the transpose of K, and U are (n, C), contiguous: products are fastest so."""

    Kt: Tensor
    U: Tensor

    def apply(self, v: Tensor, own: bool = False) -> Tensor:
        """Where v is the caller's own, in its memory."""
        if v.shape[2] == 1:
            flat = v.flatten(1)
            h = flat @ self.U.mT
            return (flat.addmm_ if own else flat.addmm)(h, self.Kt, alpha=-1).view(v.shape)
        h = torch.bmm(_each(self.U, v), v)
        return (v.baddbmm_ if own else v.baddbmm)(_each(self.Kt.mT, v), h, alpha=-1)

    def back(self, g: Tensor, v: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Gradients by v and by (Kt, U)."""
        if v.shape[2] == 1:
            flat, by = v.flatten(1), g.flatten(1)
            h, gh = flat @ self.U.mT, by @ self.Kt.mT
            return by.addmm(gh, self.U, alpha=-1).view(v.shape), (-(h.mT @ by), -(gh.mT @ flat))
        h, gh = torch.bmm(_each(self.U, v), v), torch.bmm(_each(self.Kt, v), g)
        gK, gU = torch.bmm(h, g.mT).sum(0), torch.bmm(gh, v.mT).sum(0)
        return g.baddbmm(_each(self.U.mT, v), gh, alpha=-1), (-gK, -gU)


def _each(M: Tensor, v: Tensor) -> Tensor:
    return M.expand(v.shape[0], *M.shape)


def _times(W: Tensor, v: Tensor) -> Tensor:
    """W v for v (B, C, N)."""
    if v.shape[2] == 1:
        return torch.mm(v.flatten(1), W.mT).unsqueeze(2)
    return torch.bmm(_each(W, v), v)


class Plan:
    """What one pass derives from spec and state, and the kernels' calls. Tensors are (B, C, N) here, contiguous.

    Lives as long as the pass and its graph.
    """

    def __init__(self, spec: BlockSpec, state: State, B: int, reverse: bool) -> None:
        self.spec, self.state, self.reverse = spec, state, reverse
        C, N = spec.C, spec.N
        self.B, self.C, self.N, self.A, self.P = B, C, N, spec.A, spec.P
        documented = spec.dialect is Dialect.DOCUMENTED
        self.first = 0 if documented else spec.P
        self.passive = spec.A if documented else 0
        self.width = spec.subnet_in
        self.alpha, self.unit = float(spec.affine_clamping), eager.unit_of(spec)
        self.c, self.slope = self.unit, self.alpha * self.unit
        if spec.dialect is Dialect.FREIA_MAIN:
            # An α below the smallest normal number would divide by 0; l moves by less than that number.
            self.alpha = max(self.alpha, torch.finfo(torch.float32).tiny)
            self.c, self.slope = self.unit / self.alpha, self.unit
        self.gin = spec.gin_block
        self.kind = 0 if spec.gin_block else KINDS[spec.global_affine_type]

        self.pre: list[Dense | Reflected] = []
        self.post: list[Dense | Reflected] = []
        # Rows: index and inverse of W (of W₀ with reflections), the same of W⁻¹, and 0, 1, 2, …
        self.index = np.empty((5, C), np.int64)
        self.index[4] = np.arange(C)
        src = dst = 4
        forth, back = spec.reverse_permutation or not reverse, spec.reverse_permutation or reverse
        self.dense: list[tuple[Tensor, int]] = []  # and the versions that they have
        if state.vectors is None:
            if forth and (dst := 1 if self._permutes(state.there, 0) else 4) == 4:
                self.post = [Dense(self._matrix(state.there))]
            if back and (src := 2 if self._permutes(state.back, 2) else 4) == 4:
                self.pre = [Dense(self._matrix(state.back))]
        else:
            hard = self._permutes(state.there, 0)
            Q = self._reflections(state.vectors, 0 if hard and not documented else None)
            turned = Reflected(Q.U, Q.Kt)  # Qᵀ v = v − Uᵀ Kᵀ v
            if hard:
                # W₀ Q v = Q' (W₀ v), where Q' reflects along the permuted vectors.
                src, dst = (1 if back else 4), (1 if forth else 4)
                self.post, self.pre = [Q], [turned]
            else:
                W = self._matrix(state.there)
                self.post = [Dense(W), Q] if documented else [Q, Dense(W)]
                self.pre = [turned, Dense(W.mT)] if documented else [Dense(W.mT), turned]
            self.post = self.post if forth else []
            self.pre = self.pre if back else []
        self.src, self.dst = (self.index.ctypes.data + 8 * C * row for row in (src, dst))
        self.from_there, self.to_there = src == 4, dst == 4
        self.offset = state.offset
        self.offset_apart = documented and bool(self.pre if reverse else self.post)
        self.state_before = reverse or bool(self.pre)
        # o by channel of z: as documented it stands where the channels of x or y do.
        self.o_map = self.index[4 if not documented or self.offset_apart else src if reverse else dst]
        self.affine = np.empty((3, C), np.float32)
        self.table = self.affine.ctypes.data
        s, o = state.scale.contiguous(), state.offset.contiguous()
        self.log_sigma = cpu.global_affine(self.kind, s.data_ptr(), o.data_ptr(), C, self.o_map, self.affine)
        if self.offset_apart:
            self.affine[2] = 0

        # Threads take groups of samples, or, of images fewer than threads, every lanes-th channel.
        threads = torch.get_num_threads() if B * C * N >= ALONE else 1
        self.groups = min(B, GROUPS)
        self.lanes = 1 if N == 1 or threads <= self.groups else min(threads, C)
        self.threads = min(threads, self.groups) if self.lanes == 1 else self.lanes

    # ---- W

    def _permutes(self, W: Tensor, row: int) -> bool:
        if self.spec.permute_soft:
            return False
        W = W.detach().contiguous()
        index, inverse = self.index[row], self.index[row + 1]
        return cpu.permutation_of(W.data_ptr(), W.dim() == 1, self.C, index, inverse)

    def _matrix(self, W: Tensor) -> Tensor:
        if not W.is_inference():
            self.dense.append((W, W._version))
        return W.detach().reshape(self.C, self.C)

    def _reflections(self, vectors: Tensor, row: int | None) -> Reflected:
        """K and U; with a row of self.index, along vectors that are permuted by it."""
        n, C = vectors.shape
        v = vectors.contiguous()
        self.wy = K, U, _ = np.empty((C, n)), np.empty((n, C)), np.empty((n, n))
        cpu.compact_wy(v.data_ptr(), n, C, *self.wy)
        self.order = None if row is None else self.index[row].copy()
        order = slice(None) if self.order is None else self.order
        return Reflected(*(torch.from_numpy(M[:, order].astype(np.float32, "C")) for M in (K.T, U)))

    def _by_vectors(self, vectors: Tensor, gK: Tensor, gU: Tensor) -> Tensor:
        """Gradient by the vectors of those by Kᵀ and U, as the operators hold them."""
        back = slice(None) if self.order is None else np.argsort(self.order)
        v = vectors.detach().contiguous()
        gv = torch.empty_like(v)
        by = gK.numpy()[:, back].T.astype(np.float64, "C"), gU.numpy()[:, back].astype(np.float64, "C")
        cpu.compact_wy_back(v.data_ptr(), *v.shape, *self.wy, *by, gv.data_ptr())
        return gv.view(vectors.shape)

    def check_versions(self) -> None:
        """Raises where a W that backward needs was changed in place since, as autograd does for what it saved."""
        if any(W._version != version for W, version in self.dense):
            raise RuntimeError(
                "w_perm, w_perm_inv or w_0 was modified by an in-place operation between forward and backward: "
                "expected the W of the forward pass. Call backward first."
            )

    def through(self, operators: list[Dense | Reflected], v: Tensor, own: bool = False) -> Tensor:
        """The operators, one after another; where v is the caller's own, they may write to it."""
        for operator in operators:
            v, own = operator.apply(v, own), True
        return v

    def back(self, operators: list[Dense | Reflected], g: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gradients by v and by the vectors, of g by what `through` made of v."""
        held = [v]
        for operator in operators[:-1]:
            held.append(operator.apply(held[-1]))
        by_vectors = None
        for operator in reversed(operators):
            g, found = operator.back(g, held.pop())
            if found is not None and self.state.vectors is not None:
                gK, gU = found if operators is self.post else found[::-1]
                by_vectors = self._by_vectors(self.state.vectors, gK, gU)
        return g, by_vectors

    # ---- the kernels' calls

    def _split(self, t: int) -> tuple[int, int, int, int]:
        """(first group, last, groups, lane) of thread t."""
        if self.lanes > 1:
            return 0, self.groups, self.groups, t
        return self.groups * t // self.threads, self.groups * (t + 1) // self.threads, self.groups, 0

    def before(self, x: Tensor) -> Tensor:
        """What the kernels read: x (B, C, *S) behind a dense W⁻¹ and reflections, (B, C, N)."""
        return self.through(self.pre, x.view(self.B, self.C, self.N))

    def asked(self, data: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """The subnet's input, (B, P + ΣC_k, *S)."""
        B, C, N, P, S = self.B, self.C, self.N, self.P, self.spec.S
        if self.from_there and not self.reverse:
            # cat copies even a single tensor, so that a subnet that writes to its input reaches nobody else's.
            return torch.cat((data[:, self.passive : self.passive + P].view(B, P, *S), *conditions), 1)
        asked = _fresh((B, self.width, *S))

        def part(t: int) -> None:
            k0, k1, groups, lane = self._split(t)
            if not lane:
                cpu.ask(
                    data.data_ptr(), asked.data_ptr(), k0, k1, groups, B, C, N, P, self.passive, self.width, self.src,
                    self.table, self.reverse, self.from_there,
                )  # fmt: skip

        spread(part, self.threads if self.lanes == 1 else 1)
        at = P
        for c in conditions:
            asked.narrow(1, at, c.shape[1]).copy_(c)
            at += c.shape[1]
        return asked

    def asked_back(self, data: Tensor, g: Tensor, gx: Tensor, by: np.ndarray) -> None:
        """Adds to gx, and to by (groups, 2, C), the gradients by x and by σ and o, of g by what was asked."""
        g = _contiguous(g)

        def part(t: int) -> None:
            k0, k1, groups, lane = self._split(t)
            if not lane:
                cpu.ask_back(
                    data.data_ptr(), g.data_ptr(), gx.data_ptr(), by.ctypes.data, k0, k1, groups, self.B, self.C,
                    self.N, self.P, self.passive, self.width, self.src, self.table, self.reverse, self.from_there,
                )  # fmt: skip

        spread(part, self.threads if self.lanes == 1 else 1)

    def _kernel(self, data: Tensor, a: Tensor, logs: np.ndarray, means: np.ndarray) -> tuple[Tensor, Tensor]:
        """y, before `post` is applied, and a as the kernels read it."""
        a, y = a.detach().contiguous(), torch.empty_like(data)
        B, C, N, A, first, src, dst, table = (
            self.B, self.C, self.N, self.A, self.first, self.src, self.dst, self.table,
        )  # fmt: skip
        x_, a_, y_ = data.data_ptr(), a.data_ptr(), y.data_ptr()

        def part(t: int, stage: int = 3) -> None:
            k0, k1, groups, lane = self._split(t)
            if N == 1:
                cpu.couple_rows(
                    x_, a_, y_, logs, means, k0, k1, groups, B, C, A, first, src, dst, table, self.alpha, self.c,
                    self.unit, self.reverse, self.gin, self.from_there, self.to_there,
                )  # fmt: skip
            else:
                cpu.couple(
                    x_, a_, y_, logs, means, stage, k0, k1, groups, lane, B, C, N, A, first, src, dst, table,
                    self.alpha, self.c, self.unit, self.reverse, self.gin,
                )  # fmt: skip

        self._staged(part)
        return y, a

    def _staged(self, part: Callable[..., None]) -> None:
        """All parts; where lanes share a sample whose mean they need, in two stages."""
        if self.gin and self.lanes > 1:
            spread(lambda t: part(t, 1), self.threads)
            spread(lambda t: part(t, 2), self.threads)
        else:
            spread(part, self.threads)

    def coupled(self, data: Tensor, a: Tensor) -> tuple[Tensor, Tensor, np.ndarray]:
        """y (B, C, *S), logdet (B,), and the means that GIN took off."""
        logs, means = np.empty((self.B, self.lanes)), np.empty(self.B if self.gin else 0, np.float32)
        y, _ = self._kernel(data, a, logs, means)
        y = self.through(self.post, y, own=True)
        if self.gin:
            logdet = _fresh((self.B,)).zero_()
        else:
            logdet = _fresh((self.B,))
            sign = -1.0 if self.reverse else 1.0
            cpu.close_logdet(logs, self.N * self.log_sigma, sign, logdet.data_ptr())
        return y.view(self.B, self.C, *self.spec.S), logdet, means

    def coupled_back(
        self, data: Tensor, a: Tensor, gy: Tensor, gj: Tensor, means: np.ndarray
    ) -> tuple[Tensor, Tensor, np.ndarray, Tensor | None]:
        """Gradients by data, by a, by σ and o (groups, 2, C), by the vectors."""
        B, C, N, A, first, src, dst, table = (
            self.B, self.C, self.N, self.A, self.first, self.src, self.dst, self.table,
        )  # fmt: skip
        logs = np.empty((B, self.lanes))
        a, g, gj = a.detach().contiguous(), _contiguous(gy).view(B, C, N), _contiguous(gj)
        by_vectors = None
        if self.post:
            u = data
            if self.state.vectors is not None:
                u, _ = self._kernel(data, a, logs, np.empty_like(means))
            g, by_vectors = self.back(self.post, g, u)
            g = g.contiguous()
        gx, ga = torch.empty_like(data), torch.empty_like(a)
        by = np.zeros((self.groups, 2, C))
        pointers = (data.data_ptr(), a.data_ptr(), g.data_ptr(), gj.data_ptr(), gx.data_ptr(), ga.data_ptr())

        def part(t: int, stage: int = 3) -> None:
            k0, k1, groups, lane = self._split(t)
            if N == 1:
                cpu.couple_rows_back(
                    *pointers, logs, means, by.ctypes.data, k0, k1, groups, B, C, A, first, src, dst, table, self.alpha,
                    self.c, self.slope, self.unit, self.reverse, self.gin, self.from_there, self.to_there,
                )  # fmt: skip
            else:
                cpu.couple_back(
                    *pointers, logs, means, by.ctypes.data, stage, k0, k1, groups, lane, B, C, N, A, first, src, dst,
                    table, self.alpha, self.c, self.slope, self.unit, self.reverse, self.gin,
                )  # fmt: skip

        self._staged(part)
        return gx, ga, by, by_vectors

    def by_affine(self, by: np.ndarray, s: Tensor | None, o: Tensor, gj: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Gradients by s, None where it is, and o."""
        gs, go = _fresh(o.shape), _fresh(o.shape)
        through = 0.0 if gj is None or self.gin else self.N * float(gj.sum(dtype=torch.float64))
        held = (o if s is None else s).detach().contiguous()
        cpu.close_affine(
            self.kind, held.data_ptr(), by, -through if self.reverse else through, self.o_map, gs.data_ptr(),
            go.data_ptr(),
        )  # fmt: skip
        return None if s is None else gs, go

    # ---- the same in torch's operators

    def formulas(self, s: Tensor | None, o: Tensor, v: Tensor | None) -> Formulas:
        state = State(self.state.scale if s is None else s, o, self.state.there, self.state.back, v)
        return Formulas(self.spec, state, torch.float32)


def _fresh(shape: Sequence[int]) -> Tensor:
    """New memory, whatever the default dtype and device."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _contiguous(g: Tensor) -> Tensor:
    g = g.detach()
    return (g.clone() if g._is_zerotensor() else g.resolve_neg()).contiguous()


def _eager_only(*gradients: Tensor | None) -> bool:
    """Whether a gradient is to be differentiated, or is no tensor that a kernel can read."""
    return torch.is_grad_enabled() or any(g is not None and (type(g) not in PLAIN or _is_mapped(g)) for g in gradients)


def _is_mapped(g: Tensor) -> bool:
    """Whether g is one of vmap's tensors: of torch.func's, or of is_grads_batched's own kind."""
    functorch = torch._C._functorch
    return functorch.is_functorch_wrapped_tensor(g) or functorch.is_legacy_batchedtensor(g)


def _full_precision() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


def _differentiate(
    function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor | None], gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients by the inputs, in torch's operators, differentiable where that is asked for."""
    again = torch.is_grad_enabled()
    with torch.enable_grad(), _full_precision():
        # Views, so that one tensor in two places has two gradients.
        held = [None if v is None else v.view_as(v) for v in inputs]
        wanted = [k for k, v in enumerate(held) if v is not None and v.requires_grad]
        made = [(y, g) for y, g in zip(function(*held), gradients, strict=True) if g is not None and y.requires_grad]
        found = torch.autograd.grad(
            [y for y, _ in made], [v for v in held if v is not None and v.requires_grad], [g for _, g in made],
            create_graph=again, allow_unused=True,
        ) if made and wanted else [None] * len(wanted)  # fmt: skip
    by = dict(zip(wanted, found, strict=True))
    return [by.get(k) for k in range(len(held))]


class _Asked(torch.autograd.Function):
    """(asked, link) of x and conditions; link is the data that the kernels read."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Any, o: Any, v: Any, plan: Plan, data: Tensor, *c: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.plan, ctx.widths = plan, [w.shape[1] for w in c]
        ctx.save_for_backward(*((x, s, o, v, *c) if plan.state_before else (x, *c)))
        return plan.asked(data, c), data

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, by_link: Tensor | None) -> Any:
        plan: Plan = ctx.plan
        plan.check_versions()
        x, *rest = ctx.saved_tensors
        s, o, v = rest[:3] if plan.state_before else (None, plan.state.offset, plan.state.vectors)
        c = rest[3:] if plan.state_before else rest
        if _eager_only(g, by_link):
            n = 4 if plan.state_before else 1

            def asked(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
                formulas = plan.formulas(*(rest[:3] if n == 4 else (s, o, v)))
                p, _ = formulas.split(formulas.before(x, plan.reverse))
                return (torch.cat((p, *rest[n - 1 :]), 1),)

            found = _differentiate(asked, (x, *(s, o, v)[: n - 1], *c), (g,))
            return found[0], *(found[1:4] if n == 4 else (None,) * 3), None, None, *found[n:]

        with _full_precision():
            gs = go = gv = None
            by_c: list[Tensor | None] = [None] * len(ctx.widths)
            if g is not None:
                by_c = list(g.narrow(1, plan.P, sum(ctx.widths)).split(ctx.widths, 1)) if ctx.widths else []
            if not any(ctx.needs_input_grad[:4]) or (g is None and by_link is None):
                return None, None, None, None, None, None, *by_c
            held = x.detach().contiguous().view(plan.B, plan.C, plan.N)
            gx = torch.zeros_like(held) if by_link is None else by_link
            if g is not None:
                by = np.zeros((plan.groups, 2, plan.C))
                plan.asked_back(plan.before(held) if plan.reverse else held, g, gx, by)
                if plan.reverse:
                    gs, go = plan.by_affine(by, s, o, None)
            if plan.pre:
                gx, gv = plan.back(plan.pre, gx, held)
            return gx.view(x.shape), gs, go, gv, None, None, *by_c


class _Coupled(torch.autograd.Function):
    """(y, logdet) of link and the subnet's answer. x is link before `Plan.before`."""

    @staticmethod
    def forward(ctx: Any, link: Tensor, x: Tensor, a: Tensor, s: Tensor, o: Tensor, v: Any, plan: Plan) -> Any:
        y, logdet, means = plan.coupled(link.detach(), a)
        ctx.plan, ctx.means = plan, means
        ctx.save_for_backward(x, a, s, o, v)
        ctx.set_materialize_grads(False)
        return y, logdet

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gj: Tensor | None) -> Any:
        plan: Plan = ctx.plan
        plan.check_versions()
        x, a, s, o, v = ctx.saved_tensors
        if _eager_only(gy, gj):

            def coupled(x: Tensor, a: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
                formulas = plan.formulas(*state)
                return formulas.behind(formulas.before(x, plan.reverse), a, plan.reverse)

            return None, *_differentiate(coupled, (x, a, s, o, v), (gy, gj)), None
        with _full_precision():
            data = plan.before(x.detach().contiguous())
            gy = _fresh(x.shape).zero_() if gy is None else gy
            gj = _fresh((plan.B,)).zero_() if gj is None else gj
            by_link, ga, by, gv = plan.coupled_back(data, a, gy, gj, ctx.means)
            gs, go = plan.by_affine(by, s, o, gj)
            return by_link, None, ga, gs, go, gv, None
