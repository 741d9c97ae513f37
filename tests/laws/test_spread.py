"""What `flowref.laws.spread` asks for is what every correct block gives, and no less."""

from dataclasses import replace

import pytest
import torch

from flowref.bounds import FLOAT64, Bounded
from flowref.cases import Recipe
from flowref.laws.run import Wanted
from flowref.laws.spread import least, poisoned

PASSIVE, ACTIVE = 0, 3  # of four channels


def is_within(want: Bounded, got: torch.Tensor | None) -> bool:
    """Whether it is the reference's: both round in float64. None stands for zeros."""
    got = torch.zeros_like(want.value) if got is None else got
    return bool((abs(got - want.value) <= 2 * want.error).all())


def spread_of(recipe: Recipe, channel: int, rev: bool = False) -> tuple[list[int], bool]:
    """The output channels that are NaN where one of the input is, and whether the log-det is."""
    case = recipe.case()
    x = case.x.clone()
    x[0, channel] = torch.nan
    out, logdet, _ = least(replace(case, x=x, recipe=None), rev)

    assert out[1:].isfinite().all() and logdet[1:].isfinite().all()
    return out[0].reshape(4, -1).isnan().any(1).nonzero().flatten().tolist(), bool(logdet[0].isnan())


def test_a_hard_permutation_moves_nan_as_a_gather_does() -> None:
    recipe = Recipe(B=2, C=4, S=(3,))
    W = recipe.case().state["w_perm"].squeeze()
    goes = lambda *channels: sorted(int(W[:, k].argmax()) for k in channels)  # noqa: E731

    assert spread_of(recipe, ACTIVE) == (goes(ACTIVE), False)
    assert spread_of(recipe, PASSIVE) == (goes(PASSIVE, 2, 3), True)


def test_a_soft_permutation_spreads_nan_over_all_channels() -> None:
    assert spread_of(Recipe(B=2, C=4, soft=True), ACTIVE) == ([0, 1, 2, 3], False)
    assert spread_of(Recipe(B=2, C=4, soft=True), ACTIVE, rev=True) == ([0, 1, 2, 3], True)


@pytest.mark.parametrize("mixing", [{}, {"soft": True}, {"soft": True, "reflections": 2}], ids=["hard", "soft", "vk"])
@pytest.mark.parametrize("rev", [False, True], ids=["forward", "reverse"])
def test_of_a_finite_case_it_is_the_references_own_pass(rev: bool, mixing: dict[str, int]) -> None:
    case = Recipe(B=2, C=5, S=(2,), conditions=(2,), reverse_permutation=True, **mixing).case()
    wanted = Wanted(case, FLOAT64)
    one = wanted.go(rev)

    for kind in ("output", "logdet"):
        out, logdet, gradients = least(case, rev, kind)
        want = wanted.gradients(rev, kind)

        assert is_within(one.out, out) and is_within(one.logdet, logdet)
        assert set(gradients) == set(want)
        assert all(is_within(want[name], value) for name, value in gradients.items())


def test_poison_is_one_element_a_sample() -> None:
    found = poisoned(torch.zeros(3, 2, 2), 7, (torch.nan, torch.inf))

    assert found[0].isnan().sum() == 1 and found[1].isinf().sum() == 1 and (found[2] == 0).all()
