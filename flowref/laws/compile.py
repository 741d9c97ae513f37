"""The pass under torch.compile, torch.func and a second backward: the eager result, or the target's own refusal.

A refusal is a NotImplementedError that the target's own code raises; what is refused has no result to be judged.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowref.bounds import exact
from flowref.laws.logdet import jacobians, scale_of
from flowref.laws.registry import law
from flowref.laws.run import Run, reference_block
from flowref.reference import channel_dot, coefficients_pullback, join, mix, scaled, split
from flowref.spec import Dialect

SMALL = {"B": (2, 3), "C": (3, 4, 5), "max_CN": 24, "alpha": (1.0, 2.0), "subnet": ("linear", "network")}
# Gradients by x that depend on s and on the subnet's coefficients through one factor each, σ and exp(l).
BILINEAR = {"B": (1, 2, 3), "C": (2, 3, 4, 5), "max_CN": 32, "subnet": "constant", "gin": False, "reflections": 0,
            "reverse_permutation": False, "alpha": (1.0, 2.0)}  # fmt: skip
# A pass whose output depends on the subnet's answer through exp(l) and t alone, channel by channel.
CURVED = {**BILINEAR, "subnet": "linear", "clamp": ("curved", "linear")}


def _is_own(error: BaseException) -> bool:
    """Whether the target's code raised it, not torch's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return raised_in.split(".")[0] not in ("torch", *sys.stdlib_module_names)


def _asked(run: Run, what: str, call: Callable[[], Any]) -> list[Any]:
    """The call's answer in a list; an empty list where the target refuses."""

    def answered() -> list[Any]:
        try:
            return [call()]
        except NotImplementedError as error:
            if not _is_own(error):
                raise
            run.equal(True, True, "a refusal")
            return []

    return run.ask(what, answered)


@law(
    "torch.compile(f)(x) = f(x) at two batch sizes, backend aot_eager",
    broken_by="compiled-pass-forgets-the-shift",
    fix=SMALL,
    precisions=("float32",),
    needs=("compile",),
    rows=1,
)
def compiled_equals_eager(run: Run) -> None:
    """The compiled pass gives the eager result.

    Bound: the error of the pass.
    Sees: a branch taken under compilation only, an operator without a fake, a number frozen at the first shape.
    Blind to: code generation, which aot_eager leaves out.
    Spec: 6. Since: 0.2.
    """
    x, c = run.inputs
    torch._dynamo.reset()
    compiled = run.ask("torch.compile", lambda: torch.compile(run.block, backend="aot_eager", dynamic=False))
    for n in (run.case.B, run.case.B - 1):
        part = [v[:n] for v in c]
        answer = lambda n=n, part=part: run.target.run(compiled, x[:n], part, run.rev)  # noqa: E731
        for y, logdet in _asked(run, "the compiled pass", answer):
            run.near(run.want.out[:n], y, f"the compiled output of {n} samples")
            run.near(run.want.logdet[:n], logdet, f"the compiled log-det of {n} samples", scale=scale_of(run))
    torch._dynamo.reset()


@law(
    "vmap(f)(x) = f(x) over the samples",
    broken_by="added-into-an-unbatched-tensor",
    regimes=("rank-0", "conditions-1"),
    fix=SMALL,
    precisions=("float32",),
    needs=("func",),
    rows=12,
)
def mapped_over_samples(run: Run) -> None:
    """The pass of one sample, mapped over samples by torch.func.vmap, gives the result of the batch.

    Bound: the error of the pass.
    Sees: in-place operations on tensors of its own, functions that vmap has no rule for.
    Blind to: maps over parameters.
    Spec: 6. Since: 0.2.
    """
    block = run.block

    def one(x: Tensor, *c: Tensor) -> tuple[Tensor, Tensor]:
        y, logdet = run.target.run(block, x[None], [v[None] for v in c], run.rev)
        return y[0], logdet[0]

    x, c = run.inputs
    for y, logdet in _asked(run, "vmap of the pass", lambda: torch.func.vmap(one)(x, *c)):
        run.near(run.want.out, y, "the output under vmap")
        run.near(run.want.logdet, logdet, "the log-det under vmap", scale=scale_of(run))


@law(
    "jacrev(f)(x) = ∂y/∂x",
    broken_by="backward-adds-into-an-unbatched-tensor",
    regimes=("rank-0", "conditions-1"),
    fix={**SMALL, "B": 1, "max_CN": 12},
    precisions=("float32",),
    needs=("func", "gradient"),
    rows=12,
)
def jacrev_is_the_jacobian(run: Run) -> None:
    """torch.func.jacrev gives the Jacobian.

    Bound: the error of each derivative.
    Sees: a backward that can't be mapped over rows.
    Blind to: second derivatives.
    Spec: 6. Since: 0.2.
    """
    block, (x, c) = run.block, run.inputs
    f = lambda x: run.target.run(block, x, list(c), run.rev)[0]  # noqa: E731
    _, want, error = jacobians(run)
    for J in _asked(run, "jacrev of the pass", lambda: torch.func.jacrev(f)(x)):
        run.within(want[0], J.reshape(want[0].shape), error[0], "∂y/∂x by jacrev", float(abs(want).max()))


@law(
    "∂(Σ v ∂(Σ gy·y)/∂x)/∂(s, a): Σ v g_x σ'/σ and Σ v g_x ∂l/∂a",
    broken_by=("backward-differentiable-once", "backward-cut-off-from-its-factors"),
    directions=("forward",),
    regimes=("rank-0", "rank-2", "soft", "sigmoid", "softplus", "exp"),
    fix=BILINEAR,
    precisions=("float32",),
    needs=("double-backward", "gradient", "state"),
    rows=16,
)
def second_backward_is_right(run: Run) -> None:
    """The gradient of a gradient is right, by the scale and by the coefficients of a constant subnet.

    Bound: twice the error of the gradient by x, carried through σ'/σ and ∂l/∂a, as factors meet in another order.
    Sees: a backward that can't be differentiated, or that is cut off from what it multiplies by.
    Blind to: second derivatives through the subnet's input, and the reverse pass.
    Spec: 6. Since: 0.2.
    """
    spec, one = run.spec, run.want
    v = run.case.x
    state = run.ask("the state", lambda: run.target.state(run.block))
    names = ("global_scale", "subnet.coefficients")
    x = run.inputs[0].detach().requires_grad_()
    y = run.go(x).y

    def twice() -> tuple[Tensor | None, ...]:
        g = torch.autograd.grad(y, x, run.case.gy.to(run.dtype).to(run.device), create_graph=True)[0]
        by = (v.to(run.dtype).to(run.device) * g).sum()
        return torch.autograd.grad(by, [state[name] for name in names], allow_unused=True)

    g_x = run.wanted.gradients(False, "output")["x"]
    own = exact(v, g_x.arith)
    _, active = split(spec, own * g_x)
    by_a = coefficients_pullback(spec, active, 0 * active, one.tanh)
    want = (
        channel_dot(spec, own, g_x) / one.sigma * one.dsigma,
        torch.sum(by_a, dim=(0, *range(2, run.case.x.ndim))),
    )
    for found in _asked(run, "a second backward", twice):
        for name, bounded, got in zip(names, want, found, strict=True):
            scale = float(abs(bounded.value).max())
            run.within(bounded.value, got, 2 * run.bound(bounded), f"the second gradient by {name}", scale)


@law(
    "∂(Σ_k ∂(Σ gy·y + Σ gj·logdet)/∂bias_k)/∂(bias, x): for l = α tanh(k) both l'² and l'' count",
    broken_by=("second-backward-takes-the-clamp-as-straight", "reverse-backward-cut-off-from-its-factors"),
    regimes=("rank-0", "rank-2", "soft", "sigmoid", "softplus", "exp", "clamp-curved"),
    fix=CURVED,
    precisions=("float32",),
    needs=("double-backward", "gradient", "state"),
    rows=16,
)
def second_backward_is_curved(run: Run) -> None:
    """The gradient by the log-scale's coefficients, differentiated once more by them and through the subnet's input.

    Bound: twice the error of the formula by hand, r l'² ± r l'' ± gj l'' with r = gu q exp(l), in reverse
    gu (q − t) exp(−l), carried through the subnet's weights, as factors meet in another order.
    Sees: a backward that takes the clamp's slope as constant, or what the subnet answered as given.
    Blind to: GIN, reflections, reverse permutation, subnets of several layers.
    Spec: 2, 6. Since: 0.2.
    """
    state = run.ask("the state", lambda: run.target.state(run.block))
    bias = state["subnet.bias"]
    x = run.inputs[0].detach().requires_grad_()
    got = run.go(x)
    gy, gj = (g.to(run.dtype).to(run.device) for g in (run.case.gy, run.case.gj))

    def twice() -> tuple[Tensor | None, ...]:
        loss = (gy * got.y).sum() + (gj * got.logdet).sum()
        by_k = torch.autograd.grad(loss, bias, create_graph=True)[0][: run.spec.A].sum()
        return torch.autograd.grad(by_k, [bias, x], allow_unused=True)

    want = _curvature(run)
    for found in _asked(run, "a second backward", twice):
        for (name, bounded), value in zip(want.items(), found, strict=True):
            scale = float(abs(bounded.value).max()) or float(bounded.size.max())
            run.within(bounded.value, value, 2 * run.bound(bounded), f"the second gradient by {name}", scale)


def _curvature(run: Run) -> dict[str, Any]:
    """∂Φ/∂bias and ∂Φ/∂x of Φ = Σ_k ∂F/∂bias_k, F = Σ gy·y + Σ gj·logdet, by hand; k the log-scale's coefficients."""
    spec, one, rev = run.spec, run.want, run.rev
    gy, gj = exact(run.case.gy, one.out.arith), exact(run.case.gj, one.out.arith)
    _, gu = split(spec, gy if rev else scaled(one.sigma, mix(one.W_inv, gy)))  # type: ignore[arg-type]
    gq = gu * one.E  # gradient by q
    r = gu * ((one.d if rev else one.q) * one.E)
    column = gj.reshape(-1, *(1,) * (run.case.x.ndim - 1))
    tenth = 1 if spec.dialect is Dialect.DOCUMENTED else 10
    inside = tenth * (spec.affine_clamping if spec.dialect is Dialect.FREIA_MAIN else 1)  # tanh(a / inside)
    slope = lambda g: coefficients_pullback(spec, g, g, one.tanh)[:, : spec.A]  # noqa: E731 (g · l')
    bend = lambda g: -2 * (slope(g) * one.tanh) / inside  # noqa: E731 (g · l'')
    if rev:  # F holds (q − t) exp(−l) and −Σ l
        by_k, by_q, by_t = slope(slope(r)) - bend(r + column), -slope(gq), slope(gq)
    else:
        by_k, by_q, by_t = slope(slope(r)) + bend(r + column), slope(gq), 0 * gq
    by_a = torch.cat([by_k, by_t / tenth], 1)
    g_seen, by_parameters = reference_block(run.case).subnet.pullback(one.seen, by_a)  # type: ignore[operator]
    gz = join(spec, g_seen[:, : spec.P], by_q)
    return {"bias": by_parameters["bias"], "x": mix(one.W, gz / one.sigma) if rev else gz}
