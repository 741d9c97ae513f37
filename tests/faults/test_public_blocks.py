"""The plain block and the public ones compute the same map in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flowref.cases.stream import rows
from flowref.faults.plain import PlainBlock
from flowref.targets import resolve

# In float64, of the largest magnitude, or of 1: each block rounds some 40 operations and contractions on the way; in
# reverse (q − t) exp(−l) enlarges what was rounded before by e^α, up to 148. The public softplus is 1e-10 off just
# above its threshold, as is torch's own here.
ULPS = 2**10


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
                if not far <= ULPS:
                    too_far[f"{what}, rev={rev}: {recipe}"] = far

    assert too_far == {}
