"""Gradients of output and log-det, each alone and together."""

from collections.abc import Callable

from flowref.laws.registry import EDGES, law
from flowref.laws.run import KINDS, Run

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
    broken_by="conditions-detached",
    regimes=("conditions-1", "conditions-2", "rank-0", "rank-1"),
    fix={"conditions": ((1,), (2, 1), (3, 1, 2)), "subnet": ("linear", "network", "convolutional")},
    needs=NEEDS,
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
    broken_by=("offset-detached-in-reverse", "sigma-detached-in-logdet"),
    regimes=("rank-0", "rank-1", "sigmoid", "softplus", "exp", "gin", "reflections-1"),
    fix={**FREE, "reflections": (0, 0, 1, 2, 3), "B": (1, 2, 3), "max_CN": 64},
    needs=(*NEEDS, "state"),
    edges=("batch-0", "channels-1"),
)
def by_parameters(run: Run) -> None:
    """Gradients by scale, offset and reflections are the reference's.

    Bound: as of `by-input`; sums over batch and pixels as spec 6 grants.
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
