"""Faults of purity, state and randomness show on no single pass: each is held against its own law."""

from __future__ import annotations

import pytest

from flowref.faults import matrix
from flowref.faults.fault import Fault
from flowref.faults.matrix import Task
from flowref.faults.stateful import FAULTS


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.id for fault in FAULTS])
def test_is_broken_by_its_law(fault: Fault) -> None:
    finding = matrix.judged(Task(fault.id, fault.dialects[0], fault.law, faulty=True, profile="ci"))

    assert finding.expected, finding
