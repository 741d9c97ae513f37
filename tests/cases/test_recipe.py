from dataclasses import replace

import pytest
import torch

from flowref.cases import KINDS, Recipe
from flowref.cases.recipe import DRAWN, WIDE
from flowref.spec import Dialect

DIALECTS = [d.value for d in Dialect]


@pytest.mark.parametrize(
    ("given", "settled"),
    [
        ({"B": 0, "C": 1}, {"B": 0, "C": 2}),
        ({"B": 0, "reflections": 2}, {"B": 0, "reflections": 2, "soft": True}),
        ({"B": 0, "alpha": 0}, {"B": 0, "alpha": 2.0}),
        ({"C": 1, "reflections": 1, "subnet": "network"}, {"C": 1, "reflections": 1, "soft": True, "subnet": "linear"}),
        ({"C": 1, "alpha": 0}, {"C": 1, "alpha": 2.0}),
        ({"reflections": 3, "alpha": 0}, {"reflections": 3, "alpha": 2.0}),
        ({"alpha": 0, "dialect": "freia-main"}, {"alpha": 2.0, "dialect": "freia-main"}),
        ({"affine": "SIGMOID", "g": 40.0}, {"affine": "SIGMOID", "g": 10 * (1 - 2.0**-20)}),
        ({"scale": "one"}, {"scale": "drawn"}),
        ({"subnet": "convolutional"}, {"subnet": "linear"}),
        ({"subnet": "zero", "clamp": "saturated"}, {"subnet": "zero", "clamp": "linear"}),
        ({"subnet": "activation", "clamp": "saturated"}, {"subnet": "activation", "clamp": "linear"}),
        (
            {"subnet": "activation", "clamp": "saturated", "dialect": "documented"},
            {"subnet": "activation", "clamp": "curved", "dialect": "documented"},
        ),
        ({"layout": "expanded", "B": 1}, {"B": 1}),
        ({"layout": "transposed", "B": 1}, {"B": 1}),
        ({"layout": "channels-last"}, {}),
        ({"dense": True}, {}),
    ],
    ids=str,
)
def test_fields_that_contradict_settle(given, settled):
    assert repr(Recipe(**given)) == repr(Recipe(**settled))
    assert vars(Recipe(**given)) == vars(Recipe()) | settled


@pytest.mark.parametrize("field", ["batch-0", "channels-1", "reflections-hard", "alpha-0", None])
def test_a_case_is_at_one_edge_at_most(field):
    edges = {
        "batch-0": {"B": 0},
        "channels-1": {"C": 1},
        "reflections-hard": {"reflections": 2},
        "alpha-0": {"alpha": 0.0},
    }

    for other in edges.values():
        case = Recipe(**{**other, **edges.get(field, {})}).case()
        met = case.regimes & edges.keys()

        assert met == ({case.edge} if case.edge else set())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"subnet": "convolution"}, ["subnet='convolution'", "activation", "Did you mean 'convolutional'?"]),
        ({"affine": "softplus"}, ["affine='softplus'", "SIGMOID, SOFTPLUS, EXP"]),
        ({"B": -1}, ["B=-1", "0 or more"]),
        ({"S": (2, 0)}, ["S=(2, 0)", "at most 3 axes"]),
        ({"g": float("nan")}, ["g=nan", "2**-126"]),
        ({"alpha": -1.0}, ["alpha=-1.0", "2**-20"]),
        ({"bits": 4}, ["bits=4", "bfloat16"]),
    ],
    ids=str,
)
def test_a_value_outside_its_range_is_named(fields, words):
    with pytest.raises(ValueError) as error:
        Recipe(**fields)

    assert all(word in str(error.value) for word in words)


def test_repr_shows_what_differs_and_reads_back():
    recipe = Recipe(B=1, C=3, S=(2,), g=0.5, dialect="documented", seed=9)

    assert repr(recipe) == "Recipe(B=1, C=3, S=(2,), g=0.5, dialect='documented', seed=9)"
    assert eval(repr(recipe)) == recipe
    assert Recipe(**recipe.json()) == recipe


def test_states_are_away_from_initial_values():
    case = Recipe(C=5, soft=True, reflections=4).case()
    s, o, v = (case.state[name] for name in ("global_scale", "global_offset", "vk_householder"))

    assert len(set(s.flatten().tolist())) == len(set(o.flatten().tolist())) == 5
    assert (o != 0).all()
    assert len(set((v * v).sum(1).tolist())) == 4


@pytest.mark.parametrize("affine", DRAWN)
@pytest.mark.parametrize("scale", ["drawn", "wide"])
def test_scales_reach_both_ends_of_their_range(affine, scale):
    low, high = (WIDE if scale == "wide" else DRAWN)[affine]
    s = Recipe(C=33, affine=affine, scale=scale).case().state["global_scale"]

    assert low <= s.min() <= low + (high - low) / 33
    assert high >= s.max() >= high - (high - low) / 33


def test_past_8_channels_all_is_sparse_unless_dense():
    for dense, per_row in ((False, (8, 8, 4, 8)), (True, (40, 40, 22, 8))):
        state = Recipe(C=40, soft=True, reflections=3, subnet="network", dense=dense, conditions=(2,)).case().state
        names = ("w_0", "vk_householder", "subnet.weight_1", "subnet.weight_2")

        assert tuple(int((state[name] != 0).sum(1).max()) for name in names) == per_row
        assert (state["subnet.weight_1"] != 0).any(0).all(), "every input is read"


def test_the_stored_inverse_is_exactly_the_transpose():
    for recipe in (Recipe(), Recipe(soft=True, C=17, S=(2, 2)), Recipe(soft=True, bits=8)):
        state, C = recipe.case().state, recipe.C

        assert torch.equal(state["w_perm"].reshape(C, C).T, state["w_perm_inv"].reshape(C, C))


@pytest.mark.parametrize(("bits", "dtype"), [(24, torch.float32), (11, torch.float16), (8, torch.bfloat16)])
def test_every_number_is_exact_in_the_narrowest_dtype(bits, dtype):
    for kind in KINDS:
        case = Recipe(soft=True, reflections=2, subnet=kind, S=(3,), conditions=(2,), bits=bits, alpha=1.9).case()

        for name, value in case.arrays.items():
            assert torch.equal(value.to(dtype).double(), value), name


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", ["constant", "linear", "convolutional", "network"])
@pytest.mark.parametrize(
    ("clamp", "low", "high"), [("linear", 2**-9, 2**-3), ("curved", 1 / 8, 8), ("saturated", 8, 512)]
)
def test_the_argument_of_tanh_has_its_regimes_size(dialect, kind, clamp, low, high):
    case = Recipe(B=4, C=6, S=(3,), subnet=kind, clamp=clamp, dialect=dialect, alpha=3.0, seed=4).case()
    spec = case.spec
    answer = case.subnet_constructor(spec.subnet_in, spec.subnet_out).double()(case.x[:, : spec.P])
    k, t = answer[:, : spec.A].detach(), answer[:, spec.A :].detach()
    if dialect != "documented":
        k, t = k / 10, t / 10
    if dialect == "freia-main":
        k = k / 3

    assert low < k.abs().median() < high
    assert 1 / 8 < t.abs().median() < 4
    assert (k > 0).any()
    assert (k < 0).any()
    assert case.regimes >= {f"clamp-{clamp}"}
    assert replace(case, recipe=None).regimes == case.regimes, "told from the probe alone"
