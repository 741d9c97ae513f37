"""In the place of the block of FrEIA and anomalib: containers, checkpoints, whole decoders and their losses."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from FrEIA.framework import ConditionNode, GraphINN, InputNode, Node, OutputNode, ReversibleGraphNet, SequenceINN
from FrEIA.modules import Concat, HaarDownsampling, InvertibleModule, Split
from torch import nn

from flowref.bounds import FLOAT32, Bounded, einsum, exact
from flowref.fast import AllInOneBlock
from flowref.reference import ReferenceBlock
from flowref.targets.anomalib import AllInOneBlock as AnomalibBlock
from flowref.targets.freia import AllInOneBlock as FreiaBlock

public = pytest.mark.parametrize("theirs", [FreiaBlock, AnomalibBlock], ids=["FrEIA-0.2", "anomalib-2.7.0"])
MIXINGS = {
    "hard": {},
    "soft": {"permute_soft": True, "reverse_permutation": True},
    "reflections": {"permute_soft": True, "learned_householder_permutation": 3},
    "gin": {"gin_block": True, "affine_clamping": 1.9},
}
mixings = pytest.mark.parametrize("flags", MIXINGS.values(), ids=MIXINGS.keys())
shapes = pytest.mark.parametrize("dims", [(6,), (6, 4, 4)], ids=str)


@pytest.fixture(params=["numba", "eager"], autouse=True)
def form(request, monkeypatch):
    """Every test, in both forms of the block."""
    if request.param == "numba":
        pytest.importorskip("numba")
    monkeypatch.setenv("FLOWREF_FAST", request.param)


# ---- subnets as anomalib's decoders have them, and the reference over them


def conv(n, m, kernel=3):
    """FastFlow's: as many channels within as come in."""
    return nn.Sequential(nn.Conv2d(n, n, kernel, padding="same"), nn.ReLU(), nn.Conv2d(n, m, kernel, padding="same"))


def conv1(n, m):
    """FastFlow's of every second step."""
    return conv(n, m, 1)


def dense(n, m):
    """CFlow's."""
    return nn.Sequential(nn.Linear(n, 2 * n), nn.ReLU(), nn.Linear(2 * n, m))


def subnet_for(dims):
    return conv if len(dims) == 3 else dense


class Layers(nn.Module):
    """Linear, Conv2d and ReLU on numbers that carry their error."""

    def __init__(self, layers):
        super().__init__()
        self.layers = copy.deepcopy(layers)

    def forward(self, v):
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                ends = (v.value + v.error).relu(), (v.value - v.error).relu()
                v = Bounded(v.arith, v.value.relu(), torch.stack([(e - v.value.relu()).abs() for e in ends]).amax(0))
                continue
            if isinstance(layer, nn.Conv2d):
                k, _ = layer.kernel_size
                parts = [F.unfold(t, k, padding=k // 2).unflatten(2, v.shape[2:]) for t in (v.value, v.error, v.size)]
                v = Bounded(v.arith, *parts, depth=v.depth)
            weight, bias = (exact(t, v.arith) for t in (layer.weight.flatten(1), layer.bias))
            v = einsum("oi,bi...->bo...", weight, v) + bias.reshape(1, -1, *[1] * (v.ndim - 2))
        return v


@torch.no_grad()
def bounded(block, x, c=(), rev=False):
    """A pass of the reference in the place of our block, and how far float32 may be from it; x may carry an error."""
    spec = block.spec
    made = ReferenceBlock(
        [spec.dims], spec.dims_c, lambda n, m: Layers(block.subnet), spec.affine_clamping, spec.gin_block,
        spec.global_affine_init, spec.global_affine_type, False, spec.learned_householder_permutation,
        spec.reverse_permutation, dialect=spec.dialect,
    )  # fmt: skip
    made.load_state_dict({k: v for k, v in block.state_dict().items() if "." not in k}, strict=False)
    state = {name: exact(v, FLOAT32) for name, v in made.tensors().items()}
    return made.trace(x if isinstance(x, Bounded) else exact(x), [exact(v) for v in c], rev, state)


def assert_within(got, want):
    """Each number within its bound, and the bound less than 1/16 of the largest number, so that it says something."""
    assert got.dtype == torch.float32 and got.shape == want.value.shape
    assert float(want.error.max()) <= float(want.size.max()) / 16
    assert (got.double() - want.value).abs().le(want.error).all(), float(((got - want.value).abs() / want.error).max())


def assert_chain_within(blocks, x, c, rev, got, logdet):
    """What a chain of blocks answers, within the bounds of the references, carried from each to the next."""
    total = None
    for block in reversed(blocks) if rev else blocks:
        one = bounded(block, x, c if block.spec.dims_c else (), rev)
        x, total = one.out.stored(), one.logdet if total is None else total + one.logdet
    assert_within(got, x)
    assert_within(logdet, total)


def moved(net):
    """Off the starting point, so that no constant hides."""
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.rpartition(".")[2] in ("global_scale", "global_offset"):
                value += torch.randn_like(value) / 4
    return net


# ---- containers


def sequence(block, dims=(6, 4, 4)):
    """Each kind of mixing once, the second and the fourth on a condition."""
    inn = SequenceINN(*dims)
    for k, flags in enumerate(MIXINGS.values()):
        given = {"cond": k // 2, "cond_shape": (2, *dims[1:])} if k % 2 else {}
        inn.append(block, subnet_constructor=subnet_for(dims), **given, **flags)
    return inn


@shapes
def test_a_sequence_is_its_blocks_one_after_another(dims):
    inn = moved(sequence(AllInOneBlock, dims))
    x, c = torch.randn(3, *dims), [torch.randn(3, 2, *dims[1:]) for _ in range(2)]
    for rev in (False, True):
        y, total = x, 0
        for k, block in list(enumerate(inn))[:: -1 if rev else 1]:
            (y,), j = block([y], [c[k // 2]] if k % 2 else None, rev=rev)
            total = j + total
        got, logdet = inn(x, c, rev=rev)
        without, _ = inn(x, c, rev=rev, jac=False)

        assert torch.equal(got, y) and torch.equal(logdet, total) and torch.equal(without, y)
    assert len(inn) == 4 and inn.shapes == [dims] * 5
    assert [type(block) for block in inn[1:3]] == [AllInOneBlock] * 2


@public
@shapes
def test_a_sequence_of_theirs_with_the_same_state_answers_the_same(theirs, dims):
    ours, inn = moved(sequence(AllInOneBlock, dims)), sequence(theirs, dims)
    inn.load_state_dict(ours.state_dict())
    x, c = torch.randn(3, *dims), [torch.randn(3, 2, *dims[1:])] * 2
    with torch.no_grad():
        for rev in (False, True):
            for net in (ours, inn):
                assert_chain_within(list(ours), x, c[:1], rev, *net(x, c, rev=rev))


def graph(block, kind=GraphINN, **words):
    """Channels split in two, a conditional block on one half, one with reflections on both, then Haar wavelets."""
    x, c = InputNode(6, 4, 4, name="x"), ConditionNode(2, 4, 4, name="c")
    halves = Node(x, Split, {"section_sizes": [2, 4], "dim": 0}, name="split")
    first = Node(halves.out1, block, {"subnet_constructor": conv} | MIXINGS["gin"], conditions=c, name="first")
    both = Node([halves.out0, first.out0], Concat, {"dim": 0}, name="both")
    second = Node(both, block, {"subnet_constructor": conv} | MIXINGS["reflections"], name="second")
    haar = Node(second, HaarDownsampling, {}, name="haar")
    return kind([x, c, halves, first, both, second, haar, OutputNode(haar, name="y")], **words)


def test_a_graph_is_its_nodes_one_after_another():
    net = moved(graph(AllInOneBlock))
    first, second, haar = (net.get_module_by_name(name) for name in ("first", "second", "haar"))
    x, c = torch.randn(3, 6, 4, 4), torch.randn(3, 2, 4, 4)
    (b,), j1 = first([x[:, 2:]], [c])
    (y,), j2 = second([torch.cat((x[:, :2], b), 1)])
    (y,), j3 = haar([y])
    got, logdet = net(x, c=c)

    assert torch.equal(got, y) and torch.equal(logdet, torch.zeros(3) + j1 + j2 + j3)
    assert torch.equal(net(x, c=c, jac=False)[0], y)
    (back,), k3 = haar([y.clone()], rev=True)  # which writes to what it is given
    (back,), k2 = second([back], rev=True)
    (b,), k1 = first([back[:, 2:]], [c], rev=True)
    got, logdet = net(y, c=c, rev=True)

    assert torch.equal(got, torch.cat((back[:, :2], b), 1)) and torch.equal(logdet, torch.zeros(3) + k3 + k2 + k1)


def test_a_graph_is_saved_copied_and_loaded():
    with pytest.warns(DeprecationWarning):
        net = moved(graph(AllInOneBlock, ReversibleGraphNet, verbose=False))
    x, c = torch.randn(3, 6, 4, 4), torch.randn(3, 2, 4, 4)
    other, file = graph(AllInOneBlock), io.BytesIO()
    other.load_state_dict(net.state_dict())
    torch.save(net, file)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        want = net(x, c=c)
        copies = other, copy.deepcopy(net), pickle.loads(pickle.dumps(net)), torch.load(file, weights_only=False)
        for one in copies:
            assert all(torch.equal(a, b) for a, b in zip(want, one(x, c=c), strict=True))


@public
def test_a_graph_of_theirs_with_the_same_state_answers_the_same(theirs):
    ours, net = moved(graph(AllInOneBlock)), graph(theirs)
    net.load_state_dict(ours.state_dict())
    first, second, haar = (ours.get_module_by_name(name) for name in ("first", "second", "haar"))
    x, c = torch.randn(3, 6, 4, 4), torch.randn(3, 2, 4, 4)
    one = bounded(first, x[:, 2:], [c])
    two = bounded(second, torch.cat([exact(x[:, :2]), one.out.stored()], 1))
    with torch.no_grad():
        for which in (ours, net):
            outs, jacobians = which(x, c=c, intermediate_outputs=True)
            named = {node.name: node for node in which.node_list}
            assert_within(outs[named["second"], 0], two.out)
            assert_within(jacobians[named["first"]], one.logdet)
            assert_within(jacobians[named["second"]], two.logdet)


def test_it_is_one_of_frEIAs_modules_where_frEIA_is_there():
    """FrEIA's main branch appends, replaces and inverts ready blocks, and asks them for these three."""
    block = AllInOneBlock([(6, 4, 4)], [(2, 4, 4)], conv)

    assert isinstance(block, InvertibleModule)
    assert (block.dims_in, block.dims_c) == ([(6, 4, 4)], [(2, 4, 4)])
    assert block.output_dims(block.dims_in) == [(6, 4, 4)]


@pytest.mark.parametrize("kind", (ValueError, RuntimeError))
def test_a_wrong_shape_is_what_users_of_either_catch(kind):
    """FrEIA's tests ask for a RuntimeError."""
    inn = SequenceINN(6)
    inn.append(AllInOneBlock, subnet_constructor=dense)
    with pytest.raises(kind, match=r"shape \(3, 5\)"):
        inn(torch.randn(3, 5))


# ---- checkpoints


@public
@mixings
@shapes
def test_checkpoints_go_both_ways(theirs, flags, dims):
    """Also theirs of a block that has run, which leaves its W on itself."""
    arguments = [dims], [], subnet_for(dims)
    ours, used, x = AllInOneBlock(*arguments, **flags), moved(theirs(*arguments, **flags)), torch.randn(3, *dims)
    used([x])
    for source, sink in ((used, ours), (moved(ours), theirs(*arguments, **flags))):
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        sink.load_state_dict(torch.load(file), strict=True)
        for rev in (False, True):
            want = bounded(ours, x, (), rev)
            for block in (source, sink):
                (y,), logdet = block([x], rev=rev)
                assert_within(y.detach(), want.out)
                assert_within(logdet.detach(), want.logdet)


def stored_by_freia_main(dims, flags):
    """Names, shapes and dtypes that FrEIA's main branch, commit 4212496, stores for the block itself."""
    C, ones, n = dims[0], (1,) * (len(dims) - 1), flags.get("learned_householder_permutation", 0)
    affine = dict.fromkeys(("global_scale", "global_offset"), ((1, C, *ones), torch.float32))
    if n:
        return affine | {"w_0": ((C, C), torch.float32), "vk_householder": ((n, C), torch.float32)}
    W = ((C, C, *ones), torch.float32) if flags.get("permute_soft") else ((C,), torch.int64)
    return affine | {"w_perm": W, "w_perm_inv": W}


@mixings
@shapes
def test_checkpoints_of_freias_main_branch_are_those_of_its_dialect(flags, dims):
    """Which stores parameters, and a hard permutation as an index."""
    flags = {"affine_clamping": 1.9} | flags | {"dialect": "freia-main"}
    ours, x = moved(AllInOneBlock([dims], [], subnet_for(dims), **flags)), torch.randn(3, *dims)
    own = {k: (tuple(v.shape), v.dtype) for k, v in ours.state_dict().items() if "." not in k}
    assert own == stored_by_freia_main(dims, flags)

    as_theirs = {k: nn.Parameter(v.clone(), False) for k, v in ours.state_dict().items()}
    other = AllInOneBlock([dims], [], subnet_for(dims), **flags)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_state_dict(as_theirs, strict=True)
    for rev in (False, True):
        want = bounded(ours, x, (), rev)
        (y,), logdet = other([x], rev=rev)
        assert_within(y.detach(), want.out)
        assert_within(logdet.detach(), want.logdet)


def test_an_index_read_into_the_dialect_anomalib_warns_once():
    source = SequenceINN(6)
    sink = {alpha: SequenceINN(6) for alpha in (1.0, 1.9)}
    for _ in range(3):
        source.append(AllInOneBlock, subnet_constructor=dense, dialect="freia-main")
        for alpha, net in sink.items():
            net.append(AllInOneBlock, subnet_constructor=dense, affine_clamping=alpha)
    state = source.state_dict()
    for alpha, times in ((1.0, 0), (1.9, 1)):  # at α = 1 the dialects are one function
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("default")
            sink[alpha].load_state_dict(state)
        assert [w.category for w in seen] == [UserWarning] * times
        assert all('dialect="freia-main"' in str(w.message) and "affine_clamping" in str(w.message) for w in seen)
    with warnings.catch_warnings():  # a matrix says nothing of where it comes from
        warnings.simplefilter("error")
        sink[1.9].load_state_dict(sink[1.0].state_dict())


# ---- decoders, as anomalib builds them


def fastflow(block, C=8, size=8, steps=8):
    """3×3 and 1×1 convolutions in turn."""
    inn = SequenceINN(C, size, size)
    for k in range(steps):
        inn.append(block, subnet_constructor=conv1 if k % 2 else conv, affine_clamping=2.0, permute_soft=False)
    return inn


def cflow(block, C=12, conditions=8, steps=8):
    inn = SequenceINN(C)
    for _ in range(steps):
        inn.append(
            block, cond=0, cond_shape=(conditions,), subnet_constructor=dense, affine_clamping=1.9,
            global_affine_type="SOFTPLUS", permute_soft=False,
        )  # fmt: skip
    return inn


DECODERS = {"FastFlow": (fastflow, (4, 8, 8, 8), ()), "CFlow": (cflow, (32, 12), ((32, 8),))}
decoders = pytest.mark.parametrize(("decoder", "shape", "conditions"), DECODERS.values(), ids=DECODERS.keys())


@decoders
def test_a_decoder_answers_within_the_bounds(decoder, shape, conditions):
    """Ours and anomalib's, of one state: the references of all eight steps, each given the bounds of the one before."""
    ours, theirs = moved(decoder(AllInOneBlock)), decoder(AnomalibBlock)
    theirs.load_state_dict(ours.state_dict())
    x, c = torch.randn(shape), [torch.randn(s) for s in conditions]
    with torch.no_grad():
        for rev in (False, True):
            for net in (ours, theirs):
                assert_chain_within(list(ours), x, c, rev, *net(x, c, rev=rev))


OPTIMIZERS = {
    "Adam": lambda trained: torch.optim.Adam(trained, lr=1e-3),  # anomalib's; blind to the scale of a gradient
    "SGD": lambda trained: torch.optim.SGD(trained, lr=1e-2, momentum=0.9),
}


def losses(net, data, optimizer):
    """Of the mean negative log-likelihood a dimension, one step for each batch; float64 numbers."""
    found = []
    for x, c in data:
        z, logdet = net(x, c)
        loss = (z.flatten(1).square().sum(1) / 2 - logdet).mean() / x[0].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.detach().double())
    return torch.stack(found)


@decoders
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_training_goes_as_with_anomalibs_block(decoder, shape, conditions, optimizer):
    """20 steps. How training amplifies rounding no bound of ours follows, so anomalib's block is the yardstick:

    ours strays from the float64 losses by no more than 4 times what its float32 losses do, and one ulp of a loss. In
    float64 both stray by the ratio of the unit roundoffs, 2⁻²⁹, as much, and are that near to each other.
    """
    start = moved(decoder(AllInOneBlock)).state_dict()
    data = [(torch.randn(shape), [torch.randn(s) for s in conditions]) for _ in range(20)]
    found = {}
    for block in (AllInOneBlock, AnomalibBlock):
        for dtype in (torch.float32, torch.float64):
            net = decoder(block).to(dtype)
            net.load_state_dict(start)
            given = [(x.to(dtype), [v.to(dtype) for v in c]) for x, c in data]
            found[block, dtype] = losses(net, given, optimizer(net.parameters()))
    want = found[AnomalibBlock, torch.float64]
    off = {key: float((value - want).abs().max()) for key, value in found.items()}
    allowed = 4 * off[AnomalibBlock, torch.float32] + float(want.max()) * torch.finfo(torch.float32).eps

    assert want[-1] < want[0]
    assert 0 < off[AllInOneBlock, torch.float32] <= allowed
    assert off[AllInOneBlock, torch.float64] <= allowed * 2.0**-29


def carried(state, theirs):
    """An optimizer's state over `theirs`, without what it says of parameters that are not trained."""
    kept = [k for k, p in enumerate(theirs.parameters()) if p.requires_grad]
    number = {old: new for new, old in enumerate(kept)}
    groups = [g | {"params": [number[k] for k in g["params"] if k in number]} for g in state["param_groups"]]
    return {"state": {number[k]: v for k, v in state["state"].items() if k in number}, "param_groups": groups}


@public
@mixings
def test_an_optimizers_state_goes_over_without_the_frozen_w(theirs, flags):
    """Theirs holds W among its parameters, ours does not; what is trained stands in one order."""
    arguments = [(6,)], [], dense
    old, new = theirs(*arguments, **flags), AllInOneBlock(*arguments, **flags)
    trained = [name for name, p in old.named_parameters() if p.requires_grad]
    assert trained == [name for name, _ in new.named_parameters()]

    optimizer = torch.optim.Adam(old.parameters())
    (y,), logdet = old([torch.randn(3, 6)])
    (y.square().sum() - logdet.sum()).backward()
    optimizer.step()
    other = torch.optim.Adam(new.parameters())
    other.load_state_dict(carried(optimizer.state_dict(), old))
    for name, p in new.named_parameters():
        was = optimizer.state[dict(old.named_parameters())[name]]
        assert all(torch.equal(other.state[p][k], v) for k, v in was.items())
