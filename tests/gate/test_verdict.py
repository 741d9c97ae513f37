"""From evidence to an exit code: what is absent never counts for the target."""

from typing import Any

import pytest

from flowref.gate.evidence import Evidence
from flowref.gate.verdict import decide


def record(status: str = "held", **more: Any) -> dict[str, Any]:
    plain = {"id": "one", "law": "inverse.one", "target": "t:B", "status": status, "reason": "why", "cases": 3}
    return {"kind": "record", "answers": 1, **plain, **more}


def evidence(*lines: dict[str, Any], plan: tuple[str, ...] = ("one",), end: bool = True) -> Evidence:
    seen = Evidence()
    for line in [{"kind": "header", "plan": list(plan)}, *lines, *([{"kind": "end"}] if end else [])]:
        seen.add(line)
    return seen


def problem(what: str) -> dict[str, Any]:
    return {"kind": "problem", "what": what, "text": "so it was."}


CASES = {
    "held": (evidence(record()), 0, "Held: 1 law on t:B, over 3 cases."),
    "held, failed as known": (evidence(record("known")), 0, "and 1 more fail only where that is known."),
    "broken": (evidence(record("broken")), 1, "Broken: 1 finding (inverse.one), in 1 of 1 laws judged"),
    "gone": (evidence(record("gone")), 1, "Gone: inverse.one holds where it was known to fail"),
    "broken, and stopped there": (
        evidence(record("broken"), plan=("one", "two")), 1, "Stopped at the first broken law: 1 of 2 items were not",
    ),
    "broken, and too late too often": (
        evidence(record("broken", timeouts=3), plan=("one", "two")), 1, "Stopped after 3 calls that took too long",
    ),
    "broken by raising, but it answered elsewhere": (
        evidence(record("raised-always", answers=0), record(id="two"), plan=("one", "two")), 1, "Broken",
    ),
    "never answered, though laws that ask for no pass hold": (
        evidence(record("raised-always", answers=0), record(id="two", answers=0), plan=("one", "two")), 5, "never",
    ),
    "never answered, though a law that asks how it refuses is broken": (
        evidence(record("raised-always", answers=0), record("broken", id="two", law="error.two", answers=0),
                 plan=("one", "two")), 5, "t:B never answered",
    ),
    "never answered, and a law that asks for no pass is broken": (
        evidence(record("raised-always", answers=0), record("broken", id="two", answers=0), plan=("one", "two")),
        1, "Broken",
    ),
    "broken without a pass": (evidence(record("broken", answers=0)), 1, "Broken"),
    "interrupted": (evidence(record("broken"), problem("interrupted")), 2, "interrupted"),
    "a worker died": (evidence(record(), problem("died")), 3, "a worker died. so it was"),
    "internal error": (evidence(record(), problem("internal")), 3, "internal error. so it was"),
    "tampered with": (evidence(record("tampered")), 3, "the judge was tampered with. t:B: why"),
    "a record is missing": (evidence(record(), plan=("one", "two")), 3, "1 of 2 missing"),
    "no end": (evidence(record(), end=False), 3, "evidence is incomplete"),
    "an unknown status": (evidence(record("fine"), record(id="two"), plan=("one", "two")), 3, "unknown status"),
    "unusable": (evidence(record("unusable")), 4, "Cannot be used: why"),
    "nothing at all": (Evidence(), 5, "no law was selected"),
    "nothing planned": (evidence(plan=()), 5, "no law was selected"),
    "never answered": (evidence(record("raised-always", answers=0)), 5, "t:B never answered"),
    "nothing judged": (evidence(record("not-claimed")), 5, "no law was judged on t:B"),
    "one of two targets unjudged": (
        evidence(record(), record("not-judged", id="two", target="u:B"), plan=("one", "two")), 5, "judged on u:B",
    ),
    "unproven": (evidence(record("unproven"), record(id="two"), plan=("one", "two")), 5, "No evidence for inverse.one"),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_verdict(what: str) -> None:
    seen, code, sentence = CASES[what]

    verdict = decide(seen)

    assert (verdict.code, True) == (code, sentence in verdict.sentence), verdict
