"""report.json: everything that a run found, after report.schema.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flowref.gate.evidence import Evidence
from flowref.gate.findings import Finding, findings
from flowref.gate.report import table
from flowref.gate.verdict import Verdict

SCHEMA = Path(__file__).with_name("report.schema.json")
FORMAT = 1


def document(evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    """The report as plain values."""
    header = evidence.header or {"versions": {}, "profile": "?", "targets": [], "plan": []}
    return {
        "format": FORMAT,
        "exit_code": verdict.code,
        "verdict": verdict.sentence,
        **{key: header[key] for key in ("versions", "profile", "targets")},
        "planned": len(header["plan"]),
        "complete": evidence.ended and not evidence.missing(),
        "missing": evidence.missing(),
        "problems": evidence.problems,
        "findings": [_finding(one) for one in findings(evidence.records)],
        "table": table.rows(evidence),
        "records": evidence.records,
    }


def _finding(one: Finding) -> dict[str, Any]:
    return {
        "target": one.target,
        "step": one.step,
        "laws": one.laws,
        "items": [record["id"] for record in one.records],
    }


def write(folder: Path, evidence: Evidence, verdict: Verdict) -> Path:
    """Write report.json, validated before it is written."""
    import jsonschema  # takes as long to import as all else that the parent does: only where a report is asked for

    report = document(evidence, verdict)
    jsonschema.validate(report, json.loads(SCHEMA.read_text(encoding="utf-8")))
    path = folder / "report.json"
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return path
