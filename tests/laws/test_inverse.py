"""Round trips whose second pass is far less certain than the first."""

import pytest

from flowref.cases import Recipe
from flowref.fast import AllInOneBlock
from flowref.laws import registry
from flowref.laws.run import Run, hold_case
from flowref.targets.module import Module

FAST = Module(AllInOneBlock, dialect="anomalib")
# σ is tiny, so that the way back is uncertain to more than a tanh allows a share of float32's bound for.
RECIPE = Recipe(B=3, C=3, affine="SIGMOID", alpha=1.0, soft=True, scale="wide")


def test_log_dets_of_a_way_back_that_is_judged_on_its_own_are_no_finding() -> None:
    """One log-det's bound is a share of float32's then, the other's one of float64's own: their sum is in float64."""
    (law,) = registry.find("inverse.log-dets-cancel")
    run = Run(RECIPE.case(), FAST, "float64", "both")
    there, back = run.wanted.go(False).logdet, run.wanted.trip(False).logdet

    hold_case(law, RECIPE.case(), FAST, "float64", "both")

    assert float(back.error.max()) > 100 * float(there.error.max())
    assert float((there + back).error.max()) >= float(back.error.max())


@pytest.mark.parametrize("id", ["inverse.reverse-undoes-forward", "inverse.forward-undoes-reverse"])
def test_round_trips_hold_there_too(id: str) -> None:
    (law,) = registry.find(id)

    hold_case(law, RECIPE.case(), FAST, "float64", law.directions[0])
