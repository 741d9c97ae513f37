"""The eager form on the CPU, in operators that write where they read: what no law of the gate says of it."""

import itertools

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from flowref.cases.recipe import Recipe
from flowref.fast import AllInOneBlock, choice, operators
from flowref.laws import registry
from flowref.laws.run import Run
from flowref.targets import Module

FLAGS = {
    "hard": {},
    "gin": {"gin_block": True},
    "soft": {"permute_soft": True},
    "reflections": {"learned_householder_permutation": 8},
}


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, "eager")


@pytest.fixture
def passes(monkeypatch):
    """One entry for each pass that the operators ran."""
    seen, run = [], operators.run
    monkeypatch.setattr(operators, "run", lambda *given: seen.append(1) or run(*given))
    return seen


class Twice(nn.Module):
    """Keeps nothing for backward; m is even, and n at least m / 2."""

    def __init__(self, n, m):
        super().__init__()
        self.half = m // 2

    def forward(self, v):
        return torch.cat((v[:, : self.half],) * 2, 1)


# ---- functions


def test_tanh_and_exp_are_within_what_the_page_grants(block):
    """4 ulps, and 2 + |argument|; an ulp is 2u of the right result. Also where they end: at ±∞ and NaN."""
    plan = operators.Plan((made := block((2,))).spec, made._state, 1, False)
    plan.c, ulp = 1.0, torch.finfo(torch.float32).eps
    random = torch.randn(200_000)
    k = torch.cat((random, 10 * random, random * 2.0 ** torch.randint(-120, 0, random.shape)))
    right = k.double().tanh()

    T = plan._tanh(k)
    assert ((T.double() - right).abs() <= 4 * ulp * right.abs()).all()
    assert T.abs().max() == 1
    ends = plan._tanh(torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0]))
    assert torch.equal(ends.nan_to_num(9), torch.tensor([1.0, -1.0, 9.0, 0.0]))

    for plan.reverse, plan.alpha in itertools.product((False, True), (0.1, 2.0, 30.0)):
        l = plan.alpha * T.double() * (-1 if plan.reverse else 1)  # noqa: E741
        assert ((plan._exp(T).double() / l.exp() - 1).abs() <= (2 + l.abs()) * ulp).all()


# ---- passes that take several turns


@pytest.mark.parametrize("direction", ("forward", "reverse"))
@pytest.mark.parametrize("mixing", ({}, {"gin": True}, {"soft": True}, {"reflections": 3}), ids=str)
@pytest.mark.parametrize("reverse_permutation", (False, True))
def test_laws_hold_of_parts(monkeypatch, passes, mixing, reverse_permutation, direction):
    """Of 7 samples in parts of 2 and 1, by the bounds."""
    monkeypatch.setattr(operators, "ROOM", 30)
    recipe = {"B": 7, "C": 5, "S": (3,), "conditions": (2,), "reverse_permutation": reverse_permutation, **mixing}
    run = Run(Recipe(**recipe).case(), Module(AllInOneBlock), "float32", direction)
    laws = {
        "reference.output-equals-reference",
        "logdet.equals-reference",
        "gradient.by-input",
        "gradient.by-conditions",
        "gradient.by-parameters",
        "gradient.by-subnet",
    }
    for law in (law for law in registry.all() if law.id in laws):
        law.body(run)
    assert passes and run.meter.comparisons > run.meter.undecided


# ---- memory


@pytest.mark.parametrize("reverse_permutation", (False, True))
@pytest.mark.parametrize("kind", FLAGS)
@pytest.mark.parametrize("dims", [(64,), (16, 12, 12)], ids=str)
def test_backward_keeps_the_answer_and_little_else(block, passes, dims, kind, reverse_permutation):
    made = block(dims, subnet=Twice, reverse_permutation=reverse_permutation, **FLAGS[kind])
    x, found = torch.randn(64, *dims, requires_grad=True), {}
    own = {v.untyped_storage().data_ptr() for v in (x, *made.parameters(), *made.buffers())}

    def pack(v):
        if v.untyped_storage().data_ptr() not in own:
            found[v.untyped_storage().data_ptr()] = v.untyped_storage().nbytes()
        return v

    with saved_tensors_hooks(pack, lambda v: v):
        made([x])

    assert 1 <= sum(found.values()) / x.untyped_storage().nbytes() <= (2 if kind == "reflections" else 1.1)
    assert passes


# ---- what holds of every form


@pytest.fixture(params=["numba", "eager"])
def form(request, monkeypatch):
    if request.param == "numba":
        pytest.importorskip("numba")
    monkeypatch.setenv(choice.VARIABLE, request.param)
    return request.param


@pytest.mark.parametrize("rev", (False, True))
@pytest.mark.parametrize("index", ([0, 1, 1, 3], [0, 1, 2, 2**40], [-1, 1, 2, 3], [0, 1, 2, 4]), ids=str)
def test_an_index_that_is_no_permutation_is_refused(form, block, index, rev):
    """Written to behind load_state_dict's back, it would be read by as it stands."""
    made = block((4,), dialect="freia-main", reverse_permutation=True)
    for name in ("w_perm", "w_perm_inv"):
        before = getattr(made, name).clone()
        getattr(made, name).data.copy_(torch.tensor(index))
        with pytest.raises(RuntimeError, match=rf"^{name} is no permutation: expected each of 0 to 3 once, got \["):
            made([torch.randn(2, 4)], rev=rev)
        getattr(made, name).data.copy_(before)
    made([torch.randn(2, 4)], rev=rev)


@pytest.mark.parametrize("rev", (False, True))
def test_a_gradient_that_a_hook_has_seen_stays_as_it_was(form, block, rev):
    """On the inner nodes too: that of the coupling gives it, that of the subnet's input takes it."""
    asked, seen = [], []
    made = block((6,))
    made.subnet.register_forward_pre_hook(lambda _, given: asked.append(given[0].grad_fn))
    (y,), logdet = made([torch.randn(3, 6, requires_grad=True)], rev=rev)

    def look(*gradients):
        seen.extend((g, g.clone()) for each in gradients for g in each if g is not None)

    for node in (y.grad_fn, asked[0]):
        node.register_hook(look)
        node.register_prehook(look)
    (y.sum() + logdet.sum()).backward()

    assert len(seen) > 8
    assert all(torch.equal(g, before) for g, before in seen)


@pytest.mark.parametrize(
    ("dtype", "alpha"), [(torch.float32, 1e39), (torch.float32, 3e38), (torch.bfloat16, 1e39), (torch.float64, 1e308)]
)
def test_an_alpha_beyond_the_dtype_is_refused(block, dtype, alpha):
    torch.set_default_dtype(dtype)
    with pytest.raises(
        ValueError, match=r"^affine_clamping=.* is beyond torch.float.*: need at most .*\. Use a smaller"
    ):
        block((4,), affine_clamping=alpha, moved=False, dtype=dtype)


def test_an_alpha_beyond_what_the_block_was_cast_to_is_refused(form, block):
    torch.set_default_dtype(torch.float64)
    made, x = block((4,), affine_clamping=1e39, moved=False, dtype=torch.float64), torch.zeros(2, 4)
    nn.init.zeros_(made.subnet.w), nn.init.zeros_(made.subnet.b)
    _, logdet = made([x.double()])
    assert logdet.isfinite().all()
    with pytest.raises(ValueError, match="is beyond torch.float32"):
        made.float()([x.float()])


@pytest.mark.parametrize("alpha", (1e38, 1e-44), ids=str)
@pytest.mark.parametrize("dialect", ("anomalib", "freia-main"))
def test_the_largest_and_the_least_alpha_give_numbers(form, block, alpha, dialect):
    made = block((4,), affine_clamping=alpha, dialect=dialect)
    nn.init.zeros_(made.subnet.w), nn.init.zeros_(made.subnet.b)
    x = torch.randn(3, 4, requires_grad=True)
    (y,), logdet = made([x])
    (gx,) = torch.autograd.grad(y.sum() + logdet.sum(), x)
    assert all(v.isfinite().all() for v in (y, logdet, gx))


def test_flushed_subnormals_do_not_depend_on_threads(form, block):
    """set_flush_denormal holds of the thread that calls it alone; a pass gives the same bits each time all the same."""
    made = block((8, 32, 32), subnet=Twice, moved=False)
    x = 2.0**-127 * torch.randn(32, 8, 32, 32).exp()
    try:
        torch.set_num_threads(2)
        made([x])  # threads that are made from here on would flush as their maker does
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor can't")
        with torch.no_grad():
            ((first,), _), *others = (made([x]) for _ in range(10))
            torch.set_num_threads(1)
            (alone,), _ = made([x])
        assert all(torch.equal(first.view(torch.int32), y.view(torch.int32)) for (y,), _ in others)
        if form == "numba":  # of torch's operators each has its share of the numbers, whose threads don't flush
            assert torch.equal(first.view(torch.int32), alone.view(torch.int32))
    finally:
        torch.set_flush_denormal(False)
