"""The table that a run ends with: one row a target, dialect, device and precision."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table

from flowref.gate.evidence import Evidence, Record

# A law counts once in a row, by the worst of what it came to.
ORDER = (
    "tampered",
    "unusable",
    "raised-always",
    "broken",
    "gone",
    "unproven",
    "known",
    "not-judged",
    "not-claimed",
    "held",
)
COLUMNS = {
    "held": ("held",),
    "broken": ("broken", "raised-always", "gone"),
    "known": ("known",),
    "not claimed": ("not-claimed",),
    "not judged": ("not-judged",),
    "unproven": ("unproven", "unusable", "tampered"),
}
KEYS = ("target", "dialect", "device", "precision")
WIDE = 100


def rows(evidence: Evidence) -> list[dict[str, object]]:
    """The table as data: KEYS, then the number of laws of each column, cases, and the largest ratio."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in evidence.records:
        groups.setdefault(tuple(str(record.get(key, "?")) for key in KEYS), []).append(record)
    return [dict(zip(KEYS, key, strict=True)) | _counts(records) for key, records in groups.items()]


def _counts(records: list[Record]) -> dict[str, object]:
    worst: dict[str, str] = {}
    for record in records:
        worst[record["law"]] = min(worst.get(record["law"], "held"), record["status"], key=ORDER.index)
    counts = {name: sum(status in which for status in worst.values()) for name, which in COLUMNS.items()}
    ratio = max((record.get("ratio", 0.0) for record in records), default=0.0)
    return {**counts, "cases": sum(record["cases"] for record in records), "largest ratio": ratio}


def lines(evidence: Evidence, width: int = 120, color: bool = False) -> list[str]:
    """The table as lines of text. Where it is too wide with a column of targets, each target has a table."""
    data = rows(evidence)
    if width >= WIDE:
        return _lines(data, KEYS, width, color)
    targets = dict.fromkeys(str(row["target"]) for row in data)
    parts = {target: [row for row in data if row["target"] == target] for target in targets}
    return [line for name, part in parts.items() for line in [f" {name}", *_lines(part, KEYS[1:], width, color)]]


def _lines(data: list[dict[str, object]], keys: tuple[str, ...], width: int, color: bool) -> list[str]:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0) if width >= WIDE else 0)
    shown = [name for name in COLUMNS if name != "unproven" or any(row[name] for row in data)]
    for name in (*keys, *shown, "cases", "largest ratio"):
        heading = name.replace(" ", "\n").replace("unproven", "un-\nproven")
        side: Literal["left", "right"] = "left" if name in keys else "right"
        table.add_column(heading, justify=side, overflow="fold", no_wrap=name != "target")
    for row in data:
        figures = [str(row[name]) for name in shown]
        table.add_row(*(str(row[key]) for key in keys), *figures, f"{row['cases']:,}", f"{row['largest ratio']:.2g}")
    return _text(table, width, color) if data else []


def _text(table: Table, width: int, color: bool) -> list[str]:
    out = StringIO()
    Console(file=out, width=width, force_terminal=color, no_color=not color).print(table)
    return [line for line in map(str.rstrip, out.getvalue().splitlines()) if line]


def not_judged(records: Iterable[Record]) -> list[str]:
    """One line for each edge that a gatekeeper closed: where, and for how many laws."""
    closed: dict[str, set[str]] = {}
    for record in records:
        for edge in record.get("not_judged", ()):
            closed.setdefault(f"{edge} on {record['target']}", set()).add(record["law"])
    return [
        f"not judged at {place}: {len(laws)} law{'s' * (len(laws) != 1)}, as its gatekeeper fails"
        for place, laws in closed.items()
    ]
