"""Passes through the public block: the laws hold on kernels, which take several tiles and loops for each case."""

import pytest

from flowref.cases.stream import edge_rows, rows
from flowref.fast import AllInOneBlock
from flowref.laws import registry
from flowref.laws.run import hold_case
from flowref.targets import Module

DIALECTS = ("anomalib", "freia-main", "documented")
LAWS = ("reference", "gradient.by-input", "gradient.by-parameters", "layout.every", "purity.nothing")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_laws_hold(passes, small_tiles, dialect):
    """Outputs, log-dets and gradients are those of the reference, within the bounds, over some rows and an edge."""
    target = Module(AllInOneBlock, dialect=dialect)
    found = [law for law in registry.all() if law.id.startswith(LAWS)]
    assert len({law.family for law in found}) == 4
    for law in found:
        recipes = rows("smoke", dialect, law.fixed("float32"))[DIALECTS.index(dialect) :: 6]
        for recipe in (*recipes, *(edge_rows("channels-1", dialect) if law.family == "reference" else ())):
            for direction in law.directions:
                hold_case(law, recipe.case(), target, "float32", direction)

    assert len(passes) > 30
