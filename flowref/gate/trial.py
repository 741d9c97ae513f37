"""One law on one target, case after case: what failed, and what was seen on the way.

Failure   a case on which the law did not hold, and how
Trial     counts what one item has seen; `meets` is the only place where a law's body is run
"""

from __future__ import annotations

import hashlib
import math
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from flowref.cases import Case, Recipe
from flowref.gate.watch import CallTimeout, Counted, Watch
from flowref.laws import spent
from flowref.laws.registry import HALVES, Law
from flowref.laws.run import LawBroken, Meter, hold_case


class JudgeFailed(Exception):
    """The law itself raised, on the reference too: a mistake of ours, no verdict on the target."""


@dataclass(frozen=True)
class Failure:
    """A case on which a law did not hold, and the details that the law gave."""

    case: Case
    details: dict[str, Any]
    drawn: Recipe | None = None  # the case as it was drawn, where this one was made smaller

    @property
    def kind(self) -> str:
        """raised, timeout, or what a comparison says: value, shape, bits, equal."""
        return str(self.details["kind"])

    def like(self, other: Failure) -> bool:
        """Whether both fail alike, so that one may stand for the other."""
        return self._alike == other._alike

    @property
    def _alike(self) -> str:
        answered = self.kind not in ("raised", "timeout")
        return "answered" if answered else str(self.details.get("exception", self.kind)).partition(":")[0]


# Rows are shared by all laws of a process.
made = spent.part("cases")(lru_cache(maxsize=512)(Recipe.case))


@dataclass
class Trial:
    """An item being judged."""

    law: Law
    target: Counted
    direction: str
    precision: str
    device: str
    watch: Watch
    reference: Any
    part: int | None = None  # of a law in parts
    cases: int = 0
    comparisons: int = 0
    undecided: int = 0
    ratio: float = 0.0
    regimes: set[str] = field(default_factory=set)
    moot: str = ""  # why the target left the law nothing to judge on a case
    moot_regimes: set[str] = field(default_factory=set)
    digest: Any = field(default_factory=hashlib.sha256)

    @property
    def seed(self) -> int:
        """Where the law's search starts: the same for every target, machine and number of workers."""
        return zlib.crc32(self.law.id.encode())

    def meets(self, case: Case, count: bool = True) -> Failure | None:
        """Run the law on a case; None where it held. Raises JudgeFailed."""
        meter = Meter()
        details = self._details(case, self.target, self.precision, self.device, meter)
        if count:
            self._count(case, meter)
        if details and details["kind"] == "stray" and self.on_reference(case).get("kind") == "stray":
            raise JudgeFailed(f"{self.law.id}, {case.recipe!r}: {details['message']}")
        return Failure(case, details) if details else None

    @spent.part("law")
    def _details(self, case: Case, target: Any, precision: str, device: str, meter: Meter) -> dict[str, Any]:
        """What was wrong, or nothing. Kind ``stray``: an exception from outside the target's calls."""
        try:
            with self.watch.case():
                hold_case(self.law, case, target, precision, self.direction, device, meter, self.watch.call)
        except LawBroken as broken:
            late = broken.__cause__
            if not isinstance(late, CallTimeout):
                return broken.details
            return {"kind": "timeout", "message": f"{broken.details['what']} {late}"}
        except CallTimeout as late:
            return {"kind": "timeout", "message": f"the law {late}"}
        except Exception as stray:
            said = f"{type(stray).__name__}: {stray}"
            return {"kind": "stray", "message": f"its answer made the law raise {said}", "exception": said}
        return {}

    def on_reference(self, case: Case) -> dict[str, Any]:
        """Whether the reference holds the law on a case: holds, ratio, and what was wrong where it doesn't."""
        precision = self.precision if self.precision in HALVES else "float64"  # the reference's own
        meter = Meter()
        wrong = self._details(case, self.reference, precision, "cpu", meter)
        return {"holds": not wrong, "ratio": wrong.get("ratio", meter.ratio), **wrong}

    def _count(self, case: Case, meter: Meter) -> None:
        self.cases += 1
        self.comparisons += meter.comparisons
        self.undecided += meter.undecided
        self.ratio = max(self.ratio, meter.ratio)
        self.digest.update(bytes.fromhex(case.id))
        if meter.comparisons > meter.undecided:  # a comparison that could not decide is no evidence
            self.regimes |= case.regimes
        if meter.moot:
            self.moot = meter.moot
            self.moot_regimes |= case.regimes


def plain(value: Any) -> Any:
    """The value as strict JSON can hold it: numbers that are not finite become words."""
    if isinstance(value, dict):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
