"""Every variant computes what the plain block computes."""

from __future__ import annotations

from typing import Any

import pytest

from flowref.faults.corpus import DIALECTS
from flowref.faults.variants import VARIANTS, Variant, find

# In float64, of the largest magnitude, or of 1. Outputs and log-dets: each block rounds some 40 operations and
# contractions of up to 130 terms on the way. Gradients go there and back, and their terms reach 16 in this deck.
ULPS = 2**9
CHECKED = [variant for variant in VARIANTS if variant.id != "plain"]


def test_ids_are_unique_and_there_are_at_least_12() -> None:
    ids = [variant.id for variant in VARIANTS]

    assert len(set(ids)) == len(ids) >= 12


def test_an_unknown_id_is_answered_with_the_nearest() -> None:
    with pytest.raises(KeyError, match="einsum-for-matmul"):
        find("einsum-for-matmull")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("variant", CHECKED, ids=[variant.id for variant in CHECKED])
def test_equals_the_plain_block(variant: Variant, dialect: str, decks: Any, tools: Any) -> None:
    """Outputs, log-dets, gradients, calls of the subnet, both directions, on every case of the deck.

    Round trips amplify rounding by e^2α and are left to the laws.
    """
    make = variant.make()
    too_far = {}
    for case in decks(dialect):
        want, got = tools.plain(case), tools.seen(make, case)
        assert not [name for name in want if "raised" in name], case.describe()
        far = tools.apart(want, got)
        too_far |= {f"{name}: {case.recipe}": d for name, d in far.items() if not d <= ULPS and "trip" not in name}

    assert too_far == {}
