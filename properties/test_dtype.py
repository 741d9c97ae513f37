"""Judges the laws of `flowref.laws.dtype`: one test a law, direction, precision and device."""

import pytest

from flowref.gate.plan import Item
from flowref.gate.plugin import Gate


@pytest.mark.law_family("dtype")
def test_dtype(item: Item, gate: Gate) -> None:
    gate.hold(item)
