"""Every wrong port is one that can be told: it differs from the plain block, and a quick look finds its step."""

import re

import pytest
import torch

from flowref.cases import stream
from flowref.faults.diagnosed import diagnosed
from flowref.faults.plain import PlainBlock
from flowref.faults.ports import PORTS, Port, build, find
from flowref.gate.findings import PASS
from flowref.laws.run import LawBroken, Run, seed_everything
from flowref.targets import Module

each = pytest.mark.parametrize("port", PORTS, ids=[port.id for port in PORTS])
ROUNDING = 2**10 * torch.finfo(torch.float64).eps
SAMPLE = ("every-type-softplus", "reflections-ignored", "scale-after-mixing", "parts-come-out-swapped")


def test_there_are_at_least_40_and_ids_are_unique() -> None:
    assert len({port.id for port in PORTS}) == len(PORTS) >= 40


@each
def test_id_is_kebab_case_and_steps_are_known(port: Port) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", port.id) and port.note
    assert port.steps and set(port.steps) <= set(PASS)


def answered(make: type[torch.nn.Module], recipe: stream.Recipe) -> list[torch.Tensor] | None:
    """What a new block holds, and what it answers once loaded; None where it does not."""
    case = recipe.case()
    found: list[torch.Tensor] = []
    try:
        for direction in ("forward", "reverse"):
            run = Run(case, Module(make), "float64", direction)
            seed_everything(1)
            found += run.build(load=False).state_dict().values()
            found += [run.answer.y, run.answer.logdet]
    except LawBroken:
        return None
    return found


def _apart(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Further than rounding alone takes two correct blocks (test_variants.py); NaN is."""
    near = abs(a - b) <= ROUNDING * abs(a).max() if a.numel() else torch.tensor(True)
    return not bool(near.all())


@each
def test_a_port_differs_from_the_plain_block(port: Port) -> None:
    make = build(port)

    def differs(recipe: stream.Recipe) -> bool:
        right, wrong = answered(PlainBlock, recipe), answered(make, recipe)
        assert right is not None
        if wrong is None:
            return True
        return any(a.shape != b.shape or _apart(a, b) for a, b in zip(right, wrong, strict=True))

    assert any(differs(recipe) for recipe in stream.rows("smoke"))


def test_an_unknown_id_is_refused() -> None:
    with pytest.raises(KeyError, match="no port 'w-transpose'"):
        find("w-transpose")


@pytest.mark.slow
def test_a_sample_of_them_is_one_finding_that_leads_to_its_step() -> None:
    found = {one.id: [finding.step for finding in some] for one, some in diagnosed(SAMPLE, quick=True)}

    assert {id: list(find(id).steps) for id in SAMPLE} == found
