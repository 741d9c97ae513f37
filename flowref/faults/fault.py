"""What a fault is: one thing wrong with the plain block, as edits of its text.

A fault's id says what is wrong, ``law`` is the law that names it, ``note`` says when it shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from flowref.faults.source import Edit, compiled

DIALECTS = ("anomalib", "freia-main", "documented")
PUBLIC = ("anomalib", "freia-main")
UNDIVIDED = ("anomalib", "documented")


@dataclass(frozen=True)
class Fault:
    """One wrong block: ``edits`` of plain.py, each (before, after), and the dialects in which they are wrong."""

    id: str
    law: str
    note: str
    edits: tuple[Edit, ...]
    dialects: tuple[str, ...] = DIALECTS


def build(fault: Fault) -> type[nn.Module]:
    """The faulty class, in a fresh module namespace."""
    return compiled(fault.id, fault.edits)


def fault(id: str, law: str, note: str, *edits: Edit, dialects: tuple[str, ...] = DIALECTS) -> Fault:
    """A Fault, its edits written one after another."""
    return Fault(id, law, note, edits, dialects)
