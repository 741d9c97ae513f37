"""State and purity of the fast block: names and forms, checkpoints, copies, seeds, and what a pass leaves alone."""

import copy
import io
import pickle
from itertools import product

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

KINDS = [
    {"permute_soft": soft, "learned_householder_permutation": n, "dialect": dialect}
    for soft, n, dialect in product((False, True), (0, 3), ("anomalib", "freia-main", "documented"))
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda k: "-".join(map(str, k.values())))


def passes(block, x):
    """Outputs and log-dets in both directions."""
    return [t for rev in (False, True) for (y,), j in [block([x], rev=rev)] for t in (y, j)]


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


# ---- names and forms


@kinds
@pytest.mark.parametrize("dims", ((4,), (4, 2, 2)), ids=str)
def test_names_shapes_and_what_is_trained_are_the_familys(block, kind, dims):
    made, ones = block(dims, **kind), (1,) * (len(dims) - 1)
    index = kind["dialect"] == "freia-main" and not kind["permute_soft"]
    W = (4,) if index else (4, 4, *ones)
    mixing = {"w_perm": W, "w_perm_inv": W} if not kind["learned_householder_permutation"] else {"w_0": (4, 4)}
    trained = {"vk_householder": (3, 4)} if kind["learned_householder_permutation"] else {}
    own = {"global_scale": (1, 4, *ones), "global_offset": (1, 4, *ones)} | trained

    named = {k: tuple(v.shape) for k, v in made.state_dict().items() if not k.startswith("subnet.")}
    assert named == own | mixing
    assert {k for k, p in made.named_parameters() if p.requires_grad and "." not in k} == set(own)
    assert all(v.is_contiguous() for v in made.state_dict().values())
    assert len({v.untyped_storage().data_ptr() for v in made.state_dict().values()}) == len(made.state_dict())


@kinds
def test_w_is_orthogonal_and_its_inverse_the_transpose(block, kind):
    made = block((6,), **kind)
    if "w_0" in made.state_dict():
        W = made.w_0
    else:
        W, inverse = (torch.eye(6)[w] if w.dim() == 1 else w for w in (made.w_perm, made.w_perm_inv))
        assert torch.equal(inverse, W.T)

    # each element of W is rounded once: |WᵀW − I| ≤ 2u Σ|W||W| ≤ 2u·C, and the product's own rounding
    assert (W.double().T @ W.double() - torch.eye(6)).abs().max() <= 2 * 2.0**-24 * 6
    assert not kind["permute_soft"] or torch.linalg.det(W.double()) > 0
    assert kind["permute_soft"] or torch.equal(W.sort().values, torch.eye(6)[[5] * 6])


# ---- checkpoints


@kinds
@pytest.mark.parametrize("assign", (False, True))
@pytest.mark.parametrize("passed", (False, True))
def test_a_state_goes_round(block, kind, assign, passed):
    a, b, x = block((5, 2), **kind), block((5, 2), **kind), torch.randn(2, 5, 2)
    if passed:
        passes(b, x)
    b.load_state_dict(a.state_dict(), assign=assign)

    assert same(passes(a, x), passes(b, x))
    assert list(a.state_dict()) == list(b.state_dict())


@pytest.mark.filterwarnings("ignore:w_perm is an index vector")
@pytest.mark.parametrize("assign", (False, True))
@pytest.mark.parametrize("dims", ((5,), (5, 2)), ids=str)
@pytest.mark.parametrize("dialect", ("anomalib", "freia-main", "documented"))
def test_either_form_of_a_permutation_loads(block, dims, dialect, assign):
    """Every second one between index and matrix, into hard and soft blocks; what is given stays untouched."""
    index, ones, x = torch.randperm(5), (1,) * (len(dims) - 1), torch.randn(2, *dims)
    forms = {
        "index": (index, index.argsort()),
        "matrix": (torch.eye(5)[index].view(5, 5, *ones), torch.eye(5)[index].T.view(5, 5, *ones)),
        "mixed": (index, torch.eye(5)[index].T.contiguous().view(5, 5, *ones)),
    }
    for soft in (False, True):
        made, results = block(dims, dialect=dialect, permute_soft=soft), []
        for W, inverse in forms.values():
            state = dict(made.state_dict()) | {"w_perm": W, "w_perm_inv": inverse}
            made.load_state_dict(state, assign=assign)
            results.append(passes(made, x))
            made([x])[0][0].sum().backward()

            assert state["w_perm"] is W
            assert not made.w_perm.requires_grad and made.w_perm.is_contiguous() and made.w_perm_inv.is_contiguous()
            assert made.w_perm.untyped_storage().data_ptr() != made.w_perm_inv.untyped_storage().data_ptr()
            assert (made.w_perm.dim() == 1) == (dialect == "freia-main" and not soft)
        assert same(results[0], results[1]) and same(results[0], results[2])


@pytest.mark.parametrize("dialect", ("anomalib", "freia-main", "documented"))
def test_a_soft_matrix_computes_right_in_a_hard_block_and_gives_way_again(block, dialect):
    hard, soft, x = (
        block((5, 2), dialect=dialect),
        block((5, 2), dialect=dialect, permute_soft=True),
        torch.randn(2, 5, 2),
    )
    first = copy.deepcopy(hard.state_dict())
    before = passes(hard, x)
    hard.load_state_dict(soft.state_dict())

    assert same(passes(hard, x), passes(soft, x))
    hard.load_state_dict(first)
    assert same(passes(hard, x), before)


def test_a_checkpoint_of_anothers_parameters_loads(block):
    """FrEIA and anomalib keep W in parameters, its inverse in a transposed view."""
    made, W = block((4,)), torch.eye(4)[[2, 0, 3, 1]]
    state = dict(made.state_dict()) | {"w_perm": nn.Parameter(W, False), "w_perm_inv": nn.Parameter(W.T, False)}
    made.load_state_dict(state, assign=True)

    assert {"w_perm", "w_perm_inv"} <= dict(made.named_buffers()).keys()
    assert torch.equal(made.w_perm_inv, W.T) and made.w_perm_inv.is_contiguous()


@kinds
def test_safetensors_takes_it(block, kind):
    st = pytest.importorskip("safetensors.torch")
    a, b, x = block((4, 2), **kind), block((4, 2), **kind), torch.randn(2, 4, 2)
    b.load_state_dict(st.load(st.save(dict(a.state_dict()))))

    assert same(passes(a, x), passes(b, x))


@kinds
@pytest.mark.parametrize("passed", ("before", "after", "after-reverse"))
def test_copies_work_before_and_after_a_pass(block, kind, passed):
    made, x = block((4, 2), **kind), torch.randn(2, 4, 2)
    if passed != "before":
        made([x], rev=passed != "after")
    file = io.BytesIO()
    torch.save(made, file)
    file.seek(0)
    want = passes(made, x)

    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), torch.load(file, weights_only=False)):
        assert same(passes(other, x), want)
        with torch.no_grad():
            other.global_offset += 1
        assert same(passes(made, x), want)


# ---- changes of the state


@kinds
def test_every_change_of_the_state_is_seen_by_the_next_pass(block, kind):
    made, x = block((5, 2), **kind), torch.randn(2, 5, 2)
    for name in made.state_dict():
        before = passes(made, x)
        other = block((5, 2), **kind).state_dict()
        tensor = dict(made.named_parameters()) | dict(made.named_buffers())
        tensor[name].data.copy_(other[name] if name.startswith("w_") else other[name] + 1)

        assert not same(before, passes(made, x)), name


def test_a_soft_matrix_written_into_a_hard_block_is_seen(block):
    hard, soft, x = block((5,)), block((5,), permute_soft=True), torch.randn(2, 5)
    passes(hard, x)
    for name, value in soft.state_dict().items():
        (dict(hard.named_parameters()) | dict(hard.named_buffers()))[name].data.copy_(value)

    assert same(passes(hard, x), passes(soft, x))


def test_a_matrix_that_is_a_permutation_but_for_one_element_is_not_gathered(block):
    hard, x = block((3,)), torch.eye(3)
    near = torch.eye(3)
    near[0, 2] = 2.0**-10
    hard.w_perm.data.copy_(near)
    (y,), _ = hard([x])
    hard.w_perm.data.copy_(torch.eye(3))
    (want,), _ = hard([x])

    assert not torch.equal(y[:, 0], want[:, 0])
    assert torch.equal(y[:, 1:], want[:, 1:])


@kinds
def test_training_everything_and_averaging_leave_w_alone(block, kind):
    made, x = block((4,), **kind), torch.randn(8, 4)
    made.requires_grad_(True)
    before = {k: v.clone() for k, v in made.named_buffers()}
    averaged = AveragedModel(made, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=False)
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (y,), logdet = made([x])
        (y.square().sum() / 2 - logdet.sum()).backward()
        optimizer.step()
        averaged.update_parameters(made)

    assert all(torch.equal(v, before[k]) for k, v in made.named_buffers())
    assert all(torch.equal(v, before[k]) for k, v in averaged.module.named_buffers())


@kinds
@pytest.mark.parametrize("dtype", (torch.float64, torch.float16, torch.bfloat16), ids=str)
def test_conversion_keeps_index_vectors_whole_and_the_rest_together(block, kind, dtype):
    made = block((4, 2), **kind).to(dtype)
    (y,), logdet = made([torch.randn(2, 4, 2, dtype=dtype)])

    assert y.dtype == logdet.dtype == dtype
    assert {v.dtype for v in made.state_dict().values()} <= {dtype, torch.int64}


# ---- seeds


@kinds
def test_torchs_seed_alone_makes_the_block(block, kind):
    numpy = pytest.importorskip("numpy")
    states = []
    for k, dtype in enumerate((torch.float32, torch.float32, torch.float64)):
        torch.set_default_dtype(dtype)
        numpy.random.seed(k)
        torch.manual_seed(5)
        made = block((16,), moved=False, dtype=dtype, subnet=lambda n, m: nn.Identity(), **kind)
        states.append({k: v for k, v in made.state_dict().items() if "global" not in k})

    assert states[0].keys() == states[2].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert all(torch.equal(states[0][k], states[2][k].to(states[0][k].dtype)) for k in states[0])
    assert all(v.dtype in (torch.float64, torch.int64) for v in states[2].values())


@kinds
def test_a_block_made_on_meta_draws_as_much_and_is_meta_throughout(block, kind):
    torch.manual_seed(5)
    block((4,), moved=False, subnet=lambda n, m: nn.Identity(), **kind)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    with torch.device("meta"):
        made = block((4,), moved=False, subnet=lambda n, m: nn.Identity(), **kind)

    assert {v.device.type for v in made.state_dict().values()} == {"meta"}
    assert torch.equal(torch.get_rng_state(), after)


def test_rotations_turn_either_way(block):
    """Determinant +1 at every size, and no preferred sign of any element (2 of 200 signs: chance below 1e-30)."""
    for C in (1, 2, 3, 8):
        W = torch.stack([block((C,), permute_soft=True, moved=False).w_perm.double() for _ in range(200)])

        assert (torch.linalg.det(W) > 0).all()
        assert C == 1 or ((W > 0).sum(0) - 100).abs().max() < 98


# ---- what a pass leaves alone


@kinds
@pytest.mark.parametrize("rev", (False, True))
def test_a_pass_changes_nothing_and_repeats_itself(block, kind, rev):
    made = block((5, 2), (2,), reverse_permutation=True, **kind)
    x, c = torch.randn(3, 5, 2, requires_grad=True), torch.randn(3, 2, 2, requires_grad=True)
    held = {k: v.clone() for k, v in made.state_dict().items()}
    grads = torch.randn(3, 5, 2), torch.randn(3)
    given, attributes, rng = (x.clone(), c.clone()), dict(vars(made)), torch.get_rng_state()
    (y,), logdet = made([x], [c], rev=rev)
    kept = [g.clone() for g in grads]
    torch.autograd.backward((y, logdet), grads)
    (again,), logdet_again = made([x], [c], rev=rev)

    assert same(made.state_dict().values(), held.values())
    assert same((x, c), given) and same(grads, kept)
    assert vars(made) == attributes
    assert torch.equal(torch.get_rng_state(), rng)
    assert same((y, logdet), (again, logdet_again))


class Stubborn(nn.Module):
    """Answers with what it must not be robbed of."""

    def __init__(self, how, n, m):
        super().__init__()
        self.how, self.m = how, m
        self.register_buffer("own", torch.randn(3, m))
        self.weight = nn.Parameter(torch.randn(3, m))

    def forward(self, v):
        if self.how == "writes":
            v.mul_(0)
        return {
            "buffer": lambda: self.own,
            "parameter": lambda: self.weight,
            "expanded": lambda: self.weight[:1].expand(3, self.m),
            "input": lambda: v[:, : self.m],
            "tanh": lambda: torch.tanh(self.weight),
            "writes": lambda: self.weight + v.sum(),
        }[self.how]()


@pytest.mark.parametrize("how", ("buffer", "parameter", "expanded", "input", "tanh", "writes"))
@pytest.mark.parametrize("rev", (False, True))
def test_any_answer_is_only_read(block, how, rev):
    made = block((2,), subnet=lambda n, m: Stubborn(how, n, m))
    if how == "input":
        made = block((2,), (1,), subnet=lambda n, m: Stubborn(how, n, m))
    c = [torch.randn(3, 1)] if how == "input" else None
    x = torch.randn(3, 2, requires_grad=True)
    held, given = {k: v.clone() for k, v in made.state_dict().items()}, x.clone()
    (y,), logdet = made([x], c, rev=rev)
    (y.sum() + logdet.sum()).backward()

    assert same(made.state_dict().values(), held.values()) and torch.equal(x, given)
    assert same([made([x], c, rev=rev)[0][0]], [y])


@kinds
def test_a_pass_within_a_pass_disturbs_nothing(block, kind):
    made, x = block((4,), **kind), torch.randn(2, 4)
    want = made([x])
    inner = []

    def hook(module, args, answer):
        if not inner:
            inner.append(None)
            with torch.no_grad():
                made([x + 1], rev=True)

    handle = made.subnet.register_forward_hook(hook)
    (y,), logdet = made([x])
    (y.sum() + logdet.sum()).backward()
    handle.remove()

    assert torch.equal(y, want[0][0]) and torch.equal(logdet, want[1])
    assert all(p.grad is not None for p in made.parameters())


@kinds
@pytest.mark.parametrize("rev", (False, True))
@pytest.mark.parametrize("value", (torch.nan, torch.inf, -torch.inf))
def test_a_sample_that_is_not_finite_leaves_the_others_bits(block, kind, rev, value):
    for gin in (False, True):
        made = block((5, 3), gin_block=gin, reverse_permutation=True, **kind)
        x = torch.randn(3, 5, 3)
        spoilt = x.clone()
        spoilt[1, 2, 1] = value
        others = [0, 2]
        (y,), logdet = made([x], rev=rev)
        (got,), got_logdet = made([spoilt], rev=rev)

        assert same((y[others], logdet[others]), (got[others], got_logdet[others]))


@kinds
def test_results_are_nobody_elses(block, kind):
    """Writing to an output reaches neither the input nor the state, at C = 1 and without a batch too."""
    for dims, B in (((1,), 2), ((1, 3), 2), ((5,), 3), ((4, 2), 0)):
        made, x = block(dims, **kind), torch.randn(B, *dims)
        storages = {t.untyped_storage().data_ptr() for t in (x, *made.state_dict().values()) if t.numel()}
        for rev in (False, True):
            with torch.no_grad():
                (y,), logdet = made([x], rev=rev)
            assert not storages & {t.untyped_storage().data_ptr() for t in (y, logdet) if t.numel()}


def layouts(x):
    """The same values laid out in other ways; storage around them holds NaN."""
    frame = torch.full((x.shape[0], x.shape[1] + 2, *x.shape[2:], 2), torch.nan)
    frame[:, 1:-1, ..., 0] = x
    yield "strided", frame[:, 1:-1, ..., 0]
    yield "transposed", x.transpose(0, 1).contiguous().transpose(0, 1)
    if x.dim() == 4:
        yield "channels-last", x.contiguous(memory_format=torch.channels_last)
    yield "reversed axes", x.permute(*range(x.dim() - 1, -1, -1)).contiguous().permute(*range(x.dim() - 1, -1, -1))


@kinds
@pytest.mark.parametrize("dims", ((5,), (5, 3), (5, 2, 3)), ids=str)
def test_the_layout_of_the_input_hardly_matters(block, kind, dims):
    """A layout may change the order of a sum, no more: a few roundings of the values, which are below 2⁵ here."""
    made, x = block(dims, **kind).double(), torch.randn(2, *dims)
    for rev in (False, True):
        (want,), want_logdet = made([x.double()], rev=rev)
        for name, other in layouts(x):
            (y,), logdet = made([other.double()], rev=rev)
            terms = 64 * dims[0] * 2.0**-53 * 2.0**5

            assert (y - want).abs().max() <= terms and (logdet - want_logdet).abs().max() <= terms, name
