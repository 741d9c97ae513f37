"""Where a law breaks: what is said separates the cases, nothing simpler does, and a known failure can be made of it."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowref.cases import stream
from flowref.cases.regimes import REGIMES
from flowref.gate.where import QUESTIONS, Where, separating

ROWS = [recipe.case().regimes for recipe in stream.rows("ci")]
SIMPLE = {"only": ("exp",), "two": ("gin", "reverse-permutation"), "odd": ("channels-odd",)}


def outcomes(*regimes: str) -> list[tuple[frozenset[str], bool]]:
    """The covering rows, of which those break that have all of these regimes."""
    return [(row, set(regimes) <= row) for row in ROWS]


def test_questions_are_of_regimes_each_once() -> None:
    asked = [name for question in QUESTIONS for name in question]

    assert len(asked) == len(set(asked)) and set(asked) <= set(REGIMES)


@pytest.mark.parametrize("regimes", SIMPLE.values(), ids=SIMPLE)
def test_what_was_planted_is_what_separates(regimes: tuple[str, ...]) -> None:
    found = separating(outcomes(*regimes))

    assert found.regimes == [list(regimes)]
    assert (found.broken, found.held) == (sum(out for _, out in outcomes(*regimes)), len(ROWS) - found.broken)


def test_several_values_of_one_question_are_one_choice() -> None:
    found = separating([(row, "softplus" not in row) for row in ROWS])

    assert found.regimes == [["sigmoid"], ["exp"]]
    assert re.fullmatch(r"breaks in (\d+) of \1 cases with SIGMOID or EXP, in none of \d+ with SOFTPLUS", str(found))


def test_many_values_of_a_question_are_said_by_the_others() -> None:
    found = separating([(row, "conditions-0" not in row) for row in ROWS])

    assert "with no conditions-0, in none of" in str(found) and str(found).endswith(" with conditions-0")
    assert found.regimes == [["conditions-1"], ["conditions-2"], ["conditions-3"]]


def test_what_a_case_has_not_is_said_and_left_out_of_a_known_failure() -> None:
    found = separating([(row, "exp" in row and "gin" not in row) for row in ROWS])

    assert "with EXP and no gin, in none of" in str(found) and found.regimes == [["exp"]]


@given(st.lists(st.booleans(), min_size=len(ROWS), max_size=len(ROWS)))
def test_what_is_said_separates_and_nothing_simpler_does(broken: list[bool]) -> None:
    found = separating(list(zip(ROWS, broken, strict=True)))
    inside = [all(choice.holds(row) for choice in found.choices) for row in ROWS]

    assert not found.choices or inside == broken
    if len(found.choices) == 2:
        assert all([one.holds(row) for row in ROWS] != broken for one in found.choices)


@given(st.lists(st.booleans(), min_size=len(ROWS), max_size=len(ROWS)))
def test_outside_of_a_known_failure_made_of_it_all_cases_hold(broken: list[bool]) -> None:
    entries = separating(list(zip(ROWS, broken, strict=True))).regimes

    excused = [any(set(entry) <= row for entry in entries) for row in ROWS]
    assert not entries or all(out <= inside for out, inside in zip(broken, excused, strict=True))


def test_one_case_on_a_side_separates_nothing() -> None:
    assert separating([(ROWS[0], True), *((row, False) for row in ROWS[1:])]).choices == ()
    assert str(Where((), 3, 0)) == "breaks in 3 of 3 cases, all that were tried"
    assert str(Where((), 3, 4)) == "breaks in 3 of 7 cases, no one or two regimes separate them"


FAULTS = {
    "spec.global_affine_type == 'EXP'": ("with EXP", ['where = ["exp"]']),
    "spec.gin_block and spec.reverse_permutation": ("with gin and reverse-perm", ['where = ["gin", "reverse-permu']),
    "True": ("all that were tried", []),
}


@pytest.mark.slow
@pytest.mark.parametrize("when", FAULTS)
def test_a_run_says_it_and_takes_it_back_as_known(when: str, check: Callable[..., Any], tmp_path: Any) -> None:
    source = f"""
        from flowref.faults.plain import PlainBlock
        class Block(PlainBlock):
            def couple(self, q, l, t):
                spec = self.spec
                return super().couple(q, l, t) + (0.01 if {when} else 0)
        """
    law = "reference.output-equals-reference"
    what = ("--law", law, "--precision", "float32", "--profile", "smoke")
    said, entries = FAULTS[when]

    ended = check(source, what=what)
    printed = re.findall(r"where = \[.*?\]", ended.out)

    assert ended.code == 1 and said in ended.out and len(printed) == len(entries), ended.out
    text = "\n".join(f'[[known]]\nlaw = "{law}"\n{one}\nreason = "planted"\ndirection = "forward"' for one in printed)
    (tmp_path / "known.toml").write_text(text)
    again = check(source, "--known-failures", "known.toml", what=what)
    assert again.code == (0 if entries else 1), again.out
