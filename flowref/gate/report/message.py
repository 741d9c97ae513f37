"""One record in words: what was given, what was asked, what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path

from flowref.gate.evidence import Record

TITLES = {"broken": "BROKEN", "raised-always": "BROKEN", "gone": "GONE", "unproven": "UNPROVEN", "tampered": "TAMPERED"}


def message(record: Record) -> str:
    """Several lines: the law and where it was judged; then the worst element and its case, or the reason."""
    place = f"{record['target']} ({record.get('dialect', '?')}), {record['precision']}, {record['direction']}"
    title = TITLES.get(record["status"], record["status"])
    failure = record.get("failure")
    if failure is None or record["status"] == "tampered":
        return f"{title} {record['law']}      {place}, {record['device']}\n  {record['reason']}"
    lines = [
        f"{title} {record['law']}: {failure['formula']}      {place}, {record['device']}",
        f"  {failure['statement']}: {_what(failure)}",
        *_leads(failure),
        *located(failure),
        f"  case: {_case(failure)}",
        f"  paste: {_paste(record, failure)}",
    ]
    if failure["drawn"]:
        lines.append(f"  drawn as {failure['drawn']}, then made smaller")
    return "\n".join([*lines, f"  {_reference(failure['reference'])}"])


def _what(failure: Record) -> str:
    longer = "; --call-timeout allows longer passes" if failure["kind"] == "timeout" else ""
    return f"{failure['message']}{longer}"


def _leads(failure: Record) -> list[str]:
    leads = failure.get("leads")
    return [f"  look at: {leads['text']}"] if leads else []


def located(failure: Record) -> list[str]:
    """Where the law breaks, and how a known failure says so."""
    where = failure.get("where")
    if not where:
        return []
    entries = ", and in another entry ".join(f"where = {json.dumps(one)}" for one in where["regimes"])
    return [f"  {where['text']}", *([f"  as a known failure: {entries}"] if entries else [])]


def _case(failure: Record) -> str:
    return str(failure["case"]).splitlines()[0]


def _paste(record: Record, failure: Record) -> str:
    words = [f"from flowref.cases import Recipe; {failure['recipe']}.case()"] if failure["recipe"] else []
    file = failure["file"]
    if file and not file.startswith("not saved"):
        words.append(f"flowref replay {_short(file)} {record['target']}{_options(record)}")
    return "\n     or: ".join(words)


def _options(record: Record) -> str:
    """What else `flowref replay` must be told."""
    precision = "" if record["precision"] == "float32" else f" --precision {record['precision']}"
    device = "" if record["device"] == "cpu" else f" --device {record['device']}"
    return f" --law {record['law']} --dialect {record.get('dialect')}{precision}{device}"


def _short(file: str) -> str:
    path = Path(file)
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else file


def _reference(verdict: Record) -> str:
    ratio = verdict["ratio"]
    figure = f" (ratio {ratio:.2g})" if isinstance(ratio, float) else ""
    if verdict["holds"]:
        return f"the reference holds this law on this case{figure}"
    return f"the reference does NOT hold this law on this case{figure}: suspect flowref, and report it"
