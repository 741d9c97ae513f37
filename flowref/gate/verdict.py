"""From evidence to an exit code. The only place that knows what each code means.

    0   every law held, or failed as known, and evidence is complete
    1   a law is broken, or a known failure is gone
    2   interrupted, by Ctrl-C or SIGTERM; what was found until then is shown
    3   internal error, a worker died, the judge was tampered with
    4   the command or the target cannot be used
    5   no evidence: nothing ran, the target never answered, a law or a required regime was not met

Nothing that is absent counts in the target's favour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowref.gate.evidence import Evidence, Record
from flowref.gate.findings import findings

HELD, BROKEN, INTERRUPTED, INTERNAL, UNUSABLE, NO_EVIDENCE = range(6)
MOST_TIMEOUTS = 3  # then a run ends

# What a record's status may be.
GOOD = ("held", "known")
BAD = ("broken", "raised-always", "gone")
SILENT = ("not-claimed", "not-judged")


@dataclass(frozen=True)
class Verdict:
    """An exit code and the sentence that a run ends with."""

    code: int
    sentence: str


def decide(evidence: Evidence) -> Verdict:
    """The verdict on complete or incomplete evidence."""
    return _run_failed(evidence) or _unusable(evidence) or _judged(evidence)


def _run_failed(evidence: Evidence) -> Verdict | None:
    problems = {problem["what"]: problem["text"] for problem in evidence.problems}  # the last says most
    for record in evidence.records:
        if record["status"] == "tampered":
            problems["tampered"] = f"{record['target']}: {record['reason']}"
    if "tampered" in problems:
        return Verdict(INTERNAL, f"No verdict: the judge was tampered with. {problems['tampered']}.")
    if "interrupted" in problems:
        return Verdict(INTERRUPTED, "No verdict: interrupted before every law was judged.")
    if "died" in problems:
        return Verdict(INTERNAL, f"No verdict: a worker died. {problems['died']}")
    if "internal" in problems:
        return Verdict(INTERNAL, f"No verdict: internal error. {problems['internal']}")
    return None


def _unusable(evidence: Evidence) -> Verdict | None:
    for problem in evidence.problems:
        if problem["what"] == "unusable":
            return Verdict(UNUSABLE, f"Cannot be used: {problem['text']}")
    for record in evidence.records:
        if record["status"] == "unusable":
            return Verdict(UNUSABLE, f"Cannot be used: {record['reason']}")
    if not evidence.plan:
        return Verdict(NO_EVIDENCE, "No evidence: no law was selected, so nothing was judged.")
    return None


def _judged(evidence: Evidence) -> Verdict:
    records = evidence.records
    targets = list(dict.fromkeys(record["target"] for record in records))
    mute = [target for target in targets if never_answered([r for r in records if r["target"] == target])]
    bad = [record for record in records if record["status"] in BAD and record["target"] not in mute]
    if bad:
        return Verdict(BROKEN, _bad(bad, records) + _stopped(evidence))
    if mute:
        raised = (r for r in records if r["target"] == mute[0] and r["status"] == "raised-always")
        said = next((f" In the end {r['reason']}." for r in raised if r.get("reason")), "")
        text = f"No evidence: {mute[0]} never answered: each pass raised or took too long.{said}"
        return Verdict(NO_EVIDENCE, text + _stopped(evidence))
    missing = evidence.missing()
    if missing or not evidence.ended:
        return Verdict(INTERNAL, f"No verdict: evidence is incomplete, {len(missing)} of {len(evidence.plan)} missing.")
    asked = (evidence.header or {}).get("laws") or ()
    return _unproven(records) or Verdict(HELD, _held(records, asked))


def _stopped(evidence: Evidence) -> str:
    """Says that a run ended before all was judged: by -x, or as too many calls took too long."""
    missing, planned = len(evidence.missing()), len(evidence.plan)
    late = sum(record.get("timeouts", 0) for record in evidence.records) >= MOST_TIMEOUTS
    where = f"after {MOST_TIMEOUTS} calls that took too long" if late else "at the first broken law"
    return f" Stopped {where}: {missing} of {planned} items were not judged." if missing else ""


def never_answered(records: list[Record]) -> bool:
    """Whether each pass of a target raised or took too long, so that no law of its passes was judged at all.

    A law that asks for no pass and is broken stands, but for one about refusals: what always raises can't refuse.
    """
    failed = {r["status"] for r in records if r["status"] in BAD and not str(r["law"]).startswith("error.")}
    raised = any(record["status"] == "raised-always" for record in records)
    return raised and failed <= {"raised-always"} and not any(record.get("answers", 0) for record in records)


def _unproven(records: list[Record]) -> Verdict | None:
    for target in dict.fromkeys(record["target"] for record in records):
        if not any(record["status"] in GOOD for record in records if record["target"] == target):
            return Verdict(NO_EVIDENCE, f"No evidence: no law was judged on {target}.")
    for record in records:
        if record["status"] == "unproven":
            return Verdict(NO_EVIDENCE, f"No evidence for {record['law']} on {record['target']}: {record['reason']}.")
        if record["status"] not in GOOD + SILENT:
            return Verdict(INTERNAL, f"No verdict: {record['law']} ended in an unknown status, {record['status']!r}.")
    return None


def _bad(bad: list[Record], records: list[Record]) -> str:
    broken = list(dict.fromkeys(record["law"] for record in bad if record["status"] != "gone"))
    gone = list(dict.fromkeys(record["law"] for record in bad if record["status"] == "gone"))
    judged = len({record["law"] for record in records})
    if broken:
        causes = [finding.step for finding in findings(bad)]
        return (
            f"Broken: {len(causes)} finding{'s' * (len(causes) > 1)} ({_few(causes)}), in {len(broken)} of {judged} "
            "laws judged. Start with the first message above: its `flowref replay` shows where your block first "
            "leaves its bound."
        )
    return f"Gone: {_few(gone)} holds where it was known to fail. Good news: remove it from the known failures."


def _held(records: list[Record], asked: Sequence[str]) -> str:
    judged = {record["law"] for record in records if record["status"] in GOOD}
    known = {record["law"] for record in records if record["status"] == "known"}
    targets = list(dict.fromkeys(record["target"] for record in records))
    cases = sum(record["cases"] for record in records)
    only = f" No other law was asked for than --law {_few(list(asked))}." if asked else ""
    more = f", and {len(known)} more fail only where that is known" if known else ""
    return f"Held: {_laws(judged - known)} on {_few(targets)}, over {cases:,} cases{more}.{only}"


def _laws(ids: set[str]) -> str:
    return f"{len(ids)} law{'s' * (len(ids) != 1)}"


def _few(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")
