"""A block that is right in one dialect holds there, and is broken in each other."""

from typing import Any

import pytest

from flowref.cases import stream
from flowref.faults.plain import PlainBlock
from flowref.faults.variants import VARIANTS
from flowref.laws import registry
from flowref.laws.run import LawBroken, hold_case
from flowref.spec import Dialect
from flowref.targets.module import Module

DIALECTS = [d.value for d in Dialect]


def broken(make: Any, dialect: str) -> int:
    """On how many of the smoke rows the output is not the reference's, in this dialect."""
    (law,) = registry.find("reference.output-equals-reference")
    target, count = Module(make, name="block", dialect=dialect), 0
    for recipe in stream.rows("smoke", dialect):
        for direction in law.directions:
            try:
                hold_case(law, recipe.case(), target, "float32", direction)
            except LawBroken:
                count += 1
    return count


@pytest.mark.parametrize("judged_in", DIALECTS)
@pytest.mark.parametrize("written_in", DIALECTS)
def test_holds_in_its_own_dialect_alone(written_in: str, judged_in: str) -> None:
    def make(dims_in: Any, **flags: Any) -> PlainBlock:
        return PlainBlock(dims_in, **flags, dialect=written_in)

    assert bool(broken(make, judged_in)) == (written_in != judged_in)


@pytest.mark.parametrize("id", ["einsum-for-matmul", "convolution-for-matmul", "index-permutation"])
def test_another_way_of_writing_it_is_no_other_dialect(id: str) -> None:
    (variant,) = (v for v in VARIANTS if v.id == id)

    assert [broken(variant.make(), dialect) for dialect in DIALECTS] == [0, 0, 0]
