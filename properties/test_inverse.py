"""Judges the laws of `flowref.laws.inverse`: one test a law, direction, precision and device."""

import pytest

from flowref.gate.plan import Item
from flowref.gate.plugin import Gate


@pytest.mark.law_family("inverse")
def test_inverse(item: Item, gate: Gate) -> None:
    gate.hold(item)
