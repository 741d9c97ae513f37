"""Judges the laws of `flowref.laws.purity`: one test a law, direction, precision and device."""

import pytest

from flowref.gate.plan import Item
from flowref.gate.plugin import Gate


@pytest.mark.law_family("purity")
def test_purity(item: Item, gate: Gate) -> None:
    gate.hold(item)
