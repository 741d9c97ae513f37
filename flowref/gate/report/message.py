"""One record in words: what was given, what was asked, what to do."""

from __future__ import annotations

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
        f"  case: {_case(failure)}",
        f"  paste: {_paste(failure)}",
    ]
    if failure["drawn"]:
        lines.append(f"  drawn as {failure['drawn']}, then made smaller")
    return "\n".join([*lines, f"  {_reference(failure['reference'])}"])


def _what(failure: Record) -> str:
    longer = "; --call-timeout allows longer passes" if failure["kind"] == "timeout" else ""
    return f"{failure['message']}{longer}"


def _case(failure: Record) -> str:
    return str(failure["case"]).splitlines()[0]


def _paste(failure: Record) -> str:
    words = [f"from flowref.cases import Recipe; {failure['recipe']}.case()"] if failure["recipe"] else []
    file = failure["file"]
    if file and not file.startswith("not saved"):
        words.append(f'from flowref.cases.store import load; load("{_short(file)}")')
    return "\n     or: ".join(words)


def _short(file: str) -> str:
    path = Path(file)
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else file


def _reference(verdict: Record) -> str:
    ratio = verdict["ratio"]
    figure = f" (ratio {ratio:.2g})" if isinstance(ratio, float) else ""
    if verdict["holds"]:
        return f"the reference holds this law on this case{figure}"
    return f"the reference does NOT hold this law on this case{figure}: suspect flowref, and report it"
