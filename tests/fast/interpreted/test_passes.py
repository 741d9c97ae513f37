"""Passes through the public block: the laws hold on kernels, whose few numbers to a tile make small cases straddle."""

import mmap

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from flowref.cases.stream import edge_rows, rows
from flowref.fast import AllInOneBlock, choice, device, kernels, triton_kernels
from flowref.laws import registry
from flowref.laws.run import hold_case
from flowref.targets import Module

DIALECTS = ("anomalib", "freia-main", "documented")
VALUES = ("reference", "gradient.by-input", "gradient.by-parameters")
LAYOUTS = ("gradient.strides", "gradient.expanded", "layout")
FLAGS = {
    "hard": {},
    "gin": {"gin_block": True},
    "soft": {"permute_soft": True},
    "reflections": {"learned_householder_permutation": 3},
    "soft-reflections": {"learned_householder_permutation": 2, "permute_soft": True},
}


class Halves(nn.Module):
    """Some channels of the input, twice, at any size."""

    def __init__(self, n, m):
        super().__init__()
        self.half = m // 2

    def forward(self, v):
        return torch.cat((v[:, : self.half], v[:, : self.half]), 1)


def hold(prefixes, dialect, some, edge=None):
    target = Module(AllInOneBlock, dialect=dialect)
    for law in registry.all():
        if law.id.startswith(prefixes):
            fixed = law.fixed("float32") | {
                "subnet": ("network", "linear")
            }  # whose answers depend on what they are asked
            recipes = edge_rows(edge, dialect) if edge else rows("smoke", dialect, fixed)
            for recipe in recipes[some]:
                for direction in law.directions:
                    hold_case(law, recipe.case(), target, "float32", direction)


def outcome(made, x, *, gy=None, conditions=(), rev=False):
    """Output, log-det and gradients, by input, conditions and parameters, under weights that differ everywhere."""
    x, conditions = x.detach().requires_grad_(), [c.detach().requires_grad_() for c in conditions]
    (y,), logdet = made([x], conditions, rev=rev)
    gy = torch.linspace(-1, 2, y.numel()).view(y.shape) if gy is None else gy
    made.zero_grad()
    torch.autograd.backward((y, logdet), (gy, torch.linspace(1, 2, len(x))))
    return [
        y,
        logdet,
        x.grad,
        *(c.grad for c in conditions),
        *(p.grad for p in made.parameters() if p.grad is not None),
    ]


def same(ones, others):
    return len(ones) == len(others) and all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


# ---- against the reference, within the bounds


# Of the rows that cover pairs of flags, affine types and ranks, two for each dialect: every kind of pass is in one.
ROWS = {"anomalib": (1, 7), "freia-main": (2, 4), "documented": (4, 6)}


@pytest.mark.parametrize(("dialect", "row"), [(dialect, row) for dialect, some in ROWS.items() for row in some])
def test_values_and_gradients_are_the_references(passes, small_tiles, dialect, row):
    hold(VALUES, dialect, slice(row, row + 1))

    assert len(passes) >= 6


@pytest.mark.parametrize(("dialect", "row"), [("anomalib", 14), ("documented", 15), ("freia-main", 13)])
def test_values_are_in_tiles_as_on_a_device(passes, dialect, row):
    """65 samples; 1,089 pixels; 33 channels."""
    hold(("reference",), dialect, slice(row, row + 1))

    assert passes


@pytest.mark.parametrize(("dims", "gin", "rev"), [((4, 300), 0, 1), ((4, 300), 1, 0), ((300,), 0, 0), ((300,), 1, 1)])
def test_how_work_is_cut_changes_rounding_alone(block, monkeypatch, dims, gin, rev):
    """Tiles as on a device and of a few numbers, one program a sample and many: what isn't summed has the same bits."""
    flags = {"gin_block": gin, "reverse_permutation": True, "dialect": "freia-main"}
    made, x, found = block(dims, subnet=Halves, **flags), torch.randn(2, *dims), []
    few, many = (64, 3, 0), (16, 1024, 0)  # of many shares `close_affine` takes more than one row of tiles
    for tile, programs, alone in ((1024, 1024, 4), many if len(dims) > 1 and rev else few):
        for name, value in (("TILE", tile), ("PROGRAMS", programs), ("ALONE", alone)):
            monkeypatch.setattr(device, name, value)
        found.append([v.detach() for v in outcome(made, x, rev=rev)])

    # Two orders of a sum of n numbers, each with paths of at most 2√n + 16 additions; only GIN's mean enters the rest.
    n = x.numel()
    for one, other in zip(*found, strict=True):
        assert float((one - other).abs().max()) <= 2 * (2 * n**0.5 + 16) * 2.0**-24 * n * float(one.abs().max())
    assert gin or (torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][2], found[1][2]))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_single_channel_is_the_affine_alone(passes, small_tiles, dialect):
    hold(("reference",), dialect, slice(0, 4), edge="channels-1")

    assert passes


def test_layouts_of_inputs_and_incoming_gradients_are_followed(passes, small_tiles):
    hold(LAYOUTS, "anomalib", slice(4, 5))

    assert passes


def test_an_offset_far_beyond_the_scale_leaves_gradients_finite(block):
    """o ÷ σ is infinite, (x − o) ÷ σ is 0; three samples leave a tile's other lanes without an x."""
    made = block((6,), global_affine_type="EXP")
    with torch.no_grad():
        made.global_scale.fill_(-23.0)
        made.global_offset.fill_(1e30)
        for p in made.subnet.parameters():
            p.zero_()
    found = outcome(made, torch.full((3, 6), 1e30), rev=True)

    assert len(found) > 4 and all(v.isfinite().all() for v in found)


# ---- bits


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("rev", (False, True))
def test_the_same_bits_come_twice(block, passes, small_tiles, flags, rev):
    made, x, c = block((5, 7), (2,), **flags), torch.randn(3, 5, 7), torch.randn(3, 2, 7)
    twice = [outcome(made, x, conditions=[c], rev=rev) for _ in range(2)]

    assert len(passes) == 2 and same(*twice)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("rev", (False, True))
def test_a_matrix_that_is_no_permutation_is_a_product_in_a_hard_block_too(block, passes, dialect, rev):
    soft = block((6, 3), dialect=dialect, permute_soft=True, reverse_permutation=True)
    hard = block((6, 3), dialect=dialect, reverse_permutation=True)
    hard.load_state_dict(soft.state_dict())
    x = torch.randn(2, 6, 3)

    assert same(*(outcome(made, x, rev=rev) for made in (hard, soft))) and len(passes) == 2


@pytest.mark.parametrize(
    "change",
    [lambda W: W[0].zero_(), lambda W: W[0].copy_(W[1]), lambda W: W[1].add_(W[0]), lambda W: W[0].mul_(torch.nan)],
    ids=("zero-row", "row-twice", "two-ones", "nan"),
)
def test_only_permutations_are_gathered(block, change):
    made = block((5,))
    plan = device.Plan(made.spec, made._state, 2, False)
    assert not plan.post and torch.equal(made.w_perm[plan.channels[1], torch.arange(5)], torch.ones(5))
    change(made.w_perm)

    assert device.Plan(made.spec, made._state, 2, False).post


# ---- products


@pytest.mark.parametrize("shape", [(2, 17, 33, 5), (1, 70, 16, 65), (3, 1, 1, 1)], ids=str)
def test_the_product_is_ieees(shape):
    """A contraction of K terms, each product and sum rounded."""
    batch, M, K, N = shape
    a, b = torch.randn(batch, K, M).mT, torch.randn(N, K, batch).permute(2, 1, 0)
    got, want, size = device.product(a, b).double(), a.double() @ b.double(), a.double().abs() @ b.double().abs()

    assert ((got - want).abs() <= (K + 1) * 2.0**-24 * size).all()
    assert torch.equal(device.product(a[0], b[0]), device.product(a[:1], b[:1])[0])


@pytest.mark.parametrize("row", (3, 5))
def test_where_torch_would_round_to_tf32_it_is_not_asked(passes, monkeypatch, row):
    """Soft and reflections, forward, reverse and gradients: every float32 product is the kernel's."""
    counted, product = [], device.product
    monkeypatch.setattr(device, "_rounds", lambda v: True)
    monkeypatch.setattr(device, "product", lambda a, b: (counted.append(True), product(a, b))[1])
    hold(("reference", "gradient.by-input"), "anomalib", slice(row, row + 1))

    assert counted and passes


@pytest.mark.parametrize("allowed", (False, True))
def test_tf32_is_known_by_torchs_own_word(allowed):
    class OnCuda:
        is_cuda = True

    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = allowed
        assert device._rounds(OnCuda()) == allowed
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert not device._rounds(torch.zeros(1))


# ---- memory, launches, offsets


@pytest.mark.parametrize("reverse_permutation", (False, True))
@pytest.mark.parametrize(("flags", "most"), [(FLAGS[k], 2 if k == "reflections" else 1.1) for k in list(FLAGS)[:4]])
def test_backward_keeps_the_answer_and_little_else(block, passes, flags, most, reverse_permutation):
    made = block((32, 4, 4), subnet=Halves, reverse_permutation=reverse_permutation, **flags)
    x = torch.randn(32, 32, 4, 4, requires_grad=True)
    own = {v.untyped_storage().data_ptr() for v in (x, *made.parameters(), *made.buffers())}
    found = {}

    def pack(v: Tensor) -> Tensor:
        found[v.untyped_storage().data_ptr()] = v.untyped_storage().nbytes()
        return v

    with saved_tensors_hooks(pack, lambda v: v):
        made([x])

    assert passes
    assert 1 <= sum(size for at, size in found.items() if at not in own) / x.untyped_storage().nbytes() <= most


@pytest.mark.parametrize("dims", [(64,), (64, 8, 8)], ids=str)
@pytest.mark.parametrize("rev", (False, True))
@pytest.mark.parametrize("flags", [{}, {"gin_block": True}, {"reverse_permutation": True}], ids=str)
def test_a_small_pass_is_three_kernels_at_most(block, monkeypatch, dims, rev, flags):
    """With a hard permutation that is stored as a matrix; torch's own is the copy by `cat`, no other is called."""
    made, x, launched = block(dims, subnet=Halves, **flags), torch.randn(4, *dims), []
    answer = torch.randn(4, made.spec.subnet_out, *dims[1:])
    made.subnet.forward = lambda v: answer
    launch, cat = device._launch, torch.cat
    monkeypatch.setattr(device, "_launch", lambda *a, **k: (launched.append(a[0].__name__), launch(*a, **k)))
    monkeypatch.setattr(torch, "cat", lambda *a: (launched.append("cat"), cat(*a))[1])
    with torch.no_grad():
        made([x], rev=rev)

    assert launched[0] == "find_permutation" and launched[-1] == "couple" and len(launched) <= 3, launched


def test_offsets_past_2_to_the_31_elements_do_not_wrap():
    """x and y of 2^32 numbers, of which a program reads and writes the last 2^12; the rest is never made."""
    C, N, no_reserve = 2**20, 2**12, 0x4000  # Linux's MAP_NORESERVE, which Python doesn't name

    def vast():
        room = mmap.mmap(-1, 4 * C * N, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
        return torch.frombuffer(room, dtype=torch.float32)

    x, y = vast(), vast()
    x[-N:] = want = torch.randn(N)
    asked = torch.empty(1, 1, N)
    at = {"BB": 1, "BC": 1, "BN": 1024}
    given = (x, asked, None, None, None, 1, C, N, 1, C - 1, 1)
    triton_kernels.ask[(4,)](*given, KIND=0, REVERSE=False, OUTSIDE=False, **at)
    a, sums, s = torch.zeros(1, 2, N), torch.empty(1, 4), torch.zeros(C)
    given = (x, a, y, None, sums, None, s, s, None, None, 1, C, N, 1, 1, C - 1, C - 2, 4, 1, 4, 1.0, 1.0, 1.0, 1.0)
    triton_kernels.couple[(4,)](*given, KIND=3, REVERSE=False, GIN=False, OUTSIDE=False, ALONE=False, BK=4, BS=64, **at)

    assert torch.equal(asked.flatten(), want) and torch.equal(y[-N:], want)


# ---- derivatives of another kind, and what else goes through the eager form


@pytest.mark.parametrize("rev", (False, True))
def test_a_gradient_of_a_gradient_is_that_of_the_eager_form(block, passes, monkeypatch, rev):
    made = block((5, 3), (2,), reverse_permutation=True, learned_householder_permutation=3)
    x, c = torch.randn(2, 5, 3, requires_grad=True), torch.randn(2, 2, 3, requires_grad=True)
    leaves, found = [x, c, *made.parameters()], []
    for form in ("triton", "eager"):
        monkeypatch.setenv(choice.VARIABLE, form)
        (y,), logdet = made([x], [c], rev=rev)
        first = torch.autograd.grad(y.sin().sum() + logdet.sin().sum(), leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves, allow_unused=True))

    assert len(passes) == 1
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert float((one - other).abs().max()) <= 2**-15 * max(1.0, float(other.abs().max()))


def test_gradients_mapped_over_rows_are_those_of_single_rows(block, passes):
    made, x = block((4, 2), learned_householder_permutation=2), torch.randn(1, 4, 2, requires_grad=True)
    (y,), _ = made([x])
    rows_of = torch.eye(8).view(8, 1, 4, 2)
    (mapped,) = torch.autograd.grad(y, x, rows_of, is_grads_batched=True, retain_graph=True)
    single = torch.stack([torch.autograd.grad(y, x, row, retain_graph=True)[0] for row in rows_of])

    assert passes
    assert float((mapped - single).abs().max()) <= 2**-20 * float(single.abs().max())


@pytest.mark.parametrize("flags", [{"permute_soft": True}, {"dialect": "freia-main", "reverse_permutation": True}])
def test_a_w_that_changed_between_forward_and_backward_is_refused(block, flags):
    made = block((4, 2), **flags)
    (y,), _ = made([torch.randn(2, 4, 2, requires_grad=True)])
    for W in (made.w_perm, made.w_perm_inv):
        W.copy_(W.clone())
    with pytest.raises(RuntimeError, match="w_perm"):
        y.sum().backward()


@pytest.mark.parametrize("flags", [{}, {"permute_soft": True}])
@pytest.mark.parametrize("recorded", (False, True))
def test_outputs_can_be_changed_in_place(block, passes, flags, recorded):
    made, x, factor = block((4, 3), **flags), torch.randn(2, 4, 3), torch.tensor(2.0, requires_grad=True)
    with torch.set_grad_enabled(recorded):
        (y,), logdet = made([x])
    want = y.detach().sum() + logdet.detach().sum()
    loss = y.mul_(factor).sum() + logdet.mul_(factor).sum()

    torch.testing.assert_close(torch.autograd.grad(loss, factor), (want,))
    assert passes


def test_what_kernels_are_not_for_is_eager(block, passes, monkeypatch):
    made, x = block((4,)), torch.randn(2, 4)
    made([x[:0]])
    torch.func.vmap(lambda v: made([v[None]])[0][0])(x)
    made.double()([x.double()])

    assert not passes and kernels("cpu", torch.float64) == "eager" and kernels("meta") == "triton (interpreted)"


# ---- an index vector that was written to behind load_state_dict's back


@pytest.mark.parametrize("index", ([0, 1, 1, 3], [0, 1, 2, 2**40], [-1, 1, 2, 3], [3, 3, 3, 3]), ids=str)
def test_an_index_that_is_no_permutation_is_refused_or_stays_inside(block, passes, monkeypatch, index):
    """On a device no one waits to look at it: what is read by it, and its inverse, stay within the channels."""
    made = block((4,), dialect="freia-main")
    made.w_perm.data.copy_(torch.tensor(index))
    with pytest.raises(RuntimeError, match=r"^w_perm is no permutation: expected each of 0 to 3 once, got \["):
        made([torch.randn(2, 4)])

    monkeypatch.setattr(device.ops, "is_permutation", lambda _: True)
    plan = device.Plan(made.spec, made._state, 2, False)
    for row in plan.rows[:2]:
        assert row is not None and 0 <= row.min() and row.max() <= 3
