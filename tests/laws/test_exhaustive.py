"""Laws over every coefficient: one wrong coefficient is enough, and the long one is judged on request only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flowref.bounds import FLOAT32, exact
from flowref.cases.stream import narrow
from flowref.faults.corpus import build, find
from flowref.faults.plain import PlainBlock
from flowref.gate import plan
from flowref.gate.options import Settings, Unusable
from flowref.laws import clamp, registry
from flowref.laws.run import LawBroken, Run, hold_case, wanted
from flowref.reference import clamp as clamped
from flowref.reference import coefficients
from flowref.spec import Dialect
from flowref.targets import Module

(HALF,) = registry.find("clamp.exhaustive-half")
(LONG,) = registry.find("clamp.exhaustive-float32")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def held(law: registry.Law, make: Any, precision: str, direction: str, seed: int = 0, dialect: str = "documented"):
    """The meter; raises LawBroken."""
    case = narrow({"seed": seed}, dialect, law.fix).case()
    return hold_case(law, case, Module(make, dialect=dialect), precision, direction)


def wrong_at(pattern: int, dtype: torch.dtype) -> type[PlainBlock]:
    """A block that takes one coefficient with the wrong sign."""
    value = torch.tensor(pattern).to(torch.int16 if dtype.itemsize == 2 else torch.int32).view(dtype)

    class Wrong(PlainBlock):
        def coefficients(self, p: Tensor, c: list[Tensor]) -> tuple[Tensor, Tensor]:
            k, t = super().coefficients(p, c)
            return torch.where(p == value, -k, k), t

    return Wrong


# Small and normal, −1, the last legal one.
PATTERNS = {"bfloat16": (0x0500, 0xBF80, 0x7D7F), "float16": (0x0800, 0xBC00, 0x6BFF)}


@pytest.mark.parametrize(("precision", "pattern"), [(name, p) for name, all_ in PATTERNS.items() for p in all_])
def test_one_wrong_coefficient_of_a_half_precision_is_seen(precision: str, pattern: int) -> None:
    with pytest.raises(LawBroken, match=rf"bit pattern \[{pattern}\].* 1 of 65536 elements"):
        held(HALF, wrong_at(pattern, getattr(torch, precision)), precision, "forward")


@pytest.mark.parametrize(("half", "pattern"), [("bfloat16", 0x7D7F), ("float16", 0x6BFF)])
def test_a_pass_in_float32_is_given_the_coefficients_of_both_half_precisions(half: str, pattern: int) -> None:
    with pytest.raises(LawBroken, match=rf"{half} bit pattern \[{pattern}\].* 1 of 65536 elements"):
        held(HALF, wrong_at(pattern, getattr(torch, half)), "float32", "forward")


@pytest.mark.parametrize("precision", PATTERNS)
def test_all_coefficients_but_the_illegal_ones_are_there(precision: str) -> None:
    dtype = getattr(torch, precision)
    a = clamp._legal(torch.arange(2**16).to(torch.int16), dtype)

    legal = int(torch.tensor(torch.finfo(dtype).max / 16, dtype=dtype).view(torch.int16)) + 1
    assert len(set(a.view(torch.int16).tolist())) == 2 * legal
    assert bool(a.isfinite().all())


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("precision", [*PATTERNS, "float32"])
def test_the_plain_block_holds(precision: str, direction: str) -> None:
    meter = held(HALF, PlainBlock, precision, direction)

    assert (meter.undecided, 0 < meter.ratio <= 1) == (0, True)


def test_one_wrong_coefficient_of_float32_is_seen() -> None:
    pattern = int(torch.tensor(0.7853982).view(torch.int32))

    with pytest.raises(LawBroken, match="1 of 131072 elements") as broken:
        held(LONG, build(find("clamp-wrong-at-one-coefficient")), "float32", "forward", pattern // clamp.PART)

    assert int(broken.value.details["what"].split()[-2], 16) + broken.value.details["index"][0] == pattern


def test_the_plain_block_holds_on_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clamp, "PART", 2**17)

    for seed in (0, 0x3F800000 // 2**17, 0xBF800000 // 2**17, 2**15 - 1):
        meter = held(LONG, PlainBlock, "float32", "forward", seed)
        assert (meter.undecided, meter.ratio <= 1) == (0, True)


@pytest.mark.parametrize("dialect", [d.value for d in Dialect])
def test_the_short_way_to_the_bound_is_the_reference_s(dialect: str) -> None:
    """What the float32 law compares with is the l of the reference's whole pass, value and error, bit for bit."""
    case = narrow({}, dialect, LONG.fix).case()
    run = clamp._passing(Run(case, Module(PlainBlock, dialect=dialect), "float32", "forward"))
    a = clamp._legal(torch.arange(0, 2**32, 2**32 // 5003).to(torch.int32), torch.float32)

    whole = wanted(run.case, FLOAT32).go(False, clamp._samples(run, a).double())
    k, _ = coefficients(run.spec, exact(torch.stack([a, 0 * a], 1), FLOAT32))
    got = clamped(run.spec, k)[1][:, 0]
    assert torch.equal(whole.l.value[:, 0], got.value) and torch.equal(whole.l.error[:, 0], got.error)
    assert torch.equal(whole.logdet.value, got.value) and bool((whole.logdet.error >= got.error).all())


def test_the_long_law_is_judged_only_where_it_is_named() -> None:
    items = plan.items(Settings(laws=(LONG.id,), device="cpu"))

    assert LONG not in registry.asked() and LONG not in registry.asked(["clamp"])
    assert [item.part for item in items] == list(range(1024)) and len(set(map(str, items))) == 1024
    assert {item.precision for item in items} == {"float32"}
    assert HALF in registry.asked()


def test_an_unknown_law_is_refused_still() -> None:
    with pytest.raises(Unusable, match="exhaustive-float32"):
        plan.selected(Settings(laws=("clamp.exhaustive-float23",)))
