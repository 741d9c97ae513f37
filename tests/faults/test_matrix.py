"""The kill matrix: what it asks of whom, and when it answers 1."""

from __future__ import annotations

import pytest

from flowref.faults import matrix
from flowref.faults.corpus import DIALECTS, FAULTS
from flowref.faults.matrix import Finding, Task
from flowref.faults.variants import VARIANTS
from flowref.laws import registry

FAULT = Task("logdet-forgets-pixels", "anomalib", "affine.logdet-counts-every-pixel", True, "smoke")
VARIANT = Task("einsum-for-matmul", "anomalib", "affine.logdet-counts-every-pixel", False, "smoke")


def test_each_fault_meets_its_law_in_its_dialects_and_each_variant_every_law() -> None:
    todo = list(matrix.tasks())
    faults = {(t.id, t.dialect, t.law) for t in todo if t.faulty}
    variants = {(t.id, t.dialect, t.law) for t in todo if not t.faulty}

    here = [law.id for law in registry.asked() if "cpu" in law.devices]
    assert faults == {(f.id, dialect, f.law) for f in FAULTS for dialect in f.dialects if f.law in here}
    assert variants == {(v.id, d, law) for v in VARIANTS for d in DIALECTS for law in here}


@pytest.mark.slow
def test_a_fault_is_broken_and_a_variant_held() -> None:
    assert matrix.judged(FAULT).how == "broken"
    assert matrix.judged(VARIANT).how == "held"


@pytest.mark.parametrize(
    ("task", "how", "code"),
    [(FAULT, "broken", 0), (FAULT, "held", 1), (VARIANT, "held", 0), (VARIANT, "broken", 1), (VARIANT, "unproven", 1)],
)
def test_the_exit_code_says_whether_all_is_as_it_must_be(task: Task, how: str, code: int) -> None:
    assert matrix.report([Finding(task, how)]) == code


def test_nothing_judged_is_no_success() -> None:
    assert matrix.report([]) == 1


def test_a_fault_that_holds_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    matrix.report([Finding(FAULT, "held")])

    assert f"must break: held         {FAULT.id}" in capsys.readouterr().out


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        matrix.main(["--only", "logdet-forgets-pixel"])

    assert "logdet-forgets-pixels" in capsys.readouterr().err
