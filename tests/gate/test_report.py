"""Reports: each made from evidence alone."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from flowref.gate.evidence import Evidence, Reader, Writer
from flowref.gate.report import json as report_json
from flowref.gate.report import junit, table
from flowref.gate.report.message import message
from flowref.gate.verdict import decide

FAILURE = {
    "kind": "value",
    "message": "x[0, 2, 1]: got -0.7313, want -0.5, bound 7.4e-06: 3.1e+04 × the bound; 1 of 6 elements over it",
    "statement": "Reverse undoes forward",
    "formula": "reverse(forward(x)) = x",
    "what": "x",
    "index": [0, 2, 1],
    "got": "nan",
    "want": -0.5,
    "bound": 7.4e-06,
    "ratio": "inf",
    "over": 1,
    "of": 6,
    "case": "B=1 C=3 S=(2,) SOFTPLUS g=0.5 α=2 hard, linear subnet\nRecipe(B=1, C=3, S=(2,), g=0.5).case()",
    "case_id": "0" * 64,
    "recipe": "Recipe(B=1, C=3, S=(2,), g=0.5)",
    "drawn": "Recipe(B=7, C=3, S=(2,), g=0.5)",
    "file": "/elsewhere/cases/0000000000000000.json",
    "reference": {"holds": True, "ratio": 0.04},
    "leads": {
        "step": "W",
        "edge": None,
        "text": "W (forward: output is out first, and not with W = I)",
        "first": {
            "place": "forward: output",
            "direction": "forward",
            "what": "output",
            "ratio": "inf",
            "message": "y[0, 2, 1]: got nan",
            "raised": False,
        },
        "gone": ["W"],
    },
}


def record(number: int, status: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"properties/test_inverse.py::test_inverse[{number}]", "law": f"inverse.law-{number}",
        "target": "my_flow:Block", "dialect": "anomalib", "device": "cpu", "precision": "float32",
        "direction": "forward", "status": status, "reason": "", "cases": 20, "kernels": "eager", "stream": 1,
        "ratio": 0.25, "seconds": 0.5, "regimes": ["rank-0"], "not_judged": [], "answers": 40,
    } | more  # fmt: skip


@pytest.fixture
def evidence() -> Evidence:
    records = [
        record(1, "held"),
        record(2, "broken", failure=FAILURE),
        record(3, "not-claimed", reason="pickle"),
        record(4, "not-judged", reason="batch-0", not_judged=["batch-0"]),
        record(5, "unproven", reason="not met: gin\x00"),
    ]
    seen = Evidence()
    plan = [r["id"] for r in records] + ["properties/test_inverse.py::test_inverse[6]"]
    seen.add(
        {"kind": "header", "plan": plan, "versions": {"torch": "2"}, "profile": "ci", "targets": ["my_flow:Block"]}
    )
    for one in records:
        seen.add({"kind": "record", **one})
    return seen


def test_message() -> None:
    assert message(record(1, "broken", failure=FAILURE)) == (
        "BROKEN inverse.law-1: reverse(forward(x)) = x      my_flow:Block (anomalib), float32, forward, cpu\n"
        "  Reverse undoes forward: x[0, 2, 1]: got -0.7313, want -0.5, bound 7.4e-06: 3.1e+04 × the bound; "
        "1 of 6 elements over it\n"
        "  look at: W (forward: output is out first, and not with W = I)\n"
        "  case: B=1 C=3 S=(2,) SOFTPLUS g=0.5 α=2 hard, linear subnet\n"
        "  paste: from flowref.cases import Recipe; Recipe(B=1, C=3, S=(2,), g=0.5).case()\n"
        "     or: flowref replay /elsewhere/cases/0000000000000000.json my_flow:Block "
        "--law inverse.law-1 --dialect anomalib\n"
        "  drawn as Recipe(B=7, C=3, S=(2,), g=0.5), then made smaller\n"
        "  the reference holds this law on this case (ratio 0.04)"
    )


def test_what_was_found_elsewhere_is_replayed_there() -> None:
    found = record(1, "broken", failure=FAILURE) | {"device": "cuda:1", "precision": "float64"}
    assert " --law inverse.law-1 --dialect anomalib --precision float64 --device cuda:1\n" in message(found)


def test_table(evidence: Evidence) -> None:
    shown = "\n".join(table.lines(evidence, width=120))

    assert shown == TABLE.strip("\n")


TABLE = """
                                                                      not     not     un-         largest
 target         dialect   device  precision  held  broken  known  claimed  judged  proven  cases    ratio
 ────────────────────────────────────────────────────────────────────────────────────────────────────────
 my_flow:Block  anomalib  cpu     float32       1       1      0        1       1       1    100     0.25
"""


def test_narrow_table_names_the_target_above_it(evidence: Evidence) -> None:
    shown = table.lines(evidence, width=80)

    assert (shown[0], shown[2].split()[:4]) == (" my_flow:Block", ["dialect", "device", "precision", "held"])


def test_json_follows_its_schema(evidence: Evidence, tmp_path: Path) -> None:
    report = json.loads(report_json.write(tmp_path, evidence, decide(evidence)).read_text(encoding="utf-8"))

    jsonschema.Draft202012Validator.check_schema(json.loads(report_json.SCHEMA.read_text(encoding="utf-8")))
    assert (report["exit_code"], report["complete"], len(report["missing"])) == (1, False, 1)


def test_json_refuses_an_unknown_field(evidence: Evidence, tmp_path: Path) -> None:
    evidence.records[0]["surprise"] = 1

    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        report_json.write(tmp_path, evidence, decide(evidence))
    assert not list(tmp_path.iterdir())


def test_junit_counts_each_item_once(evidence: Evidence, tmp_path: Path) -> None:
    suite = ElementTree.parse(junit.write(tmp_path, evidence, decide(evidence))).getroot()[0]

    assert {k: suite.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "6", "failures": "1", "errors": "2", "skipped": "2",
    }  # fmt: skip


def test_evidence_is_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "evidence.ndjson"
    writer, reader = Writer(path, "token"), Reader(path, "token")

    writer.write("header", plan=["a"])
    with path.open("a") as file:
        file.write('{"kind": "rec')
    assert [line["kind"] for line in reader.read()] == ["header"]

    with path.open("a") as file:
        file.write('ord", "id": "a", "token": "token"}\n{"kind": "end", "token": "guessed"}\nnonsense\n')
    assert [line.get("what", line["kind"]) for line in reader.read()] == ["record", "tampered", "tampered"]
    assert (reader.evidence.missing(), reader.evidence.ended) == ([], False)
