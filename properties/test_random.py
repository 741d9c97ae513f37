"""Judges the laws of `flowref.laws.random`: one test a law, direction, precision and device."""

import pytest

from flowref.gate.plan import Item
from flowref.gate.plugin import Gate


@pytest.mark.law_family("random")
def test_random(item: Item, gate: Gate) -> None:
    gate.hold(item)
