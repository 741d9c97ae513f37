"""The plain block and the public ones compute the same map in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flowref.cases.stream import rows
from flowref.faults.plain import PlainBlock
from flowref.targets import resolve

# In float64, of the largest magnitude, or of 1. Largest seen over all rows, on one machine: 3.93 for an output (11
# reflections, multiplied in another order), 1.00 for a log-det; the rest is left to other orders of summation. In
# reverse exp(−l) enlarges what was rounded before, but the largest output with it; softplus is the same on both sides.
ULPS = {"output": 8, "log-det": 4}


@pytest.mark.parametrize("name", ["flowref.targets.freia:AllInOneBlock", "flowref.targets.anomalib:AllInOneBlock"])
def test_public_block_equals_the_plain_one(name: str, tools: Any) -> None:
    target = resolve(name)
    too_far = {}
    for recipe in rows("ci", "anomalib"):
        case = recipe.case()
        torch.manual_seed(0)
        public = target.build(case.spec, case.subnet_constructor, torch.float64, "cpu")
        target.load(public, case.state)
        plain = tools.loaded(PlainBlock, case)
        for rev in (False, True):
            x, c = case.inputs(torch.float64, "cpu")
            with torch.no_grad():
                (want, want_j), (got, got_j) = target.run(public, x, c, rev), plain([x], c, rev=rev)
            for what, far in [("output", tools.ulps(want, got[0])), ("log-det", tools.ulps(want_j, got_j))]:
                if not far <= ULPS[what]:
                    too_far[f"{what}, rev={rev}: {recipe}"] = far

    assert too_far == {}
