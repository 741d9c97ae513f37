import copy
import pickle

import mpmath
import pytest
import torch

from flowref.bounds import exact
from flowref.cases import KINDS, Recipe
from flowref.cases.subnets import PROBES

CASES = [
    pytest.param(
        Recipe(B=2, C=C, S=S, subnet=kind, conditions=conditions, bits=8, dense=False, seed=3), id=f"{kind}-{C}-{S}"
    )
    for kind in PROBES
    for C, S, conditions in ((5, (), (2,)), (4, (3,), ()), (3, (2, 3), (1, 1)), (4, (2, 1, 2), ()), (21, (2,), (3,)))
    if S or kind != "convolutional"
]


def probe_and_input(recipe):
    case = recipe.case()
    probe = case.subnet_constructor(case.spec.subnet_in, case.spec.subnet_out).double()
    return case, probe, torch.cat([case.x[:, : case.spec.P], *case.c], 1)


def same_up_to_ulps(want, got, ulps):
    """Whether got differs from want by at most so many ulps (2^-52) of the largest element of want.

    Why a count: both are the same sums of the same products, in two orders, of numbers of a few magnitudes. An ulp of
    the largest is more than an addition can lose, and at most ``ulps`` additions and function values meet in one.
    Where all numbers have 8 bits the sums are exact in float64, and ulps is 0.
    """
    if want.numel() == 0:
        return want.shape == got.shape
    return want.shape == got.shape and not bool((want - got).abs().max() > ulps * 2.0**-52 * want.abs().max())


def allowed_ulps(recipe):
    return 64 if recipe.subnet in ("network", "activation") else 0


@pytest.mark.parametrize("recipe", CASES)
def test_pullback_is_the_gradient(recipe):
    _, probe, x = probe_and_input(recipe)
    x.requires_grad_()
    answer = probe(x)
    g = torch.arange(1.0, answer.numel() + 1, dtype=torch.float64).reshape(answer.shape) / 8 - 2
    named = dict(probe.named_parameters())
    named = named if answer.requires_grad else {}  # frozen: no gradient, whatever its parameters
    want = (
        torch.autograd.grad(answer, [x, *named.values()], g, allow_unused=True, materialize_grads=True)
        if answer.requires_grad
        else [torch.zeros_like(x)]
    )
    with torch.no_grad():
        g_x, g_named = probe.pullback(x.detach(), g)

    assert list(g_named) == list(named)
    for name, one, other in zip(["x", *named], want, [g_x, *g_named.values()], strict=True):
        assert same_up_to_ulps(one, other, allowed_ulps(recipe)), name


@pytest.mark.parametrize("recipe", CASES)
def test_the_scalar_twin_is_the_same_function(recipe):
    case, probe, x = probe_and_input(recipe)
    ctx = mpmath.MPContext()
    ctx.dps = 30
    parameters = dict(probe.named_parameters()) | dict(probe.named_buffers())
    twin = case.subnet.scalars(ctx, parameters, case.spec.S)
    with torch.no_grad():
        answer = probe(x)

    for want, sample in zip(answer, x, strict=True):
        pixels = sample.reshape(sample.shape[0], -1).tolist()
        got = twin([[ctx.mpf(value) for value in row] for row in pixels])
        got = torch.tensor([[float(value) for value in row] for row in got], dtype=torch.float64).reshape(want.shape)
        assert same_up_to_ulps(want, got, allowed_ulps(recipe))


@pytest.mark.parametrize("recipe", CASES)
def test_the_same_lines_run_on_numbers_with_bounds(recipe):
    _, probe, x = probe_and_input(recipe)
    with torch.no_grad():
        want = probe.answer(x)
        g = torch.ones_like(want)
        want_x, want_named = probe.pullback(x, g)
        got = probe.answer(exact(x))
        got_x, got_named = probe.pullback(exact(x), exact(g))

    plain = lambda v: getattr(v, "value", v)  # noqa: E731
    assert torch.equal(plain(got), want)
    assert torch.equal(plain(got_x), want_x)
    for name, value in want_named.items():
        assert torch.equal(plain(got_named[name]), value), name


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_no_view(kind):
    _, probe, x = probe_and_input(Recipe(subnet=kind, S=(2,)))
    answer = probe(x)
    held = {v.untyped_storage().data_ptr() for v in (x, *probe.parameters())}

    assert answer.untyped_storage().data_ptr() not in held


@pytest.mark.parametrize("B", [0, 2])
def test_linear_works_without_channels_out_and_without_samples(B):
    case, probe, _ = probe_and_input(Recipe(B=B or 0, C=2 if B == 0 else 1, S=(2,)))
    x = case.x[:, : case.spec.P]

    answer = probe(x)
    g_x, grads = probe.pullback(x, answer)

    assert answer.shape == (B, case.spec.subnet_out, 2)
    assert g_x.shape == x.shape
    assert all(grads[name].shape == value.shape for name, value in probe.named_parameters())


def test_a_probe_records_as_given_and_forgets():
    _, probe, x = probe_and_input(Recipe())
    answer = probe(x)

    assert probe.seen[0] is x
    assert probe.answers[0] is answer
    assert copy.deepcopy(probe).seen == pickle.loads(pickle.dumps(probe)).answers == []
    probe.clear()
    assert probe.seen == probe.answers == []


def test_other_sizes_than_the_blocks_are_named():
    case = Recipe(C=5, conditions=(2,)).case()

    with pytest.raises(ValueError, match=r"subnet_constructor\(4, 4\).*5 channels in.*4 out"):
        case.subnet_constructor(4, 4)


def test_constant_coefficients_differ_by_channel():
    coefficients = Recipe(C=64, subnet="constant").case().state["subnet.coefficients"]

    assert len(set(coefficients.tolist())) == 64
