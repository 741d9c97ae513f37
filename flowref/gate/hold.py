"""Judges one item: explicit rows first, then the search, then each edge that the law meets; the answer is a record.

A record is plain JSON: law, target, dialect, device, precision, direction; ``status``; what was seen (cases,
comparisons, undecided, regimes, ratio, seconds, answers, timeouts); ``failure``, all that a message about a broken
law says; ``not_judged``, edges that their gatekeeper closed; ``reason``, why there is no verdict.

    held          on every case, and there was evidence          broken          on a case, see failure
    known         inside `where` it still fails, outside it holds  gone           inside `where` it holds
    not-claimed   the target says that it doesn't offer this     not-judged      its edges are closed
    unproven      no case, no decided comparison, or a required regime not met
    unusable      the target can't be used                       tampered        the judge was changed
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from hypothesis.database import DirectoryBasedExampleDatabase

from flowref.cases import Case, Recipe, save, stream
from flowref.gate import known
from flowref.gate.canary import Canary
from flowref.gate.diagnosis import Ask, Diagnosis, diagnose
from flowref.gate.evidence import Record
from flowref.gate.findings import CHANCE
from flowref.gate.finished import Finished
from flowref.gate.options import Settings
from flowref.gate.plan import Item
from flowref.gate.search import search, shrink
from flowref.gate.trial import Failure, Trial, made, plain
from flowref.gate.watch import CallTimeout, Counted, Watch
from flowref.gate.where import can_be_located, locate
from flowref.laws import registry
from flowref.laws.purity import GLOBAL
from flowref.laws.registry import BOTH, HALVES, Law
from flowref.laws.run import LawBroken
from flowref.laws.spent import SPENT, part
from flowref.reference import ReferenceBlock
from flowref.spec import Dialect
from flowref.targets import Module, TargetError, resolve

Test = Callable[[Case], bool]
# Of a law that is broken, on the same case, before its cause is looked for; no new one after so many seconds.
TRIES, TRIES_SECONDS = 3, 5.0
DEFAULT_REPORT = Path("flowref-report")
# How a target's kernels may run, by its own word; the last where it doesn't say.
KERNELS = ("eager", "numba", "triton", "triton (interpreted)", "unknown")
# Switches of the process, as they stand before any target has run. The law that asks whether a pass moves one would
# not see it in a process where an earlier pass already has.
SWITCHES = ("deterministic algorithms", "deterministic cuDNN", "TF32 in matrix products", "TF32 in convolutions",
            "precision of matrix products", "autocast")  # fmt: skip
FRESH = {name: GLOBAL[name][0]() for name in SWITCHES}
STREAM = int(getattr(stream, "VERSION", 1))


class Passes:
    """The passes of an item, each made when it is reached: an edge is not asked about before the interior held."""

    def __init__(self, edges: Iterable[str | None], make: Callable[[str | None], Pass]) -> None:
        self.edges, self.make, self.made = list(edges), make, dict[str | None, Pass]()

    def __iter__(self) -> Iterator[Pass]:
        for edge in self.edges:
            if edge not in self.made:
                self.made[edge] = self.make(edge)
            yield self.made[edge]


@dataclass(frozen=True)
class Pass:
    """Cases of one kind: the interior (edge None), or one edge."""

    edge: str | None
    rows: list[Recipe]
    examples: int
    closed: frozenset[bool] = frozenset()  # at this edge: with reflections, without

    def admits(self, case: Case) -> bool:
        """Whether a case belongs to this pass and is open."""
        return case.edge == self.edge and bool(case.spec.learned_householder_permutation) not in self.closed


class Clock:
    """The time that nightly has for a process's items: what one leaves of its share, those that follow have."""

    def __init__(self, seconds: float, shares: int) -> None:
        self.even, self.left = seconds / max(1, shares), shares
        self._end = time.monotonic() + seconds

    def next(self) -> None:
        """An item begins."""
        self.left -= 1

    def share(self) -> float:
        """Seconds for a search of this item: a quarter to four times an even share."""
        fair = (self._end - time.monotonic()) / (max(0, self.left) + 1)
        return min(max(fair, self.even / 4), 4 * self.even)


class Judge:
    """Judges items, one process's share of a run."""

    def __init__(self, settings: Settings, shares: int = 1, seed: int = 0) -> None:
        _settle()
        self.settings, self.watch, self.canary = settings, Watch(settings.call_timeout), Canary()
        self.known = known.read(settings.known_failures) if settings.known_failures else []
        self.seed = settings.budget.seed or (seed if settings.budget.fresh else 0)
        self.clock = Clock(settings.budget.seconds, shares)
        self.finished = Finished()
        self._targets: dict[str, Counted | str] = {}
        self._closed: dict[tuple[Any, ...], bool] = {}
        self._mute: dict[str, str] = {}  # targets that gave no answer on any covering row, and what they raised
        self._drawn: dict[tuple[Any, ...], list[Recipe]] = {}
        self._located: set[tuple[Any, ...]] = set()

    def judge(self, item: Item) -> Record:
        """The record of one item. Raises only on our own mistakes."""
        begin = time.perf_counter()
        SPENT.read()
        self.clock.next()
        target = self._target(item.target)
        _settle()
        record: Record = {"law": item.law.id, "target": item.target, "device": item.device, "precision": item.precision}
        record |= {"direction": item.direction, "kernels": "unknown", "stream": STREAM, "cases": 0, "reason": ""}
        if isinstance(target, str):
            self.watch.rest()
            return record | {"status": "unusable", "reason": target}
        record |= {"dialect": str(target.dialect), "kernels": self._kernels(item, target)}
        words = (item.law.needs | {item.precision}) & target.not_claimed
        earlier = self.finished.record(item, target)
        if words:
            record |= {"status": "not-claimed", "reason": ", ".join(sorted(words))}
        else:
            record |= earlier or self._tried(item, target)
        with part("canary"):
            changed = self.canary.changed()
        if changed:
            record |= {"status": "tampered", "reason": changed}
        self.watch.rest()
        record |= {"seconds": round(time.perf_counter() - begin, 3), "seed": self.seed, "spent": SPENT.read()}
        if not earlier:
            self.finished.keep(item, target, record)
        return record

    def _kernels(self, item: Item, target: Counted) -> str:
        """How the target says that its kernels run here, where it says so."""
        try:
            with self.watch.case(), self.watch.call():
                word = target.kernels(item.device, item.precision)
        except KeyboardInterrupt:
            raise
        except BaseException:  # most targets offer no such method; what one does in it is no verdict on its block
            return KERNELS[-1]
        return word if isinstance(word, str) and word in KERNELS else KERNELS[-1]

    def _target(self, name: str) -> Counted | str:
        """The target, or why there is none."""
        if name not in self._targets:
            self._targets[name] = self._resolved(name)
        return self._targets[name]

    def _resolved(self, name: str) -> Counted | str:
        dialect = Dialect(self.settings.dialect) if self.settings.dialect else None
        try:
            with self.watch.case(), self.watch.call():
                return Counted(resolve(name, dialect))
        except TargetError as error:
            return str(error)
        except CallTimeout as late:
            return f"{name}: importing it {late}."
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module may leave by SystemExit, or by pytest's skip
            return f"{name} can't be imported: it raised {type(error).__name__}: {error}."

    def _tried(self, item: Item, target: Counted) -> Record:
        dialect = target.dialect
        reference = Module(ReferenceBlock, name="flowref.reference:ReferenceBlock", dialect=dialect)
        trial = Trial(item.law, target, item.direction, item.precision, item.device, self.watch, reference, item.part)
        answers, timeouts = target.answers, self.watch.timeouts
        passes = Passes(item.law.kinds, lambda edge: self._pass(trial, edge))
        entries = known.concerning(self.known, item)
        excused = lambda case: any(entry.excuses(case) for entry in entries)  # noqa: E731
        still = [self._still_fails(trial, passes, entry) for entry in entries]
        failure = self._first_failure(trial, passes, lambda case: not excused(case))
        record = self._counts(trial, passes) | {"answers": target.answers - answers}
        record |= _status(trial, failure, entries, still, passes, required=self.settings.budget.name != "smoke")
        if failure is not None:
            record["failure"] = self._described(trial, failure)
            refusals = target.name in self._mute and item.law.family == "error"  # what only raises can't refuse
            if (failure.kind in ("raised", "timeout") or refusals) and not record["answers"]:
                record |= {"status": "raised-always", "reason": self._mute.get(target.name, "")}
        return record | {"timeouts": self.watch.timeouts - timeouts}

    # Passes

    @part("cases")
    def _pass(self, trial: Trial, edge: str | None) -> Pass:
        budget, law = self.settings.budget, trial.law
        rows, examples = self._rows(trial, law, edge), budget.searched if edge is None else budget.searched_edge
        gate = edge or (trial.precision if trial.precision in HALVES else None)
        closed = frozenset(
            reflected
            for reflected in (False, True)
            if gate is not None and law.gatekeeper != gate and self._is_closed(trial, gate, edge, reflected)
        )
        return Pass(edge, rows, 0 if len(closed) == 2 else _searched(law, examples), closed)

    def _rows(self, trial: Trial, law: Law, edge: str | None) -> list[Recipe]:
        dialect, fix = trial.target.dialect, law.fixed(trial.precision)
        if law.parts:
            return [stream.narrow({"seed": trial.part}, dialect, fix)]
        if law.own:
            return [stream.narrow({"seed": 1 + turn, **row}, dialect, fix) for turn, row in enumerate(law.own)]
        rows = stream.rows(self.settings.budget.rows, dialect, fix) if edge is None else None
        return stream.edge_rows(str(edge), dialect, fix)[: law.rows] if rows is None else enough(rows, law)

    def _is_closed(self, trial: Trial, gate: str, edge: str | None, reflected: bool) -> bool:
        """Whether the target fails the gatekeeper of an edge, or of a half precision. Asked once a process."""
        guard = next((law for law in registry.all() if law.gatekeeper == gate), None)
        if guard is None:
            return False
        asked = guard.directions if trial.direction not in guard.directions else (trial.direction,)
        return any(self._refuses(trial, guard, edge, reflected, direction) for direction in asked)

    def _refuses(self, trial: Trial, guard: Law, edge: str | None, reflected: bool, direction: str) -> bool:
        name, dialect = trial.target.name, trial.target.dialect
        key = (name, dialect, guard.id, reflected, direction, trial.precision, trial.device)
        if key not in self._closed:
            mine = Pass(edge, [], 0, frozenset({not reflected}))
            cases = [case for case in map(made, self._rows(trial, guard, edge)) if mine.admits(case)]
            ask = Trial(guard, trial.target, direction, trial.precision, trial.device, trial.watch, trial.reference)
            self._closed[key] = self.watch.spent or any(ask.meets(case) for case in cases)
        return self._closed[key]

    # Cases

    def _first_failure(self, trial: Trial, passes: Passes, test: Test) -> Failure | None:
        for each in passes:
            for case in _cases(each, test):
                failure = trial.meets(case)
                if failure is not None:
                    self._look_for_an_answer(trial, failure)
                    return self._made_smaller(trial, failure, each, test)
            failure = self._searched(trial, each, test)
            if failure is not None:
                return failure
        return None

    def _look_for_an_answer(self, trial: Trial, failure: Failure) -> None:
        """A target that gave no answer so far may give none at all, which is another verdict: try the covering rows."""
        if failure.kind == "timeout" or trial.target.answers or trial.target.name in self._mute:
            return
        said = ""
        for recipe in stream.rows("smoke", trial.target.dialect):
            for precision, direction in product(self.settings.precisions, BOTH):
                ask = Ask(made(recipe), trial.target, precision, trial.device, self.watch.call)
                said = self._raised(ask, direction)
                if not said or self.watch.spent:
                    return
        self._mute[trial.target.name] = said

    def _raised(self, ask: Ask, direction: str) -> str:
        """What a pass of the case's own raised, in words; nothing where it answered."""
        try:
            with self.watch.case():
                ask.run(direction).answer  # noqa: B018 (a pass is made where its answer is read)
        except (LawBroken, CallTimeout) as error:
            return str(error)
        return ""

    @part("cases")
    def _searched(self, trial: Trial, each: Pass, test: Test) -> Failure | None:
        """The smallest failure that a search finds, or None.

        A law's items search alike, since the seed is the law's and what is drawn depends on nothing else while all
        holds. So those after the first take what was drawn, and search again only for a failure, to make it smaller.
        """
        if not each.examples:
            return None
        budget = self.settings.budget
        dialect, fix = trial.target.dialect, trial.law.fixed(trial.precision)
        key = (trial.law.id, dialect, fix is trial.law.fix, each.edge, each.examples)
        drawn: list[Recipe] = []
        counting = True

        def fails(recipe: Recipe) -> Failure | None:
            nonlocal counting
            drawn.append(recipe)
            case = made(recipe)
            if not each.admits(case) or not test(case):
                return None
            with part("law" if counting else "shrinking"):
                failure = trial.meets(case, count=counting)
            counting = counting and failure is None
            return failure

        first = None
        if key in self._drawn:
            first = next(filter(None, map(fails, self._drawn[key])), None)
            if first is None:
                return None
        found = search(
            fails,
            stream.recipes(dialect, fix, edge=each.edge),
            examples=each.examples,
            seed=trial.seed + self.seed,
            shrink=self.settings.shrink,
            until=time.monotonic() + self.clock.share() if budget.fresh else None,
            database=DirectoryBasedExampleDatabase(".flowref/examples") if budget.fresh else None,
        )
        if found is None and first is None and not budget.fresh:
            self._drawn[key] = drawn
        return found or first

    @part("shrinking")
    def _made_smaller(self, trial: Trial, failure: Failure, each: Pass, test: Test) -> Failure:
        if not self.settings.shrink or failure.kind == "timeout" or trial.law.parts:
            return failure

        def legal(recipe: Recipe) -> bool:
            fix = trial.law.fixed(trial.precision)
            drawable = stream.narrow(asdict(recipe), recipe.dialect, fix, edge=each.edge) == recipe
            return drawable and each.admits(made(recipe)) and test(made(recipe))

        return shrink(lambda recipe: trial.meets(recipe.case(), count=False), failure, legal)

    # Known failures

    def _still_fails(self, trial: Trial, passes: Passes, entry: known.Known) -> bool | None:
        """Whether the law fails inside ``where``; None where no case of this run lies there, so nothing is excused."""
        stored = entry.stored(str(trial.target.dialect))
        if stored is not None and trial.meets(stored):
            return True
        met = stored is not None
        for each in passes:
            for case in _cases(each, entry.excuses):
                met = True
                if trial.meets(case):
                    return True
        return False if met else None

    # Records

    def _counts(self, trial: Trial, passes: Passes) -> Record:
        return {
            "cases": trial.cases,
            "comparisons": trial.comparisons,
            "undecided": trial.undecided,
            "regimes": sorted(trial.regimes),
            "ratio": trial.ratio,
            "cases_digest": trial.digest.hexdigest(),
            "not_judged": [each.edge or trial.precision for each in passes.made.values() if each.closed],
        }

    @part("diagnosis")
    def _leads(self, trial: Trial, failure: Failure) -> Record | None:
        """The step of the block to which the failure leads; nothing where looking for it did not end well."""
        if failure.kind == "timeout":
            return None
        ask = Ask(failure.case, trial.target, trial.precision, trial.device, self.watch.call)
        try:
            if self._holds_again(trial, failure.case):
                return plain(Diagnosis(CHANCE).plain() | {"edge": failure.case.edge})
            with self.watch.case():
                found = diagnose(ask, trial.law, trial.direction).plain()
                return plain(found | {"edge": failure.case.edge})
        except (Exception, CallTimeout):  # the verdict stands without it
            return None

    def _holds_again(self, trial: Trial, case: Case) -> bool:
        """Whether the law holds on a case on which it was broken, in one of a few more trials."""
        end = time.monotonic() + TRIES_SECONDS
        for _ in range(TRIES):
            _settle()
            if time.monotonic() < end and trial.meets(case, count=False) is None:
                return True
        return False

    def _described(self, trial: Trial, failure: Failure) -> Record:
        """All that a message about a broken law says."""
        case, drawn = failure.case, failure.drawn
        file = None
        try:
            file = str(save(case, (self.settings.report or DEFAULT_REPORT.absolute()) / "cases"))
        except OSError as error:  # a report that can't be written takes nothing from the verdict
            file = f"not saved: {error}"
        words = {"statement": trial.law.statement, "formula": trial.law.formula}
        leads = self._leads(trial, failure)
        return (
            plain(failure.details)
            | words
            | {
                "case": case.describe(),
                "case_id": case.id,
                "recipe": repr(case.recipe) if case.recipe else None,
                "drawn": repr(drawn) if drawn is not None and drawn != case.recipe else None,
                "file": file,
                "reference": plain(trial.on_reference(case)),
                "leads": leads,
                "where": self._where(trial, failure, leads),
            }
        )

    @part("diagnosis")
    def _where(self, trial: Trial, failure: Failure, leads: Record | None) -> Record | None:
        """What the cases have in common on which the law breaks; once for a step and a family of laws in a process."""
        step = (leads or {}).get("step")
        key = (trial.target.name, step, trial.law.family)
        if key in self._located or step == CHANCE or not can_be_located(trial, failure):
            return None
        self._located.add(key)
        return plain(locate(trial, failure).plain())


def _settle() -> None:
    """What a target may have changed for the whole process is as it was, so that each item starts alike."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    for name, value in FRESH.items():
        read, put = GLOBAL[name]
        if read() != value:
            put(value)


def _searched(law: Law, budget: int) -> int:
    """How many cases to search; none for a statistic, nor beside rows of the law's own."""
    if law.own or law.rows == 1:
        return 0
    return budget if law.rows is None else min(budget, law.rows)


def _cases(each: Pass, test: Test) -> Iterator[Case]:
    for recipe in each.rows:
        case = made(recipe)
        if each.admits(case) and test(case):
            yield case


def enough(rows: list[Recipe], law: Law) -> list[Recipe]:
    """As many rows as the law asks for, and those behind them that first meet a regime that it requires.

    So that no regime is left to what a search happens to draw.
    """
    found = rows[: law.rows]
    missing = set(law.regimes).difference(*(made(row).regimes for row in found)) if found != rows else set()
    for row in rows[len(found) :]:
        if missing & made(row).regimes:
            found.append(row)
            missing -= made(row).regimes
    return found


def _status(
    trial: Trial,
    failure: Failure | None,
    entries: list[known.Known],
    still: list[bool | None],
    passes: Passes,
    required: bool,
) -> Record:
    if failure is not None:
        return {"status": "broken"}
    for entry, fails in zip(entries, still, strict=True):
        if fails is False:
            where = " and ".join(entry.where) or "every case"
            return {"status": "gone", "reason": f"known to fail at {where} ({entry.reason}), and holds there"}
    if any(still):
        return {"status": "known", "reason": "; ".join(entry.reason for entry in entries)}
    if not trial.cases and any(each.closed for each in passes):
        return {
            "status": "not-judged",
            "reason": ", ".join(each.edge or trial.precision for each in passes if each.closed),
        }
    if not trial.cases and None not in passes.edges and not any(each.rows for each in passes):  # alpha-0 in freia-main
        return {"status": "not-judged", "reason": f"no such case is legal in the dialect {trial.target.dialect}"}
    if not trial.cases:
        return {"status": "unproven", "reason": "no case was drawn"}
    if trial.moot and not trial.comparisons:
        return {"status": "not-judged", "reason": trial.moot}
    if trial.comparisons <= trial.undecided:
        return {"status": "unproven", "reason": f"none of {trial.comparisons} comparisons could be decided"}
    missing = sorted(_must_meet(trial, passes) - trial.regimes - trial.moot_regimes) if required else []
    if missing:
        return {"status": "unproven", "missing": missing, "reason": f"not met: {', '.join(missing)}"}
    return {"status": "held"}


def _must_meet(trial: Trial, passes: Passes) -> set[str]:
    """Regimes that the law requires, less what is illegal in the dialect and what a gatekeeper closed.

    None in a half precision, whose cases are narrowed to those that it can decide.
    """
    if trial.law.fixed(trial.precision) is not trial.law.fix:
        return set()
    closed = {each.edge for each in passes if each.closed}
    illegal = {"alpha-0"} if trial.target.dialect == Dialect.FREIA_MAIN else set()
    return set(trial.law.regimes) - closed - illegal
