"""Gradients of output and log-det, each alone and together."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from flowref.bounds import FLOAT32
from flowref.cases.layouts import lay_out
from flowref.laws.registry import EDGES, LARGE, MANY, law
from flowref.laws.run import KINDS, THREADS, TURNS, Answer, Run, TargetRaised, threads
from flowref.laws.spread import SMALL, least, poisoned

NEEDS = ("gradient",)
# A subnet whose last operation keeps its result is one law's own, so that a block that overwrites the answer, and
# can't run backward then, is one finding.
FREE = {"subnet": ("linear", "network", "convolutional", "constant", "zero")}


def _gradients(run: Run, wanted: Callable[[str], bool]) -> None:
    for kind in KINDS:
        want = run.wanted.gradients(run.rev, kind)
        got = run.gradients(kind)
        for name in filter(wanted, want):
            source = "output and log-det" if kind == "both" else "the log-det" if kind == "logdet" else "the output"
            run.near(want[name], got.get(name), f"the gradient of {source} by {name}")


@law(
    "∂(Σ gy·y + Σ gj·logdet)/∂x, and each term alone",
    broken_by=("logdet-detached-from-input", "active-half-detached"),
    regimes=("rank-0", "rank-2", "gin", "soft", "reverse-permutation", "conditions-1", "clamp-curved"),
    fix=FREE,
    needs=NEEDS,
    edges=EDGES,
    half=True,
)  # fmt: skip
def by_input(run: Run) -> None:
    """Gradients by the input are the reference's.

    Bound: the gradient by hand, carried through the same rules; gy and gj dense and different in every sample.
    Sees: a path that is detached, doubled or missing, a formula of backward that is not forward's derivative.
    Blind to: the parameters' gradients; incoming gradients of special layouts.
    Spec: 2. Since: 0.1.
    """
    _gradients(run, lambda name: name == "x")


@law(
    "∂(Σ gy·y + Σ gj·logdet)/∂c_k, and each term alone",
    broken_by=("conditions-detached", "conditions-detached-at-alpha-0"),
    regimes=("conditions-1", "conditions-2", "rank-0", "rank-1"),
    fix={"conditions": ((1,), (2, 1), (3, 1, 2)), "subnet": ("linear", "network", "convolutional")},
    needs=NEEDS,
    edges=("alpha-0",),
)
def by_conditions(run: Run) -> None:
    """Gradients by the conditions are the reference's.

    Bound: as of `by-input`.
    Sees: conditions that are detached, swapped or cut differently in backward.
    Blind to: blocks without conditions.
    Spec: 2. Since: 0.1.
    """
    _gradients(run, lambda name: name.startswith("c"))


@law(
    "∂(Σ gy·y + Σ gj·logdet)/∂(s, o, v_k), and each term alone",
    broken_by=("offset-detached-in-reverse", "sigma-detached-in-logdet", "reflections-of-a-hard-w-take-no-gradient"),
    regimes=("rank-0", "rank-1", "sigmoid", "softplus", "exp", "gin", "reflections-1"),
    fix={**FREE, "reflections": (0, 0, 1, 2, 3), "B": (1, 2, 3), "max_CN": 64},
    needs=(*NEEDS, "state"),
    edges=EDGES,
)
def by_parameters(run: Run) -> None:
    """Gradients by scale, offset and reflections are the reference's.

    Bound: as of `by-input`; sums over batch and pixels as section 6 grants.
    Sees: a parameter that one direction leaves out of the graph, a broadcast gradient that is not reduced.
    Blind to: the subnet's parameters.
    Spec: 2, 5. Since: 0.1.
    """
    _gradients(run, lambda name: name in ("global_scale", "global_offset", "vk_householder"))


@law(
    "∂(Σ gy·y + Σ gj·logdet)/∂θ of the subnet, and each term alone",
    broken_by="shift-detached",
    regimes=("rank-0", "rank-2", "subnet-constant", "subnet-linear", "subnet-network", "subnet-convolutional"),
    fix={"subnet": ("constant", "linear", "network", "convolutional")},
    needs=(*NEEDS, "state"),
    edges=("channels-1", "reflections-hard", "alpha-0"),
)
def by_subnet(run: Run) -> None:
    """Gradients by the subnet's parameters are the reference's.

    Bound: as of `by-input`, through the probe's own gradient by hand.
    Sees: a half of the answer that backward leaves out, the derivative of another clamp.
    Blind to: the block's own parameters.
    Spec: 2. Since: 0.1.
    """
    _gradients(run, lambda name: name.startswith("subnet."))


@law(
    "∂(Σ gy·y + Σ gj·logdet)/∂(x, c_k, s, o, θ) for a subnet that ends in tanh",
    broken_by="answer-scaled-in-place",
    regimes=("subnet-activation", "gin", "rank-0", "rank-2"),
    fix={"subnet": "activation", "reflections": 0},
    needs=NEEDS,
)
def runs_through_a_kept_answer(run: Run) -> None:
    """Backward runs where the subnet's last operation keeps its result, as tanh, sigmoid and ReLU do.

    Bound: as of `by-input`.
    Sees: an answer that is changed in place, which backward then refuses or, worse, uses.
    Blind to: subnets that keep nothing (`by-input` and its neighbours draw those).
    Spec: 6. Since: 0.1.
    """
    _gradients(run, lambda name: True)


@law(
    "∂(Σ gy·y + Σ gj·logdet)/∂(x, c_k, s, o, v_k) at the sizes of `reference.large-sizes-equal-reference`",
    broken_by=(
        "input-gradient-forgotten-past-2048-pixels",
        "input-gradient-forgotten-past-524288-numbers",
        "input-gradient-forgotten-past-64-channels-and-64-pixels",
    ),
    own=LARGE,
    precisions=("float32",),
    needs=(*NEEDS, "state"),
)
def at_large_sizes(run: Run) -> None:
    """At sizes past any tile of a kernel, and past the limits of a grid, gradients are the reference's.

    Bound: as of `by-input`.
    Sees: a backward kernel whose tiles, grid or turns end before the samples, channels or pixels do.
    Blind to: outputs (`reference.large-sizes-equal-reference`); more than 2³¹ elements.
    Spec: 2. Since: 0.2.
    """
    want, got = run.wanted.gradients(run.rev, "both"), run.gradients("both")
    for name in want:
        run.near(want[name], got.get(name), f"the gradient by {name}")


@law(
    "∂(Σ gy·y + Σ gj·logdet)/∂(x, c_k, s, o, v_k) on several threads",
    broken_by="input-gradient-forgotten-behind-equal-shares-of-threads",
    own=MANY,
    precisions=("float32",),
    devices=("cpu",),
    needs=(*NEEDS, "state"),
)
def on_several_threads(run: Run) -> None:
    """Where torch has several threads, gradients are the reference's too.

    Bound: as of `by-input`.
    Sees: a backward whose work is cut up among threads, some of it left to none or done by two; sums over samples that
        threads take from each other.
    Blind to: outputs (`reference.several-threads-equal-reference`).
    Spec: 2, 6. Since: 0.2.
    """
    want = run.wanted.gradients(run.rev, "both")
    for _ in range(TURNS):
        with threads(THREADS):
            got = run.gradients("both")
        for name in want:
            run.near(want[name], got.get(name), f"the gradient by {name} on several threads")


# What comes in, and what goes where.

FEW = {**FREE, "B": (2, 3), "C": (2, 3, 4, 5), "max_CN": 48, "reflections": (0, 0, 2), "alpha": (1.0, 2.0)}


def _leaves(run: Run) -> tuple[Tensor, list[Tensor]]:
    """The case's x and conditions, each asking for its gradient."""
    x, c = run.inputs
    return x.detach().requires_grad_(), [v.detach().requires_grad_() for v in c]


def _named(x: Tensor, c: Sequence[Tensor]) -> dict[str, Tensor]:
    """Inputs by the names that the reference's gradients have."""
    return {"x": x, **{f"c{k}": v for k, v in enumerate(c)}}


def _trained(run: Run) -> dict[str, Tensor]:
    """The block's parameters, the subnet's included, that ask for a gradient."""
    state = run.ask("the state", lambda: run.target.state(run.block))
    return {name: v for name, v in state.items() if v.requires_grad}


def _pulled_back(run: Run, gy: Tensor, gj: Tensor, what: str) -> None:
    """Gradients by x and conditions for incoming gradients that are handed over as they lie."""
    x, c = _leaves(run)
    got = run.go(x, c)
    run.equal((x.shape, (len(x),)), (got.y.shape, got.logdet.shape), "shapes of output and log-det")
    pairs = [(got.y, gy), *([(got.logdet, gj)] if got.logdet.requires_grad else [])]  # under GIN it may be a constant
    outputs, incoming = zip(*pairs, strict=True)
    found = run.ask("backward", lambda: torch.autograd.grad(outputs, (x, *c), incoming, allow_unused=True))
    want = run.wanted.gradients(run.rev, "both")
    for name, g in zip(("x", *(f"c{k}" for k in range(len(c)))), found, strict=True):
        run.near(want[name], g, f"the gradient by {name} for {what}")


@law(
    "backward does not depend on the strides of gy and gj",
    broken_by=("backward-assumes-contiguous-gradients", "logdet-gradient-assumed-contiguous",
               "gradient-read-from-the-start-of-its-storage"),
    regimes=("rank-0", "rank-2", "gin"),
    fix=FEW,
    precisions=("float32",),
    needs=(*NEEDS, "layout"),
    rows=12,
)  # fmt: skip
def strides_of_incoming_gradients_are_followed(run: Run) -> None:
    """Incoming gradients may lie in any layout, as slices of a larger tensor do.

    Bound: as of `by-input`; what lies around the gradients is NaN.
    Sees: an incoming gradient that is read as if it were contiguous, as it is after a concatenation or a transposition.
    Blind to: gradients of stride 0.
    Spec: 6. Since: 0.2.
    """
    gy, gj = (g.to(run.dtype).to(run.device) for g in (run.case.gy, run.case.gj))
    for layout in ("strided", "transposed", "channels-last", "offset"):
        beside = lay_out(gj, layout if layout in ("strided", "offset") else "strided")
        _pulled_back(run, lay_out(gy, layout), beside, f"{layout} incoming gradients")


@law(
    "∂(a Σ y + b Σ logdet)/∂x, and ∂(Σ_b a_b Σ y_b + b Σ logdet)/∂x, with incoming gradients of stride 0",
    broken_by=("expanded-gradient-read-as-a-row", "logdet-gradient-of-a-sum-read-as-a-row"),
    regimes=("rank-0", "rank-2", "gin"),
    fix=FEW,
    precisions=("float32",),
    needs=(*NEEDS, "layout"),
    rows=12,
)
def expanded_incoming_gradients_are_followed(run: Run) -> None:
    """Incoming gradients may be one number expanded, as that of a sum is.

    Bound: as of `by-input`.
    Sees: a whole row that is read where one element lies, a sum's gradient taken for one of all samples.
    Blind to: gradients that are dense.
    Spec: 6. Since: 0.2.
    """
    case = run.case
    each = case.gj.reshape(-1, *(1,) * (case.gy.ndim - 1))  # differs by sample
    for what, g in (("a sum", case.gj[:1].reshape((1,) * case.gy.ndim)), ("weighted samples", each)):
        gy, gj = g.expand(case.gy.shape), case.gj[:1].expand(case.gj.shape)
        one = run.on(replace(case, gy=gy.clone(), gj=gj.clone(), recipe=None))
        small, single = (v.to(run.dtype).to(run.device) for v in (g, case.gj[:1]))
        _pulled_back(one, small.expand(case.gy.shape), single.expand(case.gj.shape), f"the gradient of {what}")


def _loss(run: Run, got: Answer) -> Tensor:
    gy, gj = (g.to(run.dtype).to(run.device) for g in (run.case.gy, run.case.gj))
    return (gy * got.y).sum() + (gj * got.logdet).sum()


def _back(
    run: Run, loss: Tensor, leaves: list[Tensor], what: str = "backward", again: bool = False
) -> Sequence[Tensor | None]:
    """Gradients of a loss, perhaps to be differentiated again; its graph is kept."""
    call = partial(torch.autograd.grad, retain_graph=True, create_graph=again, allow_unused=True)
    return run.ask(what, lambda: call(loss, leaves))


@law(
    "two backward calls leave 2 ∂L/∂(x, c, s, o, v, θ) in .grad",
    broken_by=("offset-gradient-accumulated-twice", "pass-clears-gradients"),
    regimes=("rank-0", "rank-2", "conditions-1"),
    fix=FEW,
    precisions=("float32",),
    needs=(*NEEDS, "state"),
    rows=12,
)
def accumulates_once(run: Run) -> None:
    """Two passes and two backward calls add each gradient up once a call.

    Bound: twice that of one gradient, and the rounding of the sum.
    Sees: a gradient that is also added by hand, overwritten, or kept from the call before.
    Blind to: gradients that are asked for by `torch.autograd.grad` alone.
    Spec: 2. Since: 0.2.
    """
    x, c = _leaves(run)
    leaves = _named(x, c) | _trained(run)
    for _ in range(2):
        loss = _loss(run, run.go(x, c))
        run.ask("backward", loss.backward)
    want = run.wanted.gradients(run.rev, "both")
    for name in want:
        twice = 2 * want[name].value
        scale = float(abs(twice).max()) or float(want[name].size.max())
        bound = 2 * run.bound(want[name]) + FLOAT32.u * (abs(twice) + 2 * run.bound(want[name]))
        held = leaves[name].grad if name in leaves else None
        run.within(twice, held, bound, f"what two backward calls add up for {name}", scale)


@law(
    "∂L/∂v where v alone, of x, c_k, s, o, v_k and θ, asks for its gradient",
    broken_by=("scale-detached-where-x-needs-no-gradient", "frozen-block-passes-no-gradient-on"),
    regimes=("rank-0", "rank-2", "gin", "conditions-1", "reflections-even"),
    fix=FEW,
    precisions=("float32",),
    needs=(*NEEDS, "state"),
    rows=12,
)
def each_alone_is_right(run: Run) -> None:
    """The gradient by one input or parameter does not depend on whether others ask for theirs.

    Bound: as of `by-input`.
    Sees: a path that backward leaves out where something else is frozen: data that needs no gradient before the first
        block of a flow, a frozen block in front of others that learn.
    Blind to: gradients that are wrong in any company (`by-input` and its neighbours).
    Spec: 2. Since: 0.2.
    """
    given, trained = _named(*run.inputs), _trained(run)
    want = run.wanted.gradients(run.rev, "both")
    try:
        for name in (name for name in want if name in given or name in trained):
            held = {other: v.detach().requires_grad_(other == name) for other, v in given.items()}
            for other, v in trained.items():
                v.requires_grad_(other == name)
            loss = _loss(run, run.go(held["x"], [v for key, v in held.items() if key != "x"]))
            found = _back(run, loss, [{**held, **trained}[name]])[0] if loss.requires_grad else None
            run.near(want[name], found, f"the gradient by {name}, where nothing else asks for one")
    finally:
        for v in trained.values():
            v.requires_grad_()


@law(
    "∂L/∂(x, c_k, s, o, v_k, θ) once more through a graph that was kept",
    broken_by="second-backward-of-a-graph-doubled",
    regimes=("rank-0", "rank-2", "gin", "reflections-even"),
    fix=FEW,
    precisions=("float32",),
    needs=(*NEEDS, "state"),
    rows=12,
)
def a_kept_graph_gives_it_again(run: Run) -> None:
    """Backward runs twice through one graph, with retain_graph, and gives the reference's gradients both times.

    Bound: as of `by-input`.
    Sees: a backward that overwrites or frees what it needs, or counts its calls.
    Blind to: the first run of it (`by-input` and its neighbours).
    Spec: 2. Since: 0.2.
    """
    x, c = _leaves(run)
    leaves = _named(x, c) | _trained(run)
    loss, want = _loss(run, run.go(x, c)), run.wanted.gradients(run.rev, "both")
    for turn in ("first", "second"):
        found = _back(run, loss, list(leaves.values()), f"the {turn} backward through one graph")
        for name, g in zip(leaves, found, strict=True):
            if turn == "second" and name in want:
                run.near(want[name], g, f"the gradient by {name} of the second backward through one graph")


@law(
    "∂L/∂(x, c_k, s, o, v_k) at the state that the pass had, or RuntimeError, where an entry is changed in place since",
    broken_by="w-read-as-it-stands-in-backward",
    regimes=("rank-0", "rank-2", "gin", "soft", "reverse-permutation", "reflections-even"),
    fix={**FEW, "soft": (True, False)},
    precisions=("float32",),
    needs=(*NEEDS, "state"),
    edges=("reflections-hard",),
    rows=16,
)
def is_of_the_state_that_the_pass_had(run: Run) -> None:
    """What is written to s, o, W or v_k between a pass and backward is not taken for what the pass had.

    As autograd does for what it saved, backward may raise RuntimeError instead; each entry is changed alone. Asked for
    plainly and, from the same graph, as what is to be differentiated again.

    Bound: as of `by-input`.
    Sees: a backward that reads a buffer or a parameter anew: wrong, in silence, where a checkpoint is loaded or another
        optimizer steps in between.
    Blind to: a change through `.data`, which autograd does not see either; the subnet's parameters.
    Spec: 6. Since: 0.2.
    """
    want = run.wanted.gradients(run.rev, "both")
    state = run.ask("the state", lambda: run.target.state(run.block))
    for name in (name for name in state if not name.startswith("subnet.")):
        x, c = _leaves(run)
        leaves = _named(x, c) | _trained(run)
        loss, before = _loss(run, run.go(x, c)), state[name].detach().clone()
        with torch.no_grad():
            state[name].copy_(before.flip(0) if name.startswith("w_") else before + 1)
        try:
            for again in (False, True):
                try:
                    found = _back(run, loss, list(leaves.values()), f"backward, {name} changed since the pass", again)
                except TargetRaised as refused:
                    if not (again or refused.details["exception"].startswith("RuntimeError")):
                        raise
                    continue
                for leaf, g in zip(leaves, found, strict=True):
                    if leaf in want:
                        how = "with create_graph, " if again else ""
                        run.near(want[leaf], g, f"the gradient by {leaf}, {how}{name} changed since the pass")
        finally:
            with torch.no_grad():
                state[name].copy_(before)


@law(
    "∂L/∂(x, c_k, s, o, v_k) of what the pass gave, or RuntimeError, where y or logdet is overwritten since",
    broken_by="gradient-masked-by-the-output-as-it-stands",
    regimes=("rank-0", "rank-2", "gin", "soft", "reverse-permutation", "reflections-even"),
    fix={**FEW, "soft": (True, False)},
    precisions=("float32",),
    needs=NEEDS,
    edges=("reflections-hard",),
    rows=16,
)
def is_of_the_outputs_that_the_pass_gave(run: Run) -> None:
    """NaN written to y or to logdet, in place, between a pass and backward reaches no gradient.

    As autograd does for what it saved, backward may raise RuntimeError instead; each output is overwritten alone.

    Bound: as of `by-input`.
    Sees: a backward that reads what the pass gave from memory that is the caller's by then: wrong, in silence, behind
        an operator that works in place.
    Blind to: a second derivative; an output that backward reads without regard to NaN.
    Spec: 6. Since: 0.2.
    """
    want = run.wanted.gradients(run.rev, "both")
    for name in ("output", "log-det"):
        x, c = _leaves(run)
        leaves = _named(x, c) | _trained(run)
        got = run.go(x, c)
        loss, given = _loss(run, got), (got.y if name == "output" else got.logdet).detach()
        for axis in (axis for axis, step in enumerate(given.stride()) if step == 0):
            given = given.narrow(axis, 0, 1)  # of an expanded axis all is one place
        given.fill_(torch.nan)
        try:
            found = _back(run, loss, list(leaves.values()), f"backward, the {name} overwritten since the pass")
        except TargetRaised as refused:
            if not refused.details["exception"].startswith("RuntimeError"):
                raise
            continue
        for leaf, g in zip(leaves, found, strict=True):
            if leaf in want:
                run.near(want[leaf], g, f"the gradient by {leaf}, the {name} overwritten since the pass")


@law(
    "y and logdet need no gradient where neither inputs nor parameters do",
    broken_by=("frozen-scale-thawed", "input-made-to-need-a-gradient"),
    regimes=("rank-0", "reflections-even", "conditions-1"),
    fix=FEW,
    precisions=("float32",),
    needs=(*NEEDS, "state"),
    rows=8,
)
def frozen_stays_frozen(run: Run) -> None:
    """A frozen block on inputs without gradient makes no graph, and leaves frozen what was.

    Bound: none.
    Sees: a parameter or input that the pass makes require a gradient again.
    Blind to: values.
    Spec: 6. Since: 0.2.
    """
    block = run.build()
    state = run.ask("the state", lambda: run.target.state(block))
    for v in state.values():
        v.requires_grad_(False)
    x, c = run.inputs
    got = run.go(x, c, block=block)
    wakes = [name for name, v in {"x": x, **state, "output": got.y, "log-det": got.logdet}.items() if v.requires_grad]
    run.equal([], wakes, "what requires a gradient after a pass of a frozen block")


@law(
    "under no_grad neither y nor logdet requires a gradient",
    broken_by="graph-made-under-no-grad",
    regimes=("rank-0", "reflections-even"),
    fix=FEW,
    precisions=("float32",),
    needs=NEEDS,
    rows=8,
)
def no_graph_under_no_grad(run: Run) -> None:
    """Under no_grad outputs need no gradient, whatever inputs and parameters do.

    Bound: none.
    Sees: a pass that switches gradients on for itself.
    Blind to: values.
    Spec: 6. Since: 0.2.
    """
    x, c = _leaves(run)
    with torch.no_grad():
        got = run.go(x, c)
    run.equal((False, False), (got.y.requires_grad, got.logdet.requires_grad), "whether outputs require a gradient")


@law(
    "∂(Σ gy·y) and ∂(Σ gj·logdet) are not finite where autograd's of the map aren't, for an x[0] with a NaN in it",
    broken_by="gradient-that-is-no-number-becomes-0",
    regimes=("rank-0", "rank-2", "gin", "soft", "reflections-1", "conditions-1"),
    fix={**SMALL, **FREE},
    needs=NEEDS,
    rows=10,
)
def not_finite_reaches_its_gradients(run: Run) -> None:
    """What is not finite in an input is not finite in all gradients that depend on it.

    Bound: none; the reference says where, by autograd, products taken as a gather takes them.
    Sees: gradients that are replaced, clamped or skipped where they are not finite, so that training goes on.
    Blind to: gradients of finite batches.
    Spec: 6. Since: 0.2.
    """
    case = replace(run.case, x=poisoned(run.case.x, int(run.case.id[:8], 16), (torch.nan,)), recipe=None)
    for kind in ("output", "logdet"):
        _, _, want = least(case, run.rev, kind)
        got = run.on(case).gradients(kind)
        if kind == "logdet" and run.spec.gin_block:
            continue
        for name, value in want.items():
            if value is not None and not value.isfinite().all():
                run.reaches(value, got.get(name), f"the gradient of the {kind} by {name}")
