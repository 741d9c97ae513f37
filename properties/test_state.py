"""Judges the laws of `flowref.laws.state`: one test a law, direction, precision and device."""

import pytest

from flowref.gate.plan import Item
from flowref.gate.plugin import Gate


@pytest.mark.law_family("state")
def test_state(item: Item, gate: Gate) -> None:
    gate.hold(item)
