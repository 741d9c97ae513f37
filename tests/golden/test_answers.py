"""Each number is the float64 nearest to the exact one: Ziv's test, ties, structural zeros."""

import math
import time
from dataclasses import replace
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch

from flowref.cases import Recipe
from flowref.golden import answers as module
from flowref.golden.answers import Unsettled, answers, certain
from flowref.golden.listing import Listed
from flowref.golden.rational import FRACTIONS, UNKNOWN

CTX = mpmath.MPContext()
CTX.dps = 80


def number(text):
    return CTX.mpf(text)


MIDDLE = 1 + number(2) ** -53  # between 1 and the next float64


def test_digits_decide_once_they_tell_on_which_side_of_the_middle_a_number_lies():
    above = MIDDLE + number(10) ** -45
    assert certain(above, above, 40) is None
    assert certain(above, above, 60) == 1 + 2.0**-52
    assert certain(MIDDLE - number(10) ** -45, MIDDLE - number(10) ** -45, 60) == 1.0


def test_two_computations_that_differ_by_more_than_the_distance_to_the_middle_decide_nothing():
    far = MIDDLE + number(10) ** -20
    assert certain(far + number(10) ** -19, far, 60) is None
    assert certain(far + number(10) ** -21, far, 60) == 1 + 2.0**-52


def test_an_exact_middle_is_never_decided_by_digits():
    ctx = mpmath.MPContext()
    ctx.dps = 2000
    middle = 1 + ctx.mpf(2) ** -53

    assert certain(middle, middle, 960) is None


def test_a_number_below_every_float64_is_0_with_its_sign_at_once():
    start = time.monotonic()
    tiny = -(number(10) ** -(10**9))

    assert math.copysign(1, certain(tiny, tiny, 40)) == -1
    assert certain(tiny, tiny, 40) == 0
    assert time.monotonic() - start < 1


def test_by_hand_one_channel():
    """C = 1, EXP, s = 1, o = 0: y = e x and log-det 1; by s: e x gy + gj."""
    case = Recipe(C=1, B=1, affine="EXP", offset="zero").case()
    one = torch.ones(1, 1, dtype=torch.float64)
    case = replace(case, x=one, gy=one, gj=one[0], state=case.state | {"global_scale": one})

    found = answers(case, steps=False)

    assert found["forward.out"].tolist() == [[math.e]]
    assert found["forward.logdet"].tolist() == [1.0]
    assert found["forward.grad.state.global_scale"].tolist() == [[math.e + 1]]
    assert found["reverse.out"].tolist() == [[0.36787944117144233]]  # 1/e, by bc -l
    assert found["reverse.logdet"].tolist() == [-1.0]


@pytest.mark.parametrize(("x", "y"), [(1.0, 1.0), (1 + 2.0**-52, 1 + 2.0**-51)])
def test_a_tie_goes_to_even(x, y):
    """GIN without a coupling adds the offset 2⁻⁵³ to x: the sum lies in the middle of two float64."""
    case = Recipe(C=1, B=1, gin=True, offset="zero").case()
    whole = lambda v: torch.full((1, 1), v, dtype=torch.float64)  # noqa: E731
    case = replace(case, x=whole(x), state=case.state | {"global_offset": whole(2.0**-53)})

    assert answers(case, steps=False)["forward.out"].tolist() == [[y]]


def test_a_zero_that_no_rule_knows_is_refused(monkeypatch):
    """GIN's log-det is 0 in no number of digits: rounding errors of 2,000 digits have no certain sign."""
    monkeypatch.setattr(module, "zero_by_rule", lambda case, name: False)

    with pytest.raises(Unsettled, match="logdet holds a number that 2000 digits don't round"):
        answers(Recipe(C=3, B=1, S=(2,), gin=True).case(), steps=False)


def plus_0(values):
    return values.size and (values.view(np.int64) == 0).all()


@pytest.mark.parametrize("given", [True, False])
def test_gin_with_one_active_element_has_zeros_where_the_scaling_would_be(given):
    recipe = Recipe(C=3, S=(1,), gin=True, conditions=(), subnet="constant" if given else "linear", seed=4)
    case = Listed(recipe, given).case()

    found = answers(case, steps=True)

    for direction in ("forward", "reverse"):
        assert plus_0(found[f"{direction}.step.l"])
        assert plus_0(found[f"{direction}.logdet"])
        by = found[f"{direction}.grad.state.subnet.{'a' if given else 'bias'}"]
        halves = (by[:, :1], by[:, 1:]) if given else (by[:1], by[1:])
        assert plus_0(halves[0]) and (halves[1] != 0).all()
    assert (found["forward.step.a"] != 0).all()


def test_reflections_of_one_channel_have_no_gradient():
    found = answers(Recipe(C=1, soft=True, reflections=2).case(), steps=False)

    assert plus_0(found["forward.grad.state.vk_householder"])
    assert (found["forward.out"] != 0).all()


def test_log_dets_under_gin_add_nothing_to_a_gradient():
    case = Recipe(C=3, S=(2,), gin=True).case()
    quiet = replace(case, gj=torch.zeros_like(case.gj))

    one, other = answers(case, steps=False), answers(quiet, steps=False)

    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_fractions_know_what_is_rational():
    third = Fraction(1, 3)

    assert FRACTIONS.exp(Fraction(0)) == FRACTIONS.log(Fraction(1)) + 1 == 1
    assert FRACTIONS.exp(third) is FRACTIONS.tanh(third) is UNKNOWN
    assert third + UNKNOWN is UNKNOWN - third is UNKNOWN / 3 is 1 / UNKNOWN is -UNKNOWN is UNKNOWN
    assert UNKNOWN * 0 == 0 * UNKNOWN == 0 / UNKNOWN == 0
    assert FRACTIONS.fdot([third, 2], [3, third]) == Fraction(5, 3)
