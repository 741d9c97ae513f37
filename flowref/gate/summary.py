"""What `flowref check` prints and writes when a run has ended."""

from __future__ import annotations

from rich.console import Console

from flowref.gate.evidence import Evidence
from flowref.gate.findings import BROKEN as CAUSED
from flowref.gate.findings import Finding, findings
from flowref.gate.options import Settings
from flowref.gate.report import json, junit, table
from flowref.gate.report.message import message
from flowref.gate.verdict import BROKEN, GOOD, HELD, INTERNAL, SILENT, Verdict

MOST_MESSAGES = 20
MOST_NAMED = 8  # laws named under a finding
WIDTH = 120  # of a table in a log


def show(console: Console, evidence: Evidence, verdict: Verdict, output: str) -> None:
    """A message a finding, the table, and one last sentence."""
    say = lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    found = findings(evidence.records)
    for one in found[:MOST_MESSAGES]:
        say(message(one.records[0]) + _located(one) + _others(one) + "\n")
    if len(found) > MOST_MESSAGES:
        say(f"... and {len(found) - MOST_MESSAGES} more findings; --report DIR writes them all.\n")
    # Why a target can't be used, the last sentence says; but of several targets it says one.
    unsaid = [r for r in evidence.records if not (r["status"] == "unusable" and r["reason"] in verdict.sentence)]
    told = lambda record: record["reason"] if record["status"] == "unusable" else record["law"]  # noqa: E731
    rest = {told(r): r for r in reversed(unsaid) if r["status"] not in GOOD + SILENT + CAUSED}
    for record in list(reversed(rest.values()))[:MOST_MESSAGES]:  # one message a law: the first item
        say(message(record) + "\n")
    if len(rest) > MOST_MESSAGES:
        say(f"... and {len(rest) - MOST_MESSAGES} more laws; --report DIR writes them all.\n")
    if verdict.code == INTERNAL and output:
        say("The end of what the run printed:\n" + "".join(f"| {line}\n" for line in output.splitlines()))
    width = console.width if console.is_terminal else max(console.width, WIDTH)
    closed = table.not_judged(evidence.records) if verdict.code in (HELD, BROKEN) else []
    for line in [*table.lines(evidence, width, console.is_terminal), *closed] if unsaid else []:
        console.out(line, highlight=False)
    if unsaid and evidence.header and str(evidence.header["profile"]).startswith("nightly"):
        say(f"\nThe same cases again: --profile nightly@{unsaid[0].get('seed', '?')}")
    say(("\n" if unsaid else "") + verdict.sentence)


def _located(one: Finding) -> str:
    """Where another law of the finding breaks, if that of the first was not looked for."""
    if (one.records[0].get("failure") or {}).get("where"):
        return ""
    other = next((r for r in one.records if (r.get("failure") or {}).get("where")), None)
    return f"\n  {other['law']} {other['failure']['where']['text']}" if other else ""


def _others(one: Finding) -> str:
    """The other laws that the same cause breaks."""
    more = one.laws[1:]
    if not more:
        return ""
    few = ", ".join(more[:MOST_NAMED]) + (f" and {len(more) - MOST_NAMED} more" if len(more) > MOST_NAMED else "")
    return f"\n  leads to the same step: {few}"


def write(settings: Settings, evidence: Evidence, verdict: Verdict) -> None:
    """The reports that were asked for."""
    if settings.report is not None:
        settings.report.mkdir(parents=True, exist_ok=True)
        json.write(settings.report, evidence, verdict)
        junit.write(settings.report, evidence, verdict)
