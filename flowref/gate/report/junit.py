"""junit.xml: one test case an item, as CI systems read them."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from flowref.gate.evidence import Evidence, Record
from flowref.gate.report.message import message
from flowref.gate.verdict import GOOD, SILENT, Verdict

# XML 1.0 has no way to write these; a target's message may hold them.
CONTROL = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(folder: Path, evidence: Evidence, verdict: Verdict) -> Path:
    """Write junit.xml: failures are broken laws, errors what gave no verdict, missing items among them."""
    suite = Element("testsuite", name="flowref", tests=str(len(evidence.plan)))
    for record in evidence.records:
        _case(suite, record)
    for name in evidence.missing():
        _say(SubElement(suite, "testcase", name=name, classname="flowref"), "error", verdict.sentence)
    for kind in ("failure", "error", "skipped"):
        suite.set({"failure": "failures", "error": "errors"}.get(kind, kind), str(len(suite.findall(f"*/{kind}"))))
    root = Element("testsuites")
    root.append(suite)
    indent(root)
    path = folder / "junit.xml"
    ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    return path


def _case(suite: Element, record: Record) -> None:
    name = record["id"].rpartition("::")[2]
    where = f"flowref.{record['law'].partition('.')[0]}"
    case = SubElement(suite, "testcase", name=name, classname=where, time=f"{record.get('seconds', 0):.3f}")
    if record["status"] in SILENT:
        _say(case, "skipped", f"{record['status']}: {record['reason']}")
    elif record["status"] not in GOOD:
        broken = record["status"] in ("broken", "raised-always", "gone")
        _say(case, "failure" if broken else "error", message(record))


def _say(case: Element, kind: str, text: str) -> None:
    text = CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    SubElement(case, kind, message=text.splitlines()[0]).text = text
