"""A case's block in exact arithmetic: `flowref.exact` with the scalar twin of the case's probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowref.cases.case import Case
from flowref.cases.subnets import PROBES
from flowref.exact import Exact, Rows


def twin(case: Case, digits: int, *, true_inverse: bool = False) -> Exact:
    """The block of the case at so many decimal digits; ``twin(case, 40).forward(case.x, case.c)`` is its pass."""
    spec, probe = case.spec, PROBES[case.subnet.kind]

    def subnet(ctx: Any, parameters: Mapping[str, Any], rows: Rows) -> Rows:
        return probe.scalars(ctx, parameters, rows, spec.S, spec.subnet_out)

    return Exact(spec, case.state, subnet, digits, true_inverse=true_inverse)
