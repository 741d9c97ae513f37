"""What broke, by cause: laws that lead to one step of the block are one finding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flowref.gate.evidence import Record
from flowref.laws.registry import FAMILIES

BROKEN = ("broken", "raised-always")
# The family that says most about a step, when its law is among the broken ones.
TELLING = {
    "coupling": ("coupling", "reference"),
    "clamp": ("clamp",),
    "GIN mean": ("gin",),
    "global affine": ("affine",),
    "W": ("permutation",),
    "log-det": ("logdet",),
    "gradient": ("gradient",),
    "state": ("state",),
    "answer": ("shape",),
    "refusals": ("error",),
}

# Where a wrong step shows too, if a case hides it before: a law that leads there, and elsewhere to a step, is that's.
LATE = ("log-det", "gradient", "state", "dtype")


@dataclass(frozen=True)
class Finding:
    """One cause on one target: the step to which its laws lead, and their records, the most telling first."""

    target: str
    step: str
    records: Sequence[Record]

    @property
    def laws(self) -> list[str]:
        """Ids of the laws, each once."""
        return list(dict.fromkeys(str(record["law"]) for record in self.records))


def findings(records: Iterable[Record]) -> list[Finding]:
    """The broken records by target and cause, in the order of the laws' families: the simplest first."""
    broken = sorted((record for record in records if record["status"] in BROKEN), key=_family)
    causes = {(str(record["target"]), str(record["law"])): step_of(record) for record in reversed(broken)
              if step_of(record) not in LATE}  # fmt: skip
    found: dict[tuple[str, str], list[Record]] = {}
    for record in broken:
        target, step = str(record["target"]), step_of(record)
        if step in LATE:
            step = causes.get((target, str(record["law"])), step)
        found.setdefault((target, step), []).append(record)
    return [Finding(target, step, _telling_first(step, group)) for (target, step), group in found.items()]


def step_of(record: Record) -> str:
    """The step to which a broken record leads; its own law, where nothing is known."""
    leads = (record.get("failure") or {}).get("leads")
    return str(leads["step"]) if leads else str(record["law"])


def _family(record: Record) -> int:
    return FAMILIES.index(str(record["law"]).split(".")[0])


def _telling_first(step: str, group: list[Record]) -> list[Record]:
    families = TELLING.get(step, ())
    return sorted(group, key=lambda record: str(record["law"]).split(".")[0] not in families)
