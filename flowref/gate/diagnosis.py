"""Where a target first leaves its bound on a case, and the step of the block to which that leads.

    places(ask, direction)    the places of a pass that can be seen from outside, each held against the reference:
                              what the subnet is given, output, log-det, gradients, and a second pass of the same block
    diagnose(ask, law, …)     the first place that is out, and the step: the one without which the difference is gone

The step is told in two ways, neither of which assumes how the target computes. First its σ, W, o, l and t are read
from outputs and held against the reference's (`readings`). Where they hold, since what is wrong depends on sizes or on
the subnet, a step is made neutral in the case itself (W = I, σ = 1 and o = 0, l = 0, t = 0, no GIN). What shows at none
of the places leads to what its law is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowref.cases import Case, Recipe
from flowref.gate.findings import AFFINE, CHANCE, CLAMP, COUPLING, GIN, MIXING
from flowref.gate.readings import Reading, reading, without_affine, without_mixing
from flowref.laws.logdet import scale_of
from flowref.laws.registry import BOTH, HALVES, Law
from flowref.laws.run import DTYPES, LawBroken, Meter, Run
from flowref.spec import AFFINE_TYPES

# Steps of a pass; a law that shows in none, on one thread, leads to what it, or its family, is about.
LOGDET, GRADIENT, STATE, ANSWER, DTYPE = "log-det", "gradient", "state", "answer", "dtype"
ANY, SECOND = "an answer", "output of a second pass"
ABOUT = {
    "reference.several-threads-equal-reference": "threads",
    "gradient.on-several-threads": "threads",
    "state.defaults-are-the-documented-ones": "defaults of the constructor",
    "batch.not-finite-reaches-its-outputs": "values that are not finite",
    "condition.not-finite-reaches-its-outputs": "values that are not finite",
    "coupling.not-finite-answer-reaches-the-outputs": "values that are not finite",
    "gradient.not-finite-reaches-its-gradients": "values that are not finite",
    "shape": ANSWER,
    "reference": COUPLING,
    "inverse": STATE,
    "logdet": LOGDET,
    "gin": GIN,
    "affine": AFFINE,
    "clamp": CLAMP,
    "permutation": MIXING,
    "coupling": COUPLING,
    "condition": COUPLING,
    "error": "refusals",
}


@dataclass(frozen=True)
class Ask:
    """A target and how its passes are run."""

    case: Case
    target: Any
    precision: str
    device: str = "cpu"
    guard: Callable[[], AbstractContextManager[Any]] = nullcontext

    @property
    def fits(self) -> bool:
        """Whether the precision holds the case's input and conditions: else they are rounded for the target alone.

        A law may make short ones itself; the places of a pass are those of the case as it stands.
        """
        of = DTYPES[self.precision]
        given = (self.case.x, *self.case.c)
        return all(torch.equal(v.to(of).to(v.dtype), v) for v in given)

    def run(self, direction: str) -> Run:
        """A fresh block's run."""
        return Run(self.case, self.target, self.precision, direction, self.device, guard=self.guard)


@dataclass(frozen=True)
class Place:
    """One thing that can be seen of a pass: largest error ÷ bound, and, where it is out, the worst element in words."""

    direction: str
    what: str
    ratio: float = 0.0
    message: str = ""
    raised: bool = False

    @property
    def out(self) -> bool:
        """Whether the target left its bound here."""
        return bool(self.message)

    def __str__(self) -> str:
        return f"{self.direction}: {self.what}"


@dataclass(frozen=True)
class Diagnosis:
    """``step`` to look at; ``first`` place out, or nothing; what was ``read`` there, or the steps without which it is
    ``gone``."""

    step: str
    first: Place | None = None
    gone: tuple[str, ...] = ()
    read: Reading | None = None

    @property
    def certain(self) -> bool:
        """Whether the step is not only what is left when none of the others is it."""
        return bool(self.gone) or self.read is not None or self.step != COUPLING

    def __str__(self) -> str:
        if self.step == CHANCE:
            return f"{CHANCE} (tried again, the law holds on this very case: memory that no one wrote, or a race?)"
        if self.first is None:
            return f"{self.step} (passes and gradients of this case are within their bounds)"
        without = FLAGS if self.first.what == ANY else NEUTRAL
        words = [f"{self.first} is out first"] + [f"and not with {without[step][0]}" for step in self.gone]
        words += ["and not in float32"] * (self.step == DTYPE)
        words += [f"and {self.read.what} is not the reference's"] if self.read else []
        return f"{self.step} ({', '.join(words)})"

    def plain(self) -> dict[str, Any]:
        """As a record holds it."""
        first = None if self.first is None else {"place": str(self.first), **asdict(self.first)}
        return {"step": self.step, "text": str(self), "first": first, "gone": list(self.gone)}


def places(ask: Ask, direction: str) -> Iterator[Place]:
    """The places of a pass in order; none after one that raised."""
    run = ask.run(direction)

    def look(what: str, compare: Callable[[], None]) -> Place:
        run.meter = Meter()
        try:
            compare()
        except LawBroken as broken:
            raised = broken.details["kind"] == "raised"
            return Place(direction, what, float(broken.details.get("ratio", torch.inf)), str(broken), raised)
        return Place(direction, what, run.meter.ratio)

    answered = look(ANY, lambda: _answer(run))
    yield answered
    if answered.out:
        return
    yield look("what the subnet is given", lambda: _seen(run))
    yield look("output", lambda: run.near(run.want.out, run.answer.y, "y"))
    logdet = lambda: run.near(run.want.logdet, run.answer.logdet, "logdet", scale=scale_of(run))  # noqa: E731
    yield look(LOGDET, logdet)
    yield look(SECOND, lambda: _second(run))
    if ask.precision in HALVES or "gradient" in ask.target.not_claimed:
        return
    want: dict[str, Any] = {}
    got: dict[str, Tensor | None] = {}
    for kind, of in (("output", "output"), ("logdet", "log-det")):

        def fetch(kind: str = kind) -> None:
            want.update(run.wanted.gradients(run.rev, kind))
            got.update(run.gradients(kind))

        fetched = look(f"gradient of the {of}", fetch)
        if fetched.out:
            yield fetched
            return
        for name in want:
            if not (name == "global_scale" and run.spec.gin_block):
                yield look(f"gradient of the {of} by {name}", lambda n=name: run.near(want[n], got.get(n), n))  # type: ignore[misc]


def _answer(run: Run) -> None:
    run.equal(run.want.out.shape, run.answer.y.shape, "the shape of y")


def _seen(run: Run) -> None:
    seen = run.answer.seen
    run.equal(1, len(seen), "calls of the subnet")
    run.near(run.want.seen, seen[0], "the subnet's input")


def _second(run: Run) -> None:
    run.go(rev=not run.rev)
    run.near(run.want.out, run.go().y, "y of a second pass")


def diagnose(ask: Ask, law: Law, direction: str) -> Diagnosis:
    """The step to which a law that is broken on a case leads.

    A half precision's bounds hide much, so its case, exact in float32 too, is looked at there first.
    """
    order = BOTH if direction not in BOTH else (direction, *(d for d in BOTH if d != direction))
    for precision in ("float32", ask.precision) if ask.precision in HALVES else (ask.precision,):
        here = replace(ask, precision=precision)
        if not here.fits:
            continue
        found: Diagnosis | None = None
        for d in order:
            place = next((place for place in places(here, d) if place.out), None)
            if place is None:
                continue
            told = explain(here, place)
            if told.certain:
                return told
            # Nothing that is made neutral helps here, as with a W whose sums are cut short, even those of I; the other
            # direction meets the steps in another order, and may tell.
            found = found or told
        if found is not None:
            return found
    return Diagnosis(ABOUT.get(law.id) or ABOUT.get(law.family, law.family))


def explain(ask: Ask, first: Place) -> Diagnosis:
    """The step to which a place that is out leads, when none before it is."""
    if ask.precision == "float64" and not _is_out(_single(ask), first):
        return Diagnosis(DTYPE, first)
    if first.what.startswith("gradient"):
        return Diagnosis(GRADIENT, first)
    if first.what in (LOGDET, SECOND):
        return Diagnosis(LOGDET if first.what == LOGDET else STATE, first)
    if first.what == ANY:
        return _unanswered(ask, first)
    read = reading(ask.case, ask.target, ask.precision, first.direction, ask.device, ask.guard)
    if read is not None:
        return Diagnosis(read.step, first, (), read)
    gone = tuple(step for step, (_, change) in NEUTRAL.items() if _is_gone(ask, change, first))
    return Diagnosis(_step(ask, first, gone), first, gone)


def _unanswered(ask: Ask, first: Place) -> Diagnosis:
    """The one flag, or the conditions, without which the target answers; else there is no more to say of it.

    An edge keeps its own finding, unless what lies off it has no answer either.
    """
    recipe = ask.case.recipe
    if recipe is None:
        return Diagnosis(ANSWER, first)
    inside = replace(
        recipe, B=max(1, recipe.B), C=max(2, recipe.C), alpha=recipe.alpha or 1.0,
        soft=recipe.soft or recipe.reflections > 0,
    )  # fmt: skip
    answers = lambda recipe: not _is_out(replace(ask, case=recipe.case()), first)  # noqa: E731
    if inside != recipe and answers(inside):
        return Diagnosis(ANSWER, first)
    changed = {step: [one for one in change(inside) if one != inside] for step, (_, change) in FLAGS.items()}
    gone = tuple(step for step, recipes in changed.items() if any(map(answers, recipes)))
    return Diagnosis(gone[0], first, gone) if len(gone) == 1 else Diagnosis(ANSWER, first)


def _is_gone(ask: Ask, change: Callable[[Case], Case | None], first: Place) -> bool:
    case = change(ask.case)
    return case is not None and not _is_out(replace(ask, case=case), first)


def _single(ask: Ask) -> Ask:
    """The same in float32, on numbers that a float32 holds."""
    case = ask.case
    short = lambda v: v.float().double()  # noqa: E731
    state = {name: short(value) for name, value in case.state.items()}
    case = replace(case, x=short(case.x), c=tuple(map(short, case.c)), state=state, recipe=None)
    return replace(ask, case=case, precision="float32")


def _is_out(ask: Ask, first: Place) -> bool:
    """Whether the target is out at this place, or before it."""
    for place in places(ask, first.direction):
        if place.out or place.what == first.what:
            return place.out
    return False


def _step(ask: Ask, first: Place, gone: tuple[str, ...]) -> str:
    """The step among those without which the difference is gone."""
    if CLAMP in gone:
        if GIN in gone:
            return GIN
        return CLAMP if SHIFT not in gone and _logdet_is_out(ask, first.direction) else COUPLING
    for step in (SHIFT, AFFINE, MIXING, GIN):
        if step in gone:
            return COUPLING if step == SHIFT else step
    return COUPLING


def _logdet_is_out(ask: Ask, direction: str) -> bool:
    """Whether the log-scales themselves are wrong, which the log-det tells, though not in GIN mode."""
    case = _without_gin(ask.case) or ask.case
    return any(place.out and place.what == LOGDET for place in places(replace(ask, case=case), direction))


# What a case is without a step; None where it has none.


def _without_gin(case: Case) -> Case | None:
    if not case.spec.gin_block:
        return None
    return replace(case, spec=replace(case.spec, gin_block=False), recipe=None)


def _answering(case: Case, start: int, stop: int) -> Case | None:
    """The same rows of the subnet's answer, but for these, which are 0."""
    state, rows = dict(case.state), slice(start, stop)
    last = [name for name in LAST if f"subnet.{name}" in state][:2]
    if case.subnet.kind == "zero":
        return None
    if not last:  # an answer without parameters
        coefficients = torch.full((case.subnet.outputs,), 0.5, dtype=case.x.dtype)
        coefficients[rows] = 0
        subnet = replace(case.subnet, kind="constant")
        return replace(case, subnet=subnet, state=state | {"subnet.coefficients": coefficients}, recipe=None)
    for name in last:
        state[f"subnet.{name}"] = state[f"subnet.{name}"].clone()
        state[f"subnet.{name}"][rows] = 0
    return replace(case, state=state, recipe=None)


# A probe's parameters that make its answer, row by row; a network's second layer before its first.
LAST = ("weight_2", "bias_2", "weight", "bias", "coefficients")
SHIFT = "shift"
NEUTRAL: dict[str, tuple[str, Callable[[Case], Case | None]]] = {
    CLAMP: ("l = 0", lambda case: _answering(case, 0, case.spec.A)),
    SHIFT: ("t = 0", lambda case: _answering(case, case.spec.A, 2 * case.spec.A)),
    GIN: ("GIN off", _without_gin),
    AFFINE: ("σ = 1 and o = 0", without_affine),
    MIXING: ("W = I", without_mixing),
}
# A step -> its flag in words, and the recipes that do without.
FLAGS: dict[str, tuple[str, Callable[[Recipe], list[Recipe]]]] = {
    COUPLING: ("no conditions", lambda recipe: [replace(recipe, conditions=())]),
    GIN: ("GIN off", lambda recipe: [replace(recipe, gin=False)]),
    AFFINE: ("another type of Ψ", lambda recipe: [replace(recipe, affine=affine) for affine in AFFINE_TYPES]),
    MIXING: (
        "a hard W alone",
        lambda recipe: [replace(recipe, soft=False, reflections=0, reverse_permutation=False)],
    ),
}
