"""What broke, by cause: laws that lead to one step of the block are one finding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flowref.gate.evidence import Record
from flowref.laws.registry import FAMILIES, HALVES

BROKEN = ("broken", "raised-always")
# Steps of a pass.
COUPLING, CLAMP, GIN, AFFINE, MIXING = "coupling", "clamp", "GIN mean", "global affine", "W"
# The families that say most about a step of a pass, when their laws are among the broken ones.
PASS = {
    "coupling": ("coupling", "reference"),
    "clamp": ("clamp",),
    "GIN mean": ("gin",),
    "global affine": ("affine",),
    "W": ("permutation",),
    "log-det": ("logdet",),
    "gradient": ("gradient",),
    "answer": ("shape",),
    "dtype": ("dtype",),
}
# Not a step: what a law found on a case was not there when it was tried again. What a law of its own finds, if it is
# that memory is used as it came; all else that it breaks does not come back either.
CHANCE, UNWRITTEN = "nondeterminism", "layout.every-element-is-written"
# Where a wrong step shows too, if a case hides it before: a law that leads there, and elsewhere to a step, is that's.
LATE = ("log-det", "gradient", "dtype")

# A law -> those that say why it is broken, where one of them is broken too: it belongs to their finding then.
EXPLAINED: dict[str, tuple[str, ...]] = {
    # A new block's W is read off its outputs, through the σ that it starts with.
    "permutation.w-is-orthogonal": ("affine.initial-scale-is-g",),
    "permutation.soft-has-determinant-1": ("affine.initial-scale-is-g",),
    "permutation.hard-is-a-permutation": ("affine.initial-scale-is-g",),
    "permutation.inverse-is-transpose": ("affine.initial-scale-is-g",),
    "permutation.hard-is-uniform": ("affine.initial-scale-is-g",),
    "permutation.soft-is-haar": ("affine.initial-scale-is-g",),
    "state.float64-and-back-changes-nothing": ("state.changes-are-seen",),
    "random.construction-moves-torchs-generator-alone": ("random.manual-seed-reproduces-a-block",),
    # What is not refused can't be named, and one check looks at all that a pass is given.
    "error.named-arguments": ("error.refused-arguments",),
    "error.named-inputs": ("error.refused-inputs",),
    "error.named-conditions": ("error.refused-conditions", "error.named-inputs"),
    "error.named-answers": ("error.refused-answers",),
    "error.named-states": ("error.refused-states",),
    "error.refused-conditions": ("error.refused-inputs",),
    # A Jacobian is taken of a batch of copies.
    "logdet.equals-jacobian": ("batch.samples-are-independent", "logdet.independent-of-the-batch"),
    "gin.preserves-volume": ("batch.samples-are-independent", "logdet.independent-of-the-batch"),
    # What one pass leaves behind, another finds.
    "purity.a-pass-inside-a-pass-takes-no-gradient": ("purity.a-pass-inside-a-pass-is-harmless",),
    "purity.nothing-stays-alive": ("purity.outputs-are-the-callers",),
    "purity.instances-do-not-know-of-each-other": ("purity.outputs-are-the-callers",),
    "gradient.no-graph-under-no-grad": ("purity.settings-stay",),
    "gradient.on-several-threads": ("reference.several-threads-equal-reference",),
    "gradient.runs-through-a-kept-answer": ("purity.answer-keeps-its-bits", "gradient.by-subnet"),
    # What swallows a NaN on the way out does so wherever it comes from.
    "condition.not-finite-reaches-its-outputs": ("batch.not-finite-reaches-its-outputs",),
    "coupling.not-finite-answer-reaches-the-outputs": (
        "batch.not-finite-reaches-its-outputs",
        "condition.not-finite-reaches-its-outputs",
    ),
    "gradient.not-finite-reaches-its-gradients": (
        "batch.not-finite-reaches-its-outputs",
        "condition.not-finite-reaches-its-outputs",
        "coupling.not-finite-answer-reaches-the-outputs",
    ),
    # All coefficients go through one pass, those that are NaN too.
    "clamp.exhaustive-half": ("batch.nan-stays-in-its-sample", "logdet.independent-of-the-batch"),
    # vmap hands over strided tensors, and several samples' worth of results at once; it refuses to branch on values,
    # by which a sample reaches others.
    "compile.mapped-over-samples": (
        "batch.nan-stays-in-its-sample",
        "condition.nan-stays-in-its-sample",
        "layout.strides-are-followed",
        "gradient.strides-of-incoming-gradients-are-followed",
        "purity.outputs-are-the-callers",
    ),
    "compile.jacrev-is-the-jacobian": ("gradient.strides-of-incoming-gradients-are-followed",),
}


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
    """The broken records by target and cause, in the order of the laws' families: the simplest first.

    One cause is one step of a pass; no answer, at one edge; a second pass that differs; what does not come back; else
    one law, since a law about state, purity or refusals claims one thing that no other shows.
    """
    broken = sorted((record for record in records if record["status"] in BROKEN), key=_family)
    steps: dict[tuple[str, str], str] = {}  # of a target's law: the step of a pass to which an item of it leads
    first: dict[str, str] = {}  # of a target: the first of these
    for record in broken:
        if _is_early(step_of(record)):
            steps.setdefault((str(record["target"]), str(record["law"])), step_of(record))
            first.setdefault(str(record["target"]), step_of(record))
    chance = {(str(r["target"]), str(r["law"])) for r in broken if step_of(r) == CHANCE}
    chance |= {(target, UNWRITTEN) for target, _ in chance}
    always = {str(r["target"]) for r in broken if step_of(r) == "answer" and not _edge(r)}
    causes: dict[tuple[str, str], tuple[str, str, str]] = {}  # of a target's law: the finding of its first item
    keys: list[tuple[str, str, str]] = []
    for record in broken:
        target, law, step = str(record["target"]), str(record["law"]), step_of(record)
        step = step if _is_early(step) else steps.get((target, law), step)
        if step == "dtype" and not law.startswith("dtype."):  # out in float64, where float32's bound hides the same
            step = first.get(target, step)
        step = CHANCE if (target, law) in chance else step
        if step == "answer":
            detail = "" if target in always else _edge(record)
        else:
            detail = "" if step in PASS or step == CHANCE or _has_place(record) else law
        keys.append((target, step, detail))
        causes.setdefault((target, law), keys[-1])
    found: dict[tuple[str, str, str], list[Record]] = {}
    explained: list[tuple[tuple[str, str, str], Record]] = []
    for record, key in zip(broken, keys, strict=True):
        target, law = str(record["target"]), str(record["law"])
        while why := next((one for one in EXPLAINED.get(law, ()) if (target, one) in causes), None):
            law, key = why, causes[target, why]
        if law == record["law"]:
            found.setdefault(key, []).append(record)
        else:
            explained.append((key, record))
    for key, record in explained:  # behind what explains them
        found.setdefault(key, []).append(record)
    return [Finding(target, step, _telling_first(step, group)) for (target, step, _), group in found.items()]


def step_of(record: Record) -> str:
    """The step to which a broken record leads; its own law, where nothing is known."""
    leads = _leads(record)
    return str(leads["step"]) if leads else str(record["law"])


def _leads(record: Record) -> Record:
    return (record.get("failure") or {}).get("leads") or {}


def _has_place(record: Record) -> bool:
    return bool(_leads(record).get("first"))


def _is_early(step: str) -> bool:
    return step in PASS and step not in LATE


def _edge(record: Record) -> str:
    """The edge, or half precision, at which the failing case lies."""
    return str(_leads(record).get("edge") or ("half" if record["precision"] in HALVES else ""))


def _family(record: Record) -> int:
    return FAMILIES.index(str(record["law"]).split(".")[0])


def _telling_first(step: str, group: list[Record]) -> list[Record]:
    """Laws about the step itself first, of these the ones whose case shows the place."""
    families = PASS.get(step, ())

    def turn(record: Record) -> int:
        if record["law"] == UNWRITTEN:
            return 0
        return 2 if str(record["law"]).split(".")[0] not in families else 1 - _has_place(record)

    return sorted(group, key=turn)
