"""The kill matrix: each fault must be broken by the law that names it, no variant by any law.

    python -m flowref.faults                      all of it
    python -m flowref.faults --law gin            the faults that a law or family names, and the variants under it
    python -m flowref.faults --only ID            one fault or variant; with --every-law, under all laws

Answers 0 where every fault was broken and no variant was, else 1. The judge is the gate's own, without shrinking.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

from flowref.faults import corpus, variants
from flowref.gate.hold import Judge
from flowref.gate.options import Settings
from flowref.gate.plan import items
from flowref.laws import registry

BROKEN = ("broken", "raised-always")
KINDS = ("faults", "variants")
PRECISIONS = ("float32", "float64")


@dataclass(frozen=True)
class Task:
    """A fault or variant, a dialect, and the law to hold it to."""

    id: str
    dialect: str
    law: str
    faulty: bool
    profile: str
    precisions: tuple[str, ...] = PRECISIONS


@dataclass(frozen=True)
class Finding:
    """How a law fared on a block: ``how`` is the gate's status, ``where`` the item and the law's message."""

    task: Task
    how: str
    where: str = ""
    cases: int = 0
    ratio: float = 0.0  # the largest error ÷ bound of an item that held

    @property
    def expected(self) -> bool:
        """A fault is to be broken; a variant is to hold, or not to be judged where its dialect has no such case."""
        return self.how in BROKEN if self.task.faulty else self.how in ("held", "not-judged")


def judged(task: Task) -> Finding:
    """The first item that breaks, or how the last one that did not hold fared."""
    settings = _settings(_target(task.id, task.faulty), task.dialect, task.profile, task.precisions)
    judge, planned = _judge(settings), items(settings, registry.find(task.law))
    finding, cases, ratio = Finding(task, "held" if planned else "not-judged"), 0, 0.0
    for item in planned:
        record = judge.judge(item)
        status = str(record["status"])
        cases += record["cases"]
        if status != "held":
            said = (record.get("failure") or {}).get("message") or record.get("reason", "")
            finding = Finding(task, status, f"{item}: {said}".splitlines()[0])
        else:
            ratio = max(ratio, record["ratio"])
        if status in BROKEN:
            break
    return replace(finding, cases=cases, ratio=ratio)


@cache
def _target(id: str, faulty: bool) -> str:
    """The name under which the gate finds the class."""
    if faulty:
        return f"{corpus.build(corpus.find(id)).__module__}:PlainBlock"
    block = variants.find(id).make()
    return f"{block.__module__}:{block.__qualname__}"


@cache
def _settings(name: str, dialect: str, profile: str, precisions: tuple[str, ...]) -> Settings:
    return Settings((name,), dialect=dialect, profile=profile, device="cpu", precisions=precisions, shrink=False)


@cache
def _judge(settings: Settings) -> Judge:
    return Judge(settings)


def tasks(
    law: str | None = None,
    only: str | None = None,
    every_law: bool = False,
    profile: str | None = None,
    kinds: Sequence[str] = KINDS,
    precisions: tuple[str, ...] = PRECISIONS,
) -> Iterator[Task]:
    """What is to be judged, law by law and dialect by dialect, so that the reference's passes serve many blocks.

    Raises KeyError on an unknown law, fault or variant.
    """
    laws = tuple(one.id for one in registry.asked([law] if law else ()) if "cpu" in one.devices)
    if only and only not in [v.id for v in variants.VARIANTS]:
        corpus.find(only)
    for each, dialect in product(laws, corpus.DIALECTS):
        for fault in corpus.FAULTS if "faults" in kinds else ():
            if only in (None, fault.id) and dialect in fault.dialects and (every_law or fault.law == each):
                yield Task(fault.id, dialect, each, True, profile or "ci", precisions)
        for variant in variants.VARIANTS if "variants" in kinds else ():
            claimed = tuple(p for p in precisions if variant.halves or p not in registry.HALVES)
            if only in (None, variant.id) and claimed:
                yield Task(variant.id, dialect, each, False, profile or "smoke", claimed)


def run(pairs: Sequence[Task], workers: int) -> Iterator[Finding]:
    """Findings in the order of the tasks."""
    if workers <= 1:
        yield from map(judged, pairs)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(judged, pairs, chunksize=16)


def report(findings: Iterable[Finding], every_law: bool = False) -> int:
    """Prints a line a fault, and of variants only what is not as it must be. The exit code."""
    begin, bad, count, cases, ratio = time.perf_counter(), [], 0, 0, 0.0
    for one in findings:
        count += 1
        cases += one.cases
        ratio = max(ratio, 0.0 if one.task.faulty else one.ratio)
        fine = one.expected or (every_law and one.task.faulty)
        if not fine:
            bad.append(one)
        if one.task.faulty or not fine:
            print(_line(one), flush=True)
    print(f"{count} pairs of a block and a law, {len(bad)} not as they must be, {time.perf_counter() - begin:.0f} s")
    print(f"{cases:,} cases; the largest error ÷ bound of a variant is {ratio:.3g}")
    for one in bad:
        print(f"{'must break' if one.task.faulty else 'must hold'}: {_line(one)}")
    return 1 if bad or not count else 0


def _line(one: Finding) -> str:
    return f"{one.how:12} {one.task.id:44} {one.task.dialect:11} {one.task.law}  {one.where}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flowref.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--law", help="a law or family")
    parser.add_argument("--only", help="one fault or variant")
    parser.add_argument("--every-law", action="store_true", help="hold the faults to all laws, not only to their own")
    parser.add_argument(
        "--profile", help="smoke or ci; by default ci for faults, smoke for variants, of which every law costs more"
    )
    parser.add_argument("--kind", choices=KINDS, help="only the faults, or only the variants")
    parser.add_argument("--precision", default=",".join(PRECISIONS), help="as of `flowref check`")
    parser.add_argument("-n", type=int, default=os.cpu_count() or 1, help="processes")
    given = parser.parse_args(arguments)
    try:
        kinds = (given.kind,) if given.kind else KINDS
        precisions = tuple(given.precision.split(","))
        pairs = list(tasks(given.law, given.only, given.every_law, given.profile, kinds, precisions))
    except KeyError as unknown:
        parser.error(unknown.args[0])
    return report(run(pairs, given.n), given.every_law)
