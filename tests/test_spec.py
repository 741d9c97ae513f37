"""The constructor's arguments: what is legal; each refusal says what was given, what is allowed, what to do."""

import math
import pickle

import pytest

from flowref.spec import BlockSpec, Dialect, IllegalArgument


def subnet(inputs: int, outputs: int) -> None:
    """Stands for a constructor; never called here."""


def make(dims_in: object = ((4, 2, 3),), dims_c: object = None, subnet_constructor: object = subnet, **flags: object):
    return BlockSpec.from_arguments(dims_in, dims_c, subnet_constructor, **flags)


# (arguments, words of the message: argument and value, what is needed, what to do)
REFUSED = {
    "bare-shape": ({"dims_in": (4,)}, ["dims_in=(4,)", "a list that holds one shape", "[(4, 8, 8)]"]),
    "no-shape": ({"dims_in": []}, ["dims_in=[]", "holds 0 shapes", "exactly one shape"]),
    "two-shapes": ({"dims_in": [(4,), (4,)]}, ["holds 2 shapes", "exactly one shape", "dims_c"]),
    "empty-shape": ({"dims_in": [()]}, ["dims_in=()", "has no axis", "the channel axis"]),
    "fractional-axis": ({"dims_in": [(4.7,)]}, ["dims_in=(4.7,)", "whole numbers"]),
    "rank-4": ({"dims_in": [(4, 1, 2, 1, 2)]}, ["has 4 spatial axes", "at most 3", "leave out the batch axis"]),
    "no-channel": ({"dims_in": [(0, 3)]}, ["has 0 channels", "at least 1 channel", "C >= 1"]),
    "negative-channels": ({"dims_in": [(-1,)]}, ["has -1 channels", "C >= 1"]),
    "no-pixel": ({"dims_in": [(4, 0)]}, ["dims_in=(4, 0)", "axis without pixels", "every axis >= 1"]),
    "bare-condition": ({"dims_c": 3}, ["dims_c=3", "a list with one shape a condition"]),
    "condition-no-axis": ({"dims_c": [(2, 2, 3), ()]}, ["dims_c[1]=()", "the channel axis", "(2, 2, 3)"]),
    "condition-other-space": ({"dims_c": [(2, 5, 3)]}, ["dims_c[0]", "(5, 3)", "(2, 3)", "Give (2, 2, 3)"]),
    "second-condition-other-space": ({"dims_c": [(2, 2, 3), (1, 4, 3)]}, ["dims_c[1]", "(4, 3)", "Give (1, 2, 3)"]),
    "no-subnet": ({"subnet_constructor": None}, ["subnet_constructor=None", "a callable", "torch.nn.Linear"]),
    "subnet-is-a-number": ({"subnet_constructor": 3}, ["subnet_constructor=3", "a callable"]),
    "unknown-affine": ({"global_affine_type": "SOFTPLS"}, ["'SOFTPLS'", "SIGMOID, SOFTPLUS, EXP", "'SOFTPLUS'?"]),
    "lower-case-affine": ({"global_affine_type": "exp"}, ["'exp'", "Did you mean 'EXP'?"]),
    "g-zero": ({"global_affine_init": 0}, ["global_affine_init=0", "g > 0"]),
    "g-negative": ({"global_affine_init": -1.0, "global_affine_type": "EXP"}, ["=-1.0", "too small for EXP", "g > 0"]),
    "g-nan": ({"global_affine_init": math.nan}, ["=nan", "not finite", "a finite number"]),
    "g-inf": ({"global_affine_init": math.inf}, ["=inf", "not finite"]),
    "g-too-large": (
        {"global_affine_init": 12.0, "global_affine_type": "SIGMOID"},
        ["global_affine_init=12.0 is too large for SIGMOID", "0 < g < 10", "10·sigmoid(s − 2)", "EXP or SOFTPLUS"],
    ),
    "alpha-negative": ({"affine_clamping": -2.0}, ["affine_clamping=-2.0 is negative", "α >= 0", "Use 2"]),
    "alpha-nan": ({"affine_clamping": math.nan}, ["affine_clamping=nan", "finite"]),
    "alpha-word": ({"affine_clamping": "2"}, ["affine_clamping='2'", "a real number"]),
    "alpha-none": ({"affine_clamping": None}, ["affine_clamping=None", "a real number"]),
    "alpha-zero-freia": (
        {"affine_clamping": 0.0, "dialect": "freia-main"},
        ["affine_clamping=0.0 is zero", "α > 0 in the dialect freia-main", "the dialect anomalib"],
    ),
    "reflections-negative": (
        {"learned_householder_permutation": -1},
        ["learned_householder_permutation=-1 is negative", "0 or more", "Use 0"],
    ),
    "reflections-fraction": ({"learned_householder_permutation": 2.5}, ["=2.5", "a whole number of reflections"]),
    "unknown-dialect": ({"dialect": "freia"}, ["dialect='freia'", "anomalib, freia-main, documented", "'freia-main'?"]),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED)
def test_refuses(arguments: dict, words: list[str]) -> None:
    with pytest.raises(IllegalArgument) as caught:
        make(**arguments)

    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message


def test_an_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"unknown argument 'gin'.*'gin_block'"):
        make(gin=True)


@pytest.mark.parametrize("g", [1e-30, 9.999, 5])
def test_takes_the_whole_range_of_g(g: float) -> None:
    assert make(global_affine_type="SIGMOID", global_affine_init=g).global_affine_init == g


@pytest.mark.parametrize("dialect", [Dialect.ANOMALIB, Dialect.DOCUMENTED])
def test_a_clamp_of_0_is_legal_where_nothing_divides_by_it(dialect: Dialect) -> None:
    assert make(affine_clamping=0, dialect=dialect).affine_clamping == 0


def test_sizes_follow_from_the_shape() -> None:
    spec = make([(5, 2, 3)], [(2, 2, 3), (1, 2, 3)])

    sizes = (spec.C, spec.S, spec.rank, spec.N, spec.P, spec.A, spec.subnet_in, spec.subnet_out)
    assert sizes == (5, (2, 3), 2, 6, 3, 2, 6, 4)


def test_one_channel_is_all_passive() -> None:
    spec = make([(1,)])

    assert (spec.P, spec.A, spec.subnet_in, spec.subnet_out) == (1, 0, 1, 0)


def test_a_refusal_passes_between_processes() -> None:
    with pytest.raises(IllegalArgument) as caught:
        make(affine_clamping=-1.0)

    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.name, again.value) == (str(caught.value), "affine_clamping", -1.0)


def test_is_a_value() -> None:
    assert make([(4,)]) == make([[4]])
    assert hash(make([(4,)])) == hash(make([(4,)]))
