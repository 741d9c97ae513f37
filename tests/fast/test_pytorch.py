"""What of PyTorch works on a block: compile, torch.func, autocast, derivatives, export, and what a pass keeps.

Values are held by the suite's laws, of targets that run the block in another way; bits where bits are promised.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, grad, jacfwd, jacrev, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

from flowref.cases import Recipe
from flowref.fast import AllInOneBlock
from flowref.laws import registry
from flowref.laws.logdet import jacobians, scale_of
from flowref.laws.run import Run
from flowref.targets import Module

MIXINGS = {
    "hard": {},
    "soft": {"soft": True, "reverse_permutation": True},
    "reflections": {"soft": True, "reflections": 3},
    "gin": {"gin": True},
}
FLAGS = {
    "hard": {},
    "soft": {"permute_soft": True, "reverse_permutation": True},
    "reflections": {"permute_soft": True, "learned_householder_permutation": 3},
    "gin": {"gin_block": True},
}
VALUES = ("reference.output-equals-reference", "logdet.equals-reference")
GRADIENTS = ("gradient.by-input", "gradient.by-conditions", "gradient.by-parameters", "gradient.by-subnet")
mixings = pytest.mark.parametrize("mixing", MIXINGS)
directions = pytest.mark.parametrize("direction", ("forward", "reverse"))


@pytest.fixture(params=["numba", "eager"])
def form(request, monkeypatch):
    """Both forms of the block."""
    if request.param == "numba":
        pytest.importorskip("numba")
    monkeypatch.setenv("FLOWREF_FAST", request.param)
    return request.param


def case_of(mixing, **sizes):
    return Recipe(**{"B": 3, "C": 5, "S": (3,), "conditions": (2,), **MIXINGS[mixing], **sizes}).case()


def run_of(mixing, direction, target=None, **sizes):
    return Run(case_of(mixing, **sizes), target or Module(AllInOneBlock), "float32", direction)


def hold(run, laws):
    """Laws on one run, which keeps its block; each must have had something to decide."""
    for law in registry.all():
        if law.id in laws:
            law.body(run)
            laws = [other for other in laws if other != law.id]
    assert not laws
    assert run.meter.comparisons > run.meter.undecided


class Silent(Module):
    """The block, with a subnet that records nothing of its calls."""

    def __init__(self):
        super().__init__(AllInOneBlock)

    def build(self, *given):
        block = super().build(*given)
        block.subnet.forward = block.subnet.answer
        return block


# ---- torch.compile


class Compiled(Silent):
    """The block behind torch.compile."""

    def __init__(self, backend):
        super().__init__()
        self.backend = backend

    def call(self, block, x, c, rev, jac=True):
        return torch.compile(block, backend=self.backend, fullgraph=True, dynamic=False)(x, c, rev=rev, jac=jac)


@pytest.fixture
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@mixings
@directions
@pytest.mark.slow
def test_one_graph_holds_the_pass_and_its_gradient(fresh, mixing, direction):
    hold(run_of(mixing, direction, Compiled("aot_eager")), VALUES + GRADIENTS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_generated_code_computes_the_same(fresh):
    hold(run_of("hard", "forward", Compiled("inductor"), conditions=()), (*VALUES, "gradient.by-input"))


def test_compiled_code_sees_every_w(fresh, block):
    """It looks at W anew each time, as the pass does that is not compiled: a permutation, another one, and none.

    In float64, where both are of the same operators.
    """
    made, x = block((5, 3), dtype=torch.float64).requires_grad_(False), torch.randn(2, 5, 3, dtype=torch.float64)
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    for W in (made.w_perm.clone(), made.w_perm.roll(1, 0), block((5, 3), permute_soft=True).w_perm):
        made.w_perm.data.copy_(W)
        (want,), _ = made([x])
        (y,), _ = compiled([x])

        assert torch.equal(y, want)


def test_a_compiled_pass_gathers_by_a_permutation(fresh, block):
    counted = CompileCounterWithBackend("eager")
    torch.compile(block((5, 3)), backend=counted, fullgraph=True)([torch.randn(2, 5, 3)])
    (graph,) = counted.graphs

    assert [node.target for node in graph.graph.nodes].count(torch.ops.flowref.mix.default) == 1


@pytest.mark.parametrize("by", (jacrev, jacfwd, vmap))
def test_transforms_are_compiled(fresh, by):
    run = run_of("hard", "forward", Silent(), B=1, C=4, S=(2,), conditions=(), reverse_permutation=True)
    block, x = run.block, run.inputs[0][0]
    one = lambda x: run.target.run(block, x[None], [], run.rev)[0][0]  # noqa: E731
    _, J, error = jacobians(run)
    want, bound = (run.want.out.value, run.want.out.error) if by is vmap else (J[0], error[0])
    got = torch.compile(by(one), backend="aot_eager", fullgraph=True)(x[None] if by is vmap else x)

    run.within(want, got.reshape(want.shape), bound, by.__name__, float(abs(want).max()))


# ---- torch.func


@mixings
@directions
def test_samples_and_their_gradients_are_mapped(mixing, direction):
    """vmap of the pass, and of grad by all parameters, x and conditions, one sample at a time."""
    run = run_of(mixing, direction, Silent())
    block, (x, c) = run.block, run.inputs
    state = dict(block.named_parameters()), dict(block.named_buffers())
    gy, gj = run.case.gy.float(), run.case.gj.float()

    def passed(parameters, x, *c):
        (y,), logdet = functional_call(block, (parameters, state[1]), ((x[None],), [v[None] for v in c], run.rev))
        return y[0], logdet[0]

    def loss(parameters, x, c, gy, gj):
        y, logdet = passed(parameters, x, *c)
        return (gy * y).sum() + gj * logdet

    y, logdet = vmap(passed, (None, *[0] * (1 + len(c))))(state[0], x, *c)
    run.near(run.want.out, y, "the output under vmap")
    run.near(run.want.logdet, logdet, "the log-det under vmap", scale=scale_of(run))
    by_state, by_x, by_c = vmap(grad(loss, (0, 1, 2)), (None, 0, 0, 0, 0))(state[0], x, c, gy, gj)
    for b in range(run.case.B):
        cut = {name: getattr(run.case, name)[b : b + 1] for name in ("x", "gy", "gj")}
        one = run.on(replace(run.case, **cut, c=tuple(v[b : b + 1] for v in run.case.c), recipe=None))
        wanted = one.wanted.gradients(one.rev, "both")
        got = {"x": by_x[b][None], "c0": by_c[0][b][None]} | {name: g[b] for name, g in by_state.items()}
        assert got.keys() == wanted.keys()
        for name, want in wanted.items():
            one.near(want, got[name], f"the gradient of sample {b} by {name}")


@mixings
@directions
def test_jacobians_by_rows_and_by_columns(mixing, direction):
    run = run_of(mixing, direction, Silent(), B=1, C=4, S=(2,))
    block, (x, c) = run.block, run.inputs
    f = lambda x: run.target.run(block, x, list(c), run.rev)[0]  # noqa: E731
    _, want, error = jacobians(run)
    for by in (jacrev, jacfwd):
        run.within(want[0], by(f)(x).reshape(want[0].shape), error[0], by.__name__, float(abs(want).max()))


@mixings
def test_an_ensemble_is_mapped_over_its_states(mixing):
    runs = [run_of(mixing, "forward", Silent(), seed=k) for k in range(3)]
    parameters, buffers = stack_module_state([run.block for run in runs])
    x, c = runs[0].inputs
    one = lambda p, b: functional_call(runs[0].block, (p, b), ((x,), list(c)))  # noqa: E731
    (y,), logdet = vmap(one)(parameters, buffers)
    for k, run in enumerate(runs):
        run = run.on(replace(run.case, x=runs[0].case.x, c=runs[0].case.c, recipe=None))
        run.near(run.want.out, y[k], f"the output of member {k}")
        run.near(run.want.logdet, logdet[k], f"the log-det of member {k}", scale=scale_of(run))


# ---- derivatives


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("rev", (False, True))
def test_first_and_second_gradients_agree_with_differences(block, flags, rev):
    made = block((3, 2), (1,), dtype=torch.float64, **flags)
    names, values = zip(*made.named_parameters(), strict=True)

    def run(x, c, *values):
        (y,), logdet = functional_call(made, dict(zip(names, values, strict=True)), ([x], [c], rev))
        return y, logdet

    x, c = torch.randn(2, 3, 2), torch.randn(2, 1, 2)
    arguments = [v.detach().double().requires_grad_() for v in (x, c, *values)]

    assert torch.autograd.gradcheck(run, arguments)
    assert torch.autograd.gradgradcheck(run, arguments, fast_mode=True)


@pytest.mark.parametrize("n", (0, 2))
@pytest.mark.parametrize("undo", (False, True))
@pytest.mark.parametrize("rev", (False, True))
def test_a_gradient_to_be_differentiated_is_of_the_permutation_that_the_pass_had(form, block, rev, undo, n):
    """A checkpoint may be loaded between the two: plain gradients, too, are of the state before."""
    made = block((6,), learned_householder_permutation=n, reverse_permutation=undo)
    x, w = torch.randn(3, 6, requires_grad=True), torch.arange(18.0).view(3, 6)
    (y,), _ = made([x], rev=rev)
    (plain,) = torch.autograd.grad((y * w).sum(), x, retain_graph=True)
    with torch.no_grad():
        for name, W in made.named_buffers(recurse=False):
            W.copy_(W.flip(0) if name != "w_perm_inv" else W.flip(1))
    (again,) = torch.autograd.grad((y * w).sum(), x, create_graph=True)
    torch.testing.assert_close(again, plain)


class Marked(torch.Tensor):
    """A tensor of a kind that no kernel reads."""


def test_a_gradient_of_another_kind_on_the_way_from_the_subnet_loses_no_other(form, block):
    class Hooked(nn.Linear):
        def forward(self, v):
            if v.requires_grad and self.hooked:
                v.register_hook(lambda g: g.as_subclass(Marked))
            return super().forward(v)

    made, x = block((4,), subnet=Hooked), torch.randn(3, 4, requires_grad=True)

    def gradients(hooked):
        made.subnet.hooked = hooked
        (y,), logdet = made([x])
        return torch.autograd.grad(y.square().sum() + logdet.sum(), [x, *made.parameters()])

    for got, want in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(got.as_subclass(torch.Tensor), want)


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_the_same_bits_twice_where_determinism_is_demanded(form, block, flags):
    made, x = block((6, 40, 40), **flags), torch.randn(4, 6, 40, 40)
    seen = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            given = x.clone().requires_grad_()
            (y,), logdet = made([given])
            own = [p for p in made.parameters() if p is not made.global_scale or not made.spec.gin_block]
            seen.append((y, logdet, *torch.autograd.grad(y.square().sum() + logdet.sum(), [given, *own])))
    finally:
        torch.use_deterministic_algorithms(False)

    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("rev", (False, True))
def test_checkpointing_changes_no_bit_of_a_gradient(form, block, flags, rev):
    made, x = block((6, 5), (2,), **flags), torch.randn(3, 6, 5, requires_grad=True)
    c, found = torch.randn(3, 2, 5, requires_grad=True), []
    leaves = [x, c, *(p for p in made.parameters() if p is not made.global_scale or not made.spec.gin_block)]
    for call in (made, lambda *given: checkpoint(made, *given, use_reentrant=False)):
        (y,), logdet = call((x,), [c], rev)
        found.append((y, logdet, *torch.autograd.grad(y.square().sum() + logdet.sum(), leaves)))

    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_nothing_is_saved_where_no_gradient_can_be_asked(form, block, flags):
    made, x, saved = block((6, 5), **flags), torch.randn(3, 6, 5), []
    with saved_tensors_hooks(lambda v: saved.append(v), lambda v: v):
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                for rev in (False, True):
                    (y,), logdet = made([x], rev=rev)
                    assert y.grad_fn is None and logdet.grad_fn is None
        assert not saved
        made([x])
    assert saved


@pytest.mark.parametrize("dims", ((5,), (24,), (5, 3), (24, 5, 5)), ids=str)
@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("rev", (False, True))
@pytest.mark.parametrize("recorded", (False, True))
def test_outputs_can_be_changed_in_place(form, block, dims, flags, rev, recorded):
    """As by what stands behind the block, which may be trained whether the block is or not."""
    made, x, found = block(dims, **flags), torch.randn(20, *dims), []
    for times in (torch.Tensor.mul, torch.Tensor.mul_):
        given, factor = x.clone().requires_grad_(), torch.tensor(2.0, requires_grad=True)
        with torch.set_grad_enabled(recorded):
            (y,), logdet = made([given], rev=rev)
        loss = times(y, factor).square().sum() + times(logdet, factor).square().sum()
        found.append(torch.autograd.grad(loss, [given, factor] if recorded else [factor]))

    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("rev", (False, True))
@pytest.mark.parametrize("again", (False, True))
def test_conditions_can_be_changed_in_place(form, block, flags, rev, again):
    """As a buffer that is filled anew for the next pass: no gradient needs the values that it had."""
    made, x, c = block((6,), (2, 3), **flags), torch.randn(4, 6), [torch.randn(4, k) for k in (2, 3)]
    found = []
    for filled in (False, True):
        given, leaves = x.clone().requires_grad_(), [v.clone().requires_grad_() for v in c]
        buffers = [v.clone() for v in leaves]
        (y,), logdet = made([given], buffers, rev=rev)
        if filled:
            for v in buffers:
                v.detach().zero_()
        loss, held = y.square().sum() + logdet.sum(), [given, *leaves, *made.parameters()]
        found.append(torch.autograd.grad(loss, held, create_graph=again, allow_unused=True))

    used = [(a, b) for a, b in zip(*found, strict=True) if a is not None]
    assert len(used) > 5 and all(torch.equal(a, b) for a, b in used)


# ---- autocast


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("rev", (False, True))
def test_under_autocast_the_subnet_alone_runs_low(form, block, flags, rev):
    """With the answer that it gave there, float32 gives the same bits, and the same gradients by what is around it."""
    made, x = block((6, 5), **flags, subnet=lambda n, m: nn.Conv1d(n, m, 1)), torch.randn(3, 6, 5, requires_grad=True)
    given, answers = [], []

    def note(_, asked, answer):
        given.append(*asked)
        answers.append(answer)

    made.subnet.register_forward_hook(note)
    with torch.autocast("cpu", torch.bfloat16):
        (y,), logdet = made([x], rev=rev)
    assert answers[0].dtype == torch.bfloat16 and given[0].dtype == torch.float32
    assert y.dtype == logdet.dtype == torch.float32

    made.subnet = Given(answers[0].detach().float())
    (want,), want_logdet = made([x], rev=rev)
    assert torch.equal(y, want) and torch.equal(logdet, want_logdet)


class Given(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, v):
        return self.answer


# ---- export


class Exported(Silent):
    """The block behind torch.export, exported at one batch size and run at another."""

    def call(self, block, x, c, rev, jac=True):
        batch = torch.export.Dim("batch", min=1)
        more = lambda v: torch.cat((v, v))  # noqa: E731
        given = ((more(x[0]),), [more(v) for v in c])
        dynamic = (({0: batch},), [{0: batch} for _ in c])
        program = torch.export.export(Directed(block, rev), given, dynamic_shapes=dynamic)
        return program.module()(x, c)


class Directed(nn.Module):
    """One direction of a block."""

    def __init__(self, block, rev):
        super().__init__()
        self.block, self.rev = block, rev

    def forward(self, x, c):
        return self.block(x, c, rev=self.rev)


class OnTensors(nn.Module):
    """One direction of an unconditional block, from tensor to tensors, as torch.jit.trace wants it."""

    def __init__(self, block, rev):
        super().__init__()
        self.block, self.rev = block, rev

    def forward(self, x):
        (y,), logdet = self.block((x,), rev=self.rev)
        return y, logdet


@mixings
@directions
def test_torch_export_keeps_the_function_at_any_batch_size(mixing, direction):
    hold(run_of(mixing, direction, Exported()), VALUES)


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("rev", (False, True))
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_jit_trace_keeps_the_bits(block, flags, rev):
    """And W as it was: whether it is a permutation is looked at while tracing. In float64, which is never fused."""
    made = block((6, 5), dtype=torch.float64, **flags)
    x, other = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        traced = torch.jit.trace(OnTensors(made, rev), x, check_trace=False)
        (want,), want_logdet = made((other,), rev=rev)
        y, logdet = traced(other)

    assert torch.equal(y, want) and torch.equal(logdet, want_logdet)
