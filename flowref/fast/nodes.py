"""What the two forms with kernels share: a pass around the subnet, its nodes of the graph, and what stands beside them.

Around the subnet stand two nodes. `_Asked` makes what the subnet is asked, `_Coupled` makes output and log-det of its
answer. Between them goes `link`: x behind what a dense W⁻¹ or reflections in front of the kernels do to it
(`Plan.before`), which no one else sees. Saved for backward are x, the answer and parameters; all else is made anew.
A gradient that is itself to be differentiated, or is mapped over, goes through the eager formulas.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowref.fast import eager, ops
from flowref.fast.eager import Formulas, State
from flowref.spec import BlockSpec, Dialect

PLAIN = (Tensor, torch.nn.Parameter)
KINDS = {"SIGMOID": 1, "SOFTPLUS": 2, "EXP": 3}
_AS_IT_IS = nullcontext()
STRAIGHT = 4  # in place of a row of the permutations: channel j is channel j


# ---- dense products

Factors = tuple[Tensor, Tensor]


class Dense(NamedTuple):
    """v ↦ W v."""

    W: Tensor

    def apply(self, plan: Plan, v: Tensor, own: bool = False, out: Tensor | None = None) -> Tensor:
        """In new memory, or, on the CPU, in out."""
        return plan.product(self.W, v, out)

    def back(self, plan: Plan, g: Tensor, v: Tensor) -> tuple[Tensor, None]:
        return plan.product(self.W.mT, g, None), None


class Reflected(NamedTuple):
    """v ↦ v − K U v. Kt, the transpose of K, and U are (n, C), contiguous: products are fastest so."""

    Kt: Tensor
    U: Tensor

    def apply(self, plan: Plan, v: Tensor, own: bool = False, out: Tensor | None = None) -> Tensor:
        """In new memory, or, where v is the caller's own, in that of v."""
        if v.shape[2] == 1:
            flat = v.flatten(1)
            return plan.less(flat, plan.times(flat, self.U.mT), self.Kt, own).view(v.shape)
        return plan.less(v, _each(self.Kt.mT, v), plan.times(_each(self.U, v), v), own)

    def back(self, plan: Plan, g: Tensor, v: Tensor) -> tuple[Tensor, Factors]:
        """Gradients by v and by (Kt, U)."""
        if v.shape[2] == 1:
            flat, by = v.flatten(1), g.flatten(1)
            h, gh = plan.times(flat, self.U.mT), plan.times(by, self.Kt.mT)
            return plan.less(by, gh, self.U, False).view(v.shape), (-plan.times(h.mT, by), -plan.times(gh.mT, flat))
        h, gh = plan.times(_each(self.U, v), v), plan.times(_each(self.Kt, v), g)
        gK, gU = plan.times(h, g.mT).sum(0), plan.times(gh, v.mT).sum(0)
        return plan.less(g, _each(self.U.mT, v), gh, False), (-gK, -gU)


def _each(M: Tensor, v: Tensor) -> Tensor:
    return M.expand(v.shape[0], *M.shape)


# ---- what a pass derives from the state


def no_permutation(name: str, index: Tensor) -> RuntimeError:
    """What is wrong with an index vector that was written to behind load_state_dict's back."""
    return RuntimeError(
        f"{name} is no permutation: expected each of 0 to {len(index) - 1} once, got {index.tolist()!r:.80}. Set it "
        f"with load_state_dict, which refuses that."
    )


class Plan(ABC):
    """What one pass derives from spec and state, and its kernels' calls. Tensors are (B, C, N) here, contiguous.

    Lives as long as the pass and its graph. The calls are a subclass's own:

        permutes      whether W, of each (W, row) asked for, is a permutation, whose index and inverse it keeps as rows
                      row and row + 1
        permutation   a row that is kept so
        reflections   the compact WY form of vectors, permuted by a row; by_vectors its gradient
        asked         what the subnet is asked; asked_back its gradient, added to gx, and sums for by_affine
        coupled       output, log-det and the means that GIN took off, in the memory of data where that is its own and
                      fits; coupled_back the gradients by data, a, vectors and sums for by_affine
        by_affine     gradients by s and o of such sums
    """

    def __init__(self, spec: BlockSpec, state: State, B: int, reverse: bool) -> None:
        self.spec, self.state, self.reverse = spec, state, reverse
        self.rows: list[Tensor | None] = [None] * 6  # what `permutes` found; the last two: straight
        self.B, self.C, self.N, self.A, self.P = B, spec.C, spec.N, spec.A, spec.P
        self.documented = documented = spec.dialect is Dialect.DOCUMENTED
        self.first, self.passive = (0, self.A) if documented else (self.P, 0)
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
        self.read: list[tuple[Tensor, int]] = []  # state that backward reads, and the versions that it has
        src = dst = STRAIGHT
        self.gathers: tuple[int | None, int | None] = None, None  # the rows of W and W⁻¹ where they are permutations
        forth, back = spec.reverse_permutation or not reverse, spec.reverse_permutation or reverse
        if state.vectors is None:
            wanted = [(state.there, 0)] * forth + [(state.back, 2)] * back
            hard = dict(zip((row for _, row in wanted), self.permutes(wanted), strict=True))
            for W, row in wanted:
                if W.dim() == 1 and not hard[row]:
                    raise no_permutation("w_perm_inv" if row else "w_perm", W)
            self.gathers = 0 if hard.get(0) else None, 2 if hard.get(2) else None
            if forth and (dst := 1 if hard[0] else STRAIGHT) == STRAIGHT:
                self.post = [Dense(self._matrix(state.there))]
            if back and (src := 2 if hard[2] else STRAIGHT) == STRAIGHT:
                self.pre = [Dense(self._matrix(state.back))]
        else:
            (is_hard,) = self.permutes([(state.there, 0)])
            Q = self.reflections(state.vectors, 0 if is_hard and not documented else None)
            turned = Reflected(Q.U, Q.Kt)  # Qᵀ v = v − Uᵀ Kᵀ v
            if is_hard:
                self.gathers = 0, 1
                # W₀ Q v = Q' (W₀ v), where Q' reflects along the permuted vectors.
                src, dst = (1 if back else STRAIGHT), (1 if forth else STRAIGHT)
                self.post, self.pre = [Q], [turned]
            else:
                W = self._matrix(state.there)
                self.post = [Dense(W), Q] if documented else [Q, Dense(W)]
                self.pre = [turned, Dense(W.mT)] if documented else [Dense(W.mT), turned]
            self.post = self.post if forth else []
            self.pre = self.pre if back else []
        self.src, self.dst = src, dst
        self.offset = state.offset
        # As documented, o stands between W and the block's edge; apart where W is no permutation.
        self.offset_apart = documented and bool(self.pre if reverse else self.post)
        self.outside = documented and not self.offset_apart
        self.state_before = reverse or bool(self.pre)

    # ---- dense products: torch's, where a subclass has none of its own

    def times(self, a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        """a b, for (batch, m, k) and (batch, k, n), or two matrices; in new memory, or, on the CPU, in out."""
        return (torch.mm if a.dim() == 2 else torch.bmm)(a, b, out=out)

    def less(self, v: Tensor, a: Tensor, b: Tensor, own: bool) -> Tensor:
        """v − a b; where v is the caller's own, in its memory."""
        if v.dim() == 2:
            return (v.addmm_ if own else v.addmm)(a, b, alpha=-1)
        return (v.baddbmm_ if own else v.baddbmm)(a, b, alpha=-1)

    def product(self, W: Tensor, v: Tensor, out: Tensor | None) -> Tensor:
        """W v for v (B, C, N); in new memory, or, on the CPU, in out."""
        if v.shape[2] == 1:
            return self.times(v.flatten(1), W.mT, None if out is None else out.flatten(1)).unsqueeze(2)
        return self.times(_each(W, v), v, out)

    # ---- W

    @abstractmethod
    def permutes(self, wanted: Sequence[tuple[Tensor, int]]) -> list[bool]: ...

    def permutation(self, row: int) -> Tensor:
        index = self.rows[row]
        assert index is not None  # `permutes` found it
        return index

    def reflections(self, vectors: Tensor, row: int | None) -> Reflected:
        self.order = None if row is None else self.rows[row]
        return Reflected(*self._factors(vectors.detach()))

    def _factors(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Kᵀ and U, made in float64, which TF32 does not reach."""
        Q = ops.Reflections.of(vectors.double())
        Kt, U = (M if self.order is None else M.index_select(1, self.order) for M in (Q.K.mT, Q.U))
        return Kt.float().contiguous(), U.float().contiguous()

    def by_vectors(self, vectors: Tensor, gK: Tensor, gU: Tensor) -> Tensor:
        with torch.enable_grad():
            v = vectors.detach().requires_grad_()
            return torch.autograd.grad(self._factors(v), v, (gK, gU))[0]

    @abstractmethod
    def asked(self, data: Tensor, conditions: Sequence[Tensor]) -> Tensor: ...

    @abstractmethod
    def asked_back(self, data: Tensor, g: Tensor, gx: Tensor) -> Any: ...

    @abstractmethod
    def coupled(self, data: Tensor, a: Tensor, own: bool = False) -> tuple[Tensor, Tensor, Any]: ...

    @abstractmethod
    def coupled_back(
        self, data: Tensor, a: Tensor, gy: Tensor, gj: Tensor, means: Any
    ) -> tuple[Tensor, Tensor, Any, Tensor | None]: ...

    @abstractmethod
    def by_affine(self, by: Any, s: Tensor | None, o: Tensor, gj: Tensor | None) -> tuple[Tensor | None, Tensor]: ...

    def keep(self, W: Tensor) -> Tensor:
        """W, detached, of which backward wants the values that it has now."""
        if not W.is_inference():
            self.read.append((W, W._version))
        return W.detach()

    def _matrix(self, W: Tensor) -> Tensor:
        return self.keep(W).reshape(self.C, self.C)

    def check_versions(self) -> None:
        """Raises where a W that backward needs was changed in place since, as autograd does for what it saved."""
        if any(W._version != version for W, version in self.read):
            raise RuntimeError(
                "w_perm, w_perm_inv or w_0 was modified by an in-place operation between forward and backward: "
                "expected the W of the forward pass. Call backward first."
            )

    def through(
        self, operators: list[Dense | Reflected], v: Tensor, own: bool = False, out: Tensor | None = None
    ) -> Tensor:
        """The operators, one after another; where v is the caller's own, they may write to it.

        On the CPU a dense one, of which there is one at most, writes to out.
        """
        for operator in operators:
            v, own = operator.apply(self, v, own, out), True
        return v

    def back(self, operators: list[Dense | Reflected], g: Tensor, v: Tensor) -> tuple[Tensor, Factors | None]:
        """Gradients by v, and by Kt and U of the reflections, of g by what `through` made of v."""
        held = [v]
        for operator in operators[:-1]:
            held.append(operator.apply(self, held[-1]))
        factors = None
        for operator in reversed(operators):
            g, found = operator.back(self, g, held.pop())
            if found is not None:
                factors = found if operators is self.post else found[::-1]
        return g, factors

    def by_factors(self, factors: Factors | None) -> Tensor | None:
        """Gradient by the vectors of those by Kt and U."""
        vectors = self.state.vectors
        return None if factors is None or vectors is None else self.by_vectors(vectors, *factors)

    def before(self, x: Tensor) -> Tensor:
        """What the kernels read: x (B, C, *S) behind a dense W⁻¹ and reflections, (B, C, N)."""
        return self.through(self.pre, x.view(self.B, self.C, self.N)).contiguous()

    def formulas(self, s: Tensor | None, o: Tensor, v: Tensor | None) -> Formulas:
        """The same in torch's operators, with the permutations that W held when the pass began."""
        stored = zip((self.state.there, self.state.back), self.gathers, strict=True)
        there, back = (W if row is None else self.permutation(row) for W, row in stored)
        state = State(self.state.scale if s is None else s, o, there, back, v)
        return Formulas(self.spec, state, torch.float32)


# ---- one pass


def run(
    make: Callable[[BlockSpec, State, int, bool], Plan],
    spec: BlockSpec,
    state: State,
    x: Tensor,
    conditions: Sequence[Tensor],
    ask: Callable[[Tensor], Tensor],
    reverse: bool,
) -> tuple[tuple[Tensor], Tensor]:
    """One pass: ``((y,), logdet)``. x, conditions, state: float32, on one device, of no subclass; B > 0."""
    recorded = torch.is_grad_enabled()
    with full_precision(x):
        plan = make(spec, state, x.shape[0], reverse)
        if plan.offset_apart:
            # It is added by torch, and is 0 within.
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

    with full_precision(x):
        a = answer if answer.dtype is torch.float32 else answer.to(torch.float32)
        if type(a) not in PLAIN or a.is_neg() or a._is_zerotensor() or a.layout is not torch.strided:
            formulas = plan.formulas(s, o, v)
            y, logdet = formulas.behind(formulas.before(x, reverse), a, reverse)
        elif recorded and any(w is not None and w.requires_grad for w in (link, x, a, s, o, v)):
            y, logdet = _Coupled.apply(link, x, a, s, o, v, plan)
        else:
            y, logdet, _ = plan.coupled(data, a, own=bool(plan.pre))
        if plan.offset_apart and not reverse:
            y = y + plan.offset
        return (y,), logdet


def contiguous(g: Tensor) -> Tensor:
    """The values of g as kernels read them."""
    g = g.detach()
    return (g.clone() if g._is_zerotensor() else g.resolve_neg()).contiguous()


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Keeps autocast away from all but the subnet."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else _AS_IT_IS


def _eager_only(*gradients: Tensor | None) -> bool:
    """Whether a gradient is to be differentiated, or is no tensor that a kernel can read."""
    return torch.is_grad_enabled() or any(g is not None and (type(g) not in PLAIN or _is_mapped(g)) for g in gradients)


def _is_mapped(g: Tensor) -> bool:
    """Whether g is one of vmap's tensors: of torch.func's, or of is_grads_batched's own kind."""
    functorch = torch._C._functorch
    return functorch.is_functorch_wrapped_tensor(g) or functorch.is_legacy_batchedtensor(g)


def _differentiate(
    function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor | None], gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients by the inputs, in torch's operators, differentiable where that is asked for."""
    again = torch.is_grad_enabled()
    with torch.enable_grad(), full_precision(next(v for v in inputs if v is not None)):
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


def _save(ctx: Any, *tensors: Tensor | None) -> None:
    ctx.save_for_backward(*tensors)
    ctx.saved = [None if v is None else (v.shape, v.device) for v in tensors]


def _saved(ctx: Any) -> list[Any]:
    """What was saved, as kernels read it, whatever a hook on saved tensors made of it."""
    found = []
    for v, as_it_was in zip(ctx.saved_tensors, ctx.saved, strict=True):
        if v is not None:
            shape, device = as_it_was
            if v.shape != shape:
                raise RuntimeError(
                    f"a tensor saved for backward came back with shape {tuple(v.shape)}: expected {tuple(shape)}. Let "
                    f"the hook on saved tensors give back what it was given."
                )
            v = v.to(device, torch.float32)
        found.append(v)
    return found


class _Asked(torch.autograd.Function):
    """(asked, link) of x and conditions; link is the data that the kernels read."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Any, o: Any, v: Any, plan: Plan, data: Tensor, *c: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.plan, ctx.widths = plan, [w.shape[1] for w in c]
        # Not the conditions: they are passed on, so that no gradient needs their values.
        _save(ctx, *((x, s, o, v) if plan.state_before else (x,)))
        return plan.asked(data, c), data

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, by_link: Tensor | None) -> Any:
        plan: Plan = ctx.plan
        plan.check_versions()
        x, *rest = _saved(ctx)
        s, o, v = rest or (None, plan.state.offset, plan.state.vectors)
        by_c: list[Tensor | None] = [None] * len(ctx.widths)
        if g is not None and ctx.widths:
            by_c = list(g.narrow(1, plan.P, sum(ctx.widths)).split(ctx.widths, 1))
        eagerly: list[Tensor | None] = [None] * 4
        if _eager_only(g, by_link):

            def passive(x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
                formulas = plan.formulas(*(state or (s, o, v)))
                return (formulas.split(formulas.before(x, plan.reverse))[0],)

            found = _differentiate(passive, (x, *rest), (None if g is None else g.narrow(1, 0, plan.P),))
            eagerly[: len(found)] = found
            g = None

        with full_precision(x):
            gx = gs = go = gv = None
            if any(ctx.needs_input_grad[:4]) and not (g is None and by_link is None):
                held = x.detach().contiguous().view(plan.B, plan.C, plan.N)
                # A copy: hooks on either node may hold by_link.
                gx = torch.zeros_like(held) if by_link is None else by_link.clone() if g is not None else by_link
                if g is not None:
                    by = plan.asked_back(plan.before(held) if plan.reverse else held, contiguous(g), gx)
                    if plan.reverse:
                        gs, go = plan.by_affine(by, s, o, None)
                if plan.pre:
                    gx, factors = plan.back(plan.pre, gx, held)
                    gv = plan.by_factors(factors)
                gx = gx.view(x.shape)
        both = zip(eagerly, (gx, gs, go, gv), strict=True)
        return *(w if u is None else u if w is None else u + w for u, w in both), None, None, *by_c


class _Coupled(torch.autograd.Function):
    """(y, logdet) of link and the subnet's answer. x is link before `Plan.before`."""

    @staticmethod
    def forward(ctx: Any, link: Tensor, x: Tensor, a: Tensor, s: Tensor, o: Tensor, v: Any, plan: Plan) -> Any:
        y, logdet, means = plan.coupled(link.detach(), a)
        ctx.plan, ctx.means = plan, means
        _save(ctx, x, a, s, o, v)
        ctx.set_materialize_grads(False)
        return y, logdet

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gj: Tensor | None) -> Any:
        plan: Plan = ctx.plan
        plan.check_versions()
        x, a, s, o, v = _saved(ctx)
        if _eager_only(gy, gj):

            def coupled(x: Tensor, a: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
                formulas = plan.formulas(*state)
                return formulas.behind(formulas.before(x, plan.reverse), a, plan.reverse)

            return None, *_differentiate(coupled, (x, a, s, o, v), (gy, gj)), None
        with full_precision(x):
            data = plan.before(x.detach().contiguous())
            gy = torch.zeros_like(data) if gy is None else contiguous(gy).view(data.shape)
            gj = data.new_zeros(plan.B) if gj is None else contiguous(gj)
            by_link, ga, by, gv = plan.coupled_back(data, a.detach().contiguous(), gy, gj, ctx.means)
            gs, go = plan.by_affine(by, s, o, gj)
            return by_link, None, ga, gs, go, gv, None
