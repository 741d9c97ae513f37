"""Bounds from both sides: never passed by the reference or a plain block, and the search that tries to."""

import re
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from flowref.cases import Recipe, stream
from flowref.faults import compare, sharpness
from flowref.faults.ascent import Worst, ascend, changed
from flowref.faults.compare import COMPARE, QUANTITIES, SMALL, drawn
from flowref.faults.worst import WORST

BOUNDS = (Path(__file__).parents[2] / "docs" / "bounds.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("worst", WORST, ids=lambda w: f"{w.against}-{w.quantity}-{'reverse' if w.rev else 'forward'}")
def test_the_worst_cases_known_so_far_stay_within_their_bounds(worst: Worst) -> None:
    """On another machine a library's function may round another way, so the ratio found is no promise."""
    assert worst.ratio / 16 <= worst.measure() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("against", "cases"), [("exact", 25), ("reference", 35)])
def test_a_sample_stays_within_its_bounds(against: str, cases: int) -> None:
    """`python -m flowref.faults.sharpness --cases 10000` does it for many."""
    table = sharpness.measure(against, sharpness.drawn_cases(against, cases, first=20_000))

    assert table.over == []
    assert {quantity for quantity, _ in table.found} == set(QUANTITIES)


def test_a_bound_that_is_too_small_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(compare, "SHARE", compare.SHARE / 64)
    monkeypatch.setattr(sharpness, "WORST", ())

    assert sharpness.main(["--cases", "2", "--against", "exact"]) == 1
    assert re.search(r"\n[\d.]+ × the bound: Worst\('exact', '.*', (True|False), .*Recipe\(", capsys.readouterr().err)


def test_a_reference_that_loses_digits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sigmoid is off by 2⁻⁴⁵, relative."""
    plain = torch.sigmoid
    monkeypatch.setattr(torch, "sigmoid", lambda a: plain(a) * (1 + 2.0**-45))
    case = Recipe(C=3, affine="SIGMOID", subnet="zero", bits=53).case()
    with torch.no_grad():
        over = {one.quantity for one in COMPARE["exact"](case, False) if one.largest > 1}

    assert over >= {"y", "log-det", "by s, o"}


@pytest.mark.parametrize("bits", [24, 53])
def test_drawn_cases_meet_every_flag(bits: int) -> None:
    recipes = [drawn(number, bits) for number in range(400)]

    assert drawn(7, bits) == recipes[7]
    assert {r.bits for r in recipes} == {bits}
    for name in ("dialect", "affine", "gin", "soft", "reflections", "reverse_permutation", "subnet", "clamp", "scale"):
        assert {getattr(r, name) for r in recipes} >= set(SMALL[name]), name
    assert {len(r.S) for r in recipes} == {0, 1, 2, 3}
    assert {r.case().edge for r in recipes if r.CN <= 64} == {None, "channels-1", "reflections-hard", "alpha-0"}
    assert all(64 < r.CN <= 4096 for r in recipes[39::40]) and drawn(3599, bits).CN > 4096


def test_ascent_raises_the_ratio_and_keeps_what_it_took() -> None:
    start = Worst("reference", "log-det", False, 0.0, Recipe(B=1, C=2, affine="EXP"))
    start = replace(start, ratio=start.measure())
    turns = iter(range(40))

    best = ascend(start, lambda: next(turns, None) is not None)

    assert start.ratio < best.ratio <= 1
    assert best.measure() == best.ratio
    assert eval(repr(best), {"Worst": Worst, "Recipe": Recipe}) == best
    arrays = changed(start.recipe.case(), best.changes).arrays
    assert best.changes and all(arrays[name].view(-1)[place] == value for name, place, value in best.changes)
    assert all(float(torch.tensor(value, dtype=torch.float32)) == value for _, _, value in best.changes)


@pytest.mark.slow
@hypothesis.seed(11)
@settings(max_examples=60, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(stream.recipes("anomalib", {"max_CN": 6, "max_B": 1, "conditions": ()}))
def test_a_guided_search_stays_within_the_bounds(recipe: Recipe) -> None:
    """Hypothesis steers towards the largest ratio of outputs and log-dets, float64 against exact."""
    found = COMPARE["exact"](replace(recipe, bits=53).case(), bool(recipe.seed % 2))
    with torch.no_grad():
        largest = {one.quantity: one.largest for one in (next(found) for _ in range(3))}
    hypothesis.target(max(largest.values()))

    assert all(ratio <= 1 for ratio in largest.values()), largest


@pytest.mark.parametrize("title", compare.TITLES.values())
def test_the_table_in_the_docs_is_of_many_cases_and_within_the_bounds(title: str) -> None:
    head = re.search(rf"^\| {title}, ([\d,]+) cases \|.*\n\|.*\n((?:\|.*\n)+)", BOUNDS, re.M)
    assert head is not None, f"docs/bounds.md has no table {title!r}: paste what flowref.faults.sharpness prints"
    rows = [line.split(" | ") for line in head[2].splitlines()]

    assert int(head[1].replace(",", "")) >= 10_000
    assert tuple(row[0].removeprefix("| ") for row in rows) == QUANTITIES
    assert all(float(row[4]) <= 1 for row in rows)
