"""Faults that show on no usual case, as of what a block takes and refuses: each is held against its own law."""

from __future__ import annotations

import pytest

from flowref.faults import circumstances, matrix, surface
from flowref.faults.fault import Fault
from flowref.faults.matrix import Task
from flowref.laws import registry

SLOW = pytest.mark.slow  # torch.compile's first call
HERE = [fault for fault in (*surface.FAULTS, *circumstances.FAULTS) if "cpu" in registry.find(fault.law)[0].devices]


def marked(value: object, law: str, id: str) -> object:
    return pytest.param(value, id=id, marks=SLOW if law == "compile.compiled-equals-eager" else ())


@pytest.mark.parametrize("fault", [marked(fault, fault.law, fault.id) for fault in HERE])
def test_is_broken_by_its_law(fault: Fault) -> None:
    finding = matrix.judged(Task(fault.id, fault.dialects[0], fault.law, faulty=True, profile="smoke"))

    assert finding.expected, finding


@pytest.mark.parametrize("law", [marked(law, law, law) for law in sorted({fault.law for fault in HERE})])
def test_the_plain_block_holds_the_law(law: str) -> None:
    finding = matrix.judged(Task("plain", "freia-main", law, faulty=False, profile="smoke"))

    assert finding.expected, finding
