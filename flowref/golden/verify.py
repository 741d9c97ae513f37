"""A target against a set of vectors, and a set of files against what it should be.

against_target   every vector of the target's dialect, in float32 and float64, both directions, gradients too
against_rules    hashes, schema, counts, names, shapes; and a sample computed again, bit by bit
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from flowref.cases.files import damaged
from flowref.gate.options import Unusable
from flowref.golden.flags import FLAGS
from flowref.golden.format import Vector, fill, schema_bytes
from flowref.golden.reading import Golden, case_of, check_schema
from flowref.laws.run import LawBroken, Run, TargetRaised
from flowref.targets.protocol import Target

PRECISIONS = ("float32", "float64")
SHOWN = 5  # kinds of failure
DIRECTIONS = ("forward", "reverse")
HELD, BROKEN, NO_EVIDENCE = 0, 1, 5
Say = Callable[[str], None]


class Judged(Run):
    """A run whose answers are those of a vector: nothing of the reference is asked."""

    def __init__(self, vector: Vector, target: Target, precision: str, direction: str, device: str) -> None:
        super().__init__(case_of(vector), target, precision, direction, device)
        self.vector = vector

    def wants(self, name: str) -> torch.Tensor:
        """A wanted array, or its allowed error, in this direction."""
        return torch.from_numpy(self.vector.arrays[f"{self.direction}.{name}"])

    @property
    def want(self) -> Any:
        return SimpleNamespace(out=self.wants("out"), logdet=self.wants("logdet"))

    def compare(self, name: str, got: Any) -> None:
        """Raises LawBroken where ``got`` is further from what is wanted than is allowed."""
        want, error = self.wants(name), self.wants(f"{name}.error")[PRECISIONS.index(self.precision)]
        scale = float(want.abs().max()) if want.numel() else 1.0
        self.within(want, got, error, f"{self.direction}.{name}", scale or 1.0)

    def hold(self) -> None:
        """Output, log-det and, where the target claims them, gradients."""
        answer = self.answer
        self.compare("out", answer.y)
        self.compare("logdet", answer.logdet)
        if "gradient" in self.target.not_claimed:
            return
        found = self.gradients("both")
        prefix = f"{self.direction}.grad."
        for name in [n.removeprefix(prefix) for n in self.vector.arrays if n.startswith(prefix)]:
            if not name.endswith(".error"):
                self.compare(f"grad.{name}", found.get(name.removeprefix("state.")))


@dataclass
class Result:
    """What became of one vector: the first failure in each precision, and the largest error ÷ allowed error."""

    vector: Vector
    failures: dict[str, str] = field(default_factory=dict)
    raised: int = 0
    ratios: dict[str, float] = field(default_factory=dict)


def judge(vector: Vector, target: Target, device: str) -> Result:
    """One vector, in both precisions and directions."""
    result = Result(vector)
    for precision in PRECISIONS:
        for direction in DIRECTIONS:
            run = Judged(vector, target, precision, direction, device)
            try:
                run.hold()
            except LawBroken as broken:
                result.failures.setdefault(precision, str(broken))
                result.raised += isinstance(broken, TargetRaised)
            result.ratios[precision] = max(result.ratios.get(precision, 0.0), run.meter.ratio)
    return result


def against_target(golden: Golden, target: Target, skip: Sequence[str], device: str, say: Say) -> int:
    """Judge a target, and say by flag what came of it. Answers 0 held, 1 broken, 5 nothing was judged or answered."""
    for flag in skip:
        if flag not in FLAGS:
            near = get_close_matches(flag, FLAGS, n=1, cutoff=0.4)
            raise Unusable(f"--skip={flag!r} is no flag. " + (f"Did you mean {near[0]}?" if near else _known()))
    own = [v for v in golden.vectors if v.entry["spec"]["dialect"] == target.dialect]
    run = [v for v in own if not set(skip) & set(v.entry["flags"])]
    say(f"{target.name} in the dialect {target.dialect}, {' and '.join(PRECISIONS)}: {len(run)} of {len(own)} vectors.")
    for flag in skip:
        count = sum(flag in v.entry["flags"] for v in own)
        say(f"Skipped, not judged: {count} of {flag} ({FLAGS[flag].note}).")
    if "gradient" in target.not_claimed:
        say("Gradients are not claimed, and not judged.")
    results = [judge(v, target, device) for v in run]
    _table(results, say)
    broken = [r for r in results if r.failures]
    _failures(broken, say)
    if not own and golden.vectors:
        there = ", ".join(sorted({v.entry["spec"]["dialect"] for v in golden.vectors}))
        say(f"\nNo evidence: no vector is of the dialect {target.dialect}, but of {there}. Name it with --dialect.")
        return NO_EVIDENCE
    if not results or all(r.raised == len(PRECISIONS) * len(DIRECTIONS) for r in results):
        say("\nNo evidence: " + ("every pass raised." if results else "no vector was judged."))
        return NO_EVIDENCE
    if not broken:
        say(f"\nHeld: all {len(results)} vectors.")
        return HELD
    lost = _lost(results)
    say(f"\nBroken: {len(broken)} of {len(results)} vectors." + (f" None held of: {lost}." if lost else ""))
    return BROKEN


def _table(results: Sequence[Result], say: Say) -> None:
    """A line a flag: how many vectors, how many broken, the largest error in units of what is allowed."""
    say(f"\n{'flag':26}{'vectors':>8}{'broken':>8}   largest error ÷ allowed, float32 and float64")
    for flag in FLAGS:
        met = [r for r in results if flag in r.vector.entry["flags"]]
        if met:
            ratios = "".join(f"{max(r.ratios[p] for r in met):>10.3g}" for p in PRECISIONS)
            say(f"{flag:26}{len(met):8}{sum(bool(r.failures) for r in met):8}{ratios}")


def _failures(broken: Sequence[Result], say: Say) -> None:
    """One vector of each kind of failure, which is its message without the numbers."""
    kinds: dict[str, list[Result]] = {}
    for result in broken:
        kinds.setdefault(re.sub(r"[-\d.e+\[\], ]+", " ", next(iter(result.failures.values()))), []).append(result)
    for alike in list(kinds.values())[:SHOWN]:
        say(f"\nBROKEN {alike[0].vector.id} ({', '.join(alike[0].vector.entry['flags'])}), {len(alike)} like this:")
        for precision, message in alike[0].failures.items():
            say(f"  {precision}: {message}")
    if len(kinds) > SHOWN:
        say(f"\nAnd {len(kinds) - SHOWN} other kinds of failure.")


def _lost(results: Sequence[Result]) -> str:
    """The flags of which no vector held."""
    whole = {flag for flag in FLAGS for r in results if flag in r.vector.entry["flags"]}
    held = {flag for r in results if not r.failures for flag in r.vector.entry["flags"]}
    return ", ".join(flag for flag in FLAGS if flag in whole - held)


def _known() -> str:
    return f"Choose one of {', '.join(FLAGS)}."


def against_rules(golden: Golden, sample: int, say: Say) -> int:
    """Check what `Golden.open` leaves: the schema, and that a sample is what is computed anew. Raises FileError."""
    check_schema(golden.folder, schema_bytes())
    say(f"{golden.folder}: {len(golden.vectors)} vectors; hashes, schema, counts, names and shapes are as they should.")
    chosen = golden.vectors[:: max(1, len(golden.vectors) // max(sample, 1))][:sample]
    for vector in chosen:
        check_numbers(golden, vector)
    more = "" if len(chosen) == len(golden.vectors) else f" The others were not: --sample {len(golden.vectors)} is all."
    say(f"{len(chosen)} of them computed again: the same bits.{more}")
    return HELD


def check_numbers(golden: Golden, vector: Vector) -> None:
    """Raises FileError unless every number of the vector is what it is when computed now."""
    again = fill(case_of(vector), steps=vector.entry["steps"])
    for name, want in again.arrays.items():
        got = vector.arrays[name]
        differs = got.view(np.int64) != want.view(np.int64)
        if differs.any():
            at = tuple(int(i) for i in np.argwhere(differs)[0])
            problem = f"{vector.id}/{name}{list(at)} is {float(got[at])!r}, and computed again {float(want[at])!r}"
            damaged(golden.folder / vector.entry["file"], problem)
