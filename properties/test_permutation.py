"""Judges the laws of `flowref.laws.permutation`: one test a law, direction, precision and device."""

import pytest

from flowref.gate.plan import Item
from flowref.gate.plugin import Gate


@pytest.mark.law_family("permutation")
def test_permutation(item: Item, gate: Gate) -> None:
    gate.hold(item)
