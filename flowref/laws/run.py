"""What a law is given: one case, one target, one direction and precision; and how it says that the law is broken.

Run          the target's answers, the reference's with their bounds, and `within`, which compares them
LawBroken    the law does not hold on this case; `details` says where and by how much
Wanted       the reference's passes and gradients of a case, computed once for all laws
Meter        what a comparison leaves behind: largest ratio, how many were decided
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowref.bounds import ARITHMETICS, FLOAT32, FLOAT64, TF32, Arithmetic, Bounded, exact
from flowref.cases.case import Case
from flowref.laws.registry import Law
from flowref.laws.spent import part
from flowref.reference import Pass, ReferenceBlock

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
DECIDED = 1 / 16  # an element is decided where its bound is at most this share of the scale (docs/bounds.md)
THREADS = 3  # by which few sizes can be divided without a remainder
TURNS = 8  # passes on them: whether one thread spoils what another does is a matter of chance
KINDS = ("output", "logdet", "both")  # which of the two the gradients come in by


class LawBroken(AssertionError):
    """A law does not hold. details: kind, what, and, of a comparison, index, got, want, bound, ratio, over, of."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = {"message": message, **details}


class TargetRaised(LawBroken):
    """The target raised on a legal case, or gave what is no answer."""


@dataclass
class Meter:
    """Figures of the comparisons of one item."""

    comparisons: int = 0
    undecided: int = 0
    ratio: float = 0.0  # largest error ÷ bound
    moot: str = ""  # why the target leaves the law nothing to judge on this case, where it does
    ratios: list[tuple[str, int, float]] = field(default_factory=list)  # (what, C·N, ratio), where asked for
    keep: bool = False

    def add(self, what: str, size: int, ratio: float, decided: bool) -> None:
        self.comparisons += 1
        self.undecided += not decided
        if decided:
            self.ratio = max(self.ratio, ratio)
        if self.keep and decided:
            self.ratios.append((what, size, ratio))


@dataclass(frozen=True)
class Answer:
    """What a target answered in one pass: output, log-det (as given), and what its subnet was given and answered."""

    y: Tensor
    logdet: Tensor
    seen: Sequence[Tensor]
    answers: Sequence[Tensor]


class Wanted:
    """The reference on one case in one arithmetic: passes and gradients with their bounds, each computed once."""

    @part("reference")
    def __init__(self, case: Case, arith: Arithmetic) -> None:
        self.case, self.arith = case, arith
        with torch.random.fork_rng(devices=[]):
            self.block = reference_block(case)
        self.state = {name: exact(value, arith) for name, value in self.block.tensors().items()}
        self._passes: dict[bool, Pass] = {}
        self._gradients: dict[tuple[bool, str], dict[str, Bounded]] = {}
        self._trips: dict[bool, Pass] = {}

    def exact(self, value: Tensor) -> Bounded:
        return exact(value, self.arith)

    @part("reference")
    @torch.no_grad()
    def go(self, rev: bool, x: Any = None, c: Sequence[Tensor] | None = None) -> Pass:
        """The pass on the case's own inputs, or on these (tensors are exact)."""
        own = x is None and c is None
        if own and rev in self._passes:
            return self._passes[rev]
        x = self.case.x if x is None else x
        x = x if isinstance(x, Bounded) else self.exact(x)
        conditions = tuple(self.exact(v) for v in (self.case.c if c is None else c))
        one = self.block.trace(x, conditions, rev, self.state)
        if own:
            self._passes[rev] = one
        return one

    def trip(self, rev: bool) -> Pass:
        """The other direction, applied to what this direction answered."""
        if rev not in self._trips:
            self._trips[rev] = self.go(not rev, self.go(rev).out.stored())
        return self._trips[rev]

    @part("reference")
    @torch.no_grad()
    def gradients(self, rev: bool, kind: str) -> dict[str, Bounded]:
        """Gradients of ``Σ gy·out`` (output), ``Σ gj·logdet`` (logdet), or their sum (both)."""
        if (rev, kind) not in self._gradients:
            gy, gj = incoming(self.case, kind)
            found = self.block.pullback(self.go(rev), self.exact(gy), self.exact(gj), self.state)
            self._gradients[rev, kind] = found
        return self._gradients[rev, kind]


class Shared:
    """What float64 is judged by: float32's passes, whose bounds shrink in proportion to u, or its own where they don't.

    A bound is convex in u, so a share of it serves, except behind a tanh whose argument was uncertain (`Bounded.bent`).
    Either way what is given is in float64, so that all of it may stand in one formula.
    """

    def __init__(self, case: Case) -> None:
        self._case = case

    @cached_property
    def _float32(self) -> Wanted:
        """Kept here too, since `wanted` keeps no large case, and a law asks more than once."""
        return wanted(self._case, FLOAT32)

    def _either(self, ask: Callable[[Wanted], Any], bent: Callable[[Any], bool]) -> Any:
        found = ask(self._float32)
        if bent(found):
            return ask(wanted(self._case, FLOAT64))
        return {name: g.shared() for name, g in found.items()} if isinstance(found, dict) else SharedPass(found)

    def go(self, rev: bool) -> Pass:
        return self._either(lambda w: w.go(rev), lambda one: one.out.arith.bent)

    def trip(self, rev: bool) -> Pass:
        return self._either(lambda w: w.trip(rev), lambda one: one.out.arith.bent)

    def gradients(self, rev: bool, kind: str) -> dict[str, Bounded]:
        return self._either(lambda w: w.gradients(rev, kind), lambda found: any(g.arith.bent for g in found.values()))


class SharedPass:
    """What a pass computed in float32, as float64 is judged by it."""

    def __init__(self, one: Pass) -> None:
        self._one = one

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._one, name)
        if isinstance(value, (list, tuple)):
            return [v.shared() for v in value]
        return value.shared() if isinstance(value, Bounded) else value


def incoming(case: Case, kind: str) -> tuple[Tensor, Tensor]:
    """Incoming gradients of output and log-det; the one that `kind` leaves out is zero."""
    gy = torch.zeros_like(case.gy) if kind == "logdet" else case.gy
    gj = torch.zeros_like(case.gj) if kind == "output" else case.gj
    return gy, gj


def seed_everything(seed: int) -> None:
    """Seed every generator that a block may draw from, so that a run repeats whatever the target uses."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed costs milliseconds for devices that aren't there
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """torch, and with it a target, on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def reference_block(case: Case) -> ReferenceBlock:
    """The reference, built and loaded for a case."""
    spec = case.spec
    block = ReferenceBlock(
        [spec.dims],
        spec.dims_c,
        case.subnet_constructor,
        spec.affine_clamping,
        spec.gin_block,
        spec.global_affine_init,
        spec.global_affine_type,
        False,  # a soft W is loaded into a hard block all the same, and need not be drawn here
        spec.learned_householder_permutation,
        spec.reverse_permutation,
        dialect=spec.dialect,
    )
    block.load_state_dict(case.state)
    return block.requires_grad_(False)


@lru_cache(maxsize=192)
def _wanted(key: str, arith: Arithmetic) -> Wanted:
    return Wanted(_CASES[key], arith)


_CASES: dict[str, Case] = {}
KEPT = 6000  # numbers in x: a pass keeps some 100 arrays of that size


def wanted(case: Case, arith: Arithmetic) -> Wanted:
    """`Wanted`, kept for the cases seen last, since explicit rows are shared by all laws; large ones are not kept."""
    if case.x.numel() > KEPT:
        return Wanted(case, arith)
    _CASES[case.id] = case
    try:
        return _wanted(case.id, arith)
    finally:
        del _CASES[case.id]


class Run:
    """One law's view of one case. See `within` for the comparison that every law ends in."""

    def __init__(
        self,
        case: Case,
        target: Any,
        precision: str,
        direction: str,
        device: str = "cpu",
        meter: Meter | None = None,
        guard: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.case, self.target, self.precision, self.direction, self.device = case, target, precision, direction, device
        self.spec = case.spec
        self.dtype = DTYPES[precision]
        self.meter = Meter() if meter is None else meter
        self.guard = guard
        self.probe: Any = None

    @property
    def rev(self) -> bool:
        return self.direction == "reverse"

    @cached_property
    def arith(self) -> Arithmetic:
        """float64 is judged by float32's bound times 2⁻²⁹, since a bound is convex in u; see `bound`."""
        if self.precision == "float32" and self.target.precision == "tf32":
            return TF32
        if self.precision == "float64":
            spec, s = self.spec, self.case.state["global_scale"]
            linear = spec.global_affine_type == "SOFTPLUS" and not spec.gin_block and bool((s > 39).any())
            return FLOAT64 if linear else FLOAT32
        return ARITHMETICS[self.precision]

    def on(self, case: Case) -> Run:
        """The same run on another case, such as this one with one thing changed."""
        return Run(case, self.target, self.precision, self.direction, self.device, self.meter, self.guard)

    # The reference's side.

    @cached_property
    def wanted(self) -> Wanted | Shared:
        """The reference's passes and gradients on this case."""
        if self.precision == "float64" and self.arith is FLOAT32:
            return Shared(self.case)
        return wanted(self.case, self.arith)

    @property
    def want(self) -> Pass:
        """The reference's pass in this direction."""
        return self.wanted.go(self.rev)

    def bound(self, want: Bounded) -> Tensor:
        """The largest difference that arithmetic in the target's precision can produce here.

        In float64 the reference rounds too, so the bound counts twice.
        """
        if self.precision != "float64":
            return want.error
        return 2 * (want if want.arith.name == FLOAT64.name else want.shared()).error

    # The target's side.

    def ask(self, what: str, call: Callable[[], Any]) -> Any:
        """Call the target; whatever it raises breaks the law."""
        try:
            with part("target"), self.guard():
                return call()
        except (LawBroken, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit and a test runner's skip are no way out of a law
            said = f"{type(error).__name__}: {error}".strip()
            raise TargetRaised(f"{what} raised {said}", kind="raised", what=what, exception=said) from error

    def build(self, *, load: bool = True) -> Any:
        """A new block of the target's, from the case's seed; loaded with the case's state, or as it was made."""
        seed_everything(int(self.case.id[:8], 16))

        def constructor(inputs: int, outputs: int) -> Any:
            self.probe = self.case.subnet_constructor(inputs, outputs)
            return self.probe

        block = self.ask("the constructor", lambda: self.target.build(self.spec, constructor, self.dtype, self.device))
        if load:
            self.ask("loading the state", lambda: self.target.load(block, self.case.state))
        return block

    @cached_property
    def block(self) -> Any:
        return self.build()

    @cached_property
    def inputs(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The case's x and conditions in the target's dtype and the case's layout."""
        return self.case.inputs(self.dtype, self.device)

    def go(
        self,
        x: Tensor | None = None,
        c: Sequence[Tensor] | None = None,
        rev: bool | None = None,
        jac: bool = True,
        block: Any = None,
    ) -> Answer:
        """One pass of the target; what is not given is the case's own."""
        block = self.block if block is None else block
        x = self.inputs[0] if x is None else x
        c = self.inputs[1] if c is None else c
        rev = self.rev if rev is None else rev
        if self.probe is not None:
            self.probe.clear()
        what = f"the {'reverse' if rev else 'forward'} pass"
        y, logdet = self.ask(what, lambda: self.target.run(block, x, c, rev, jac))
        seen, answers = (list(self.probe.seen), list(self.probe.answers)) if self.probe is not None else ([], [])
        return Answer(y, logdet, seen, answers)

    @cached_property
    def answer(self) -> Answer:
        """The target's pass on the case, in this direction."""
        return self.go()

    def gradients(self, kind: str) -> dict[str, Tensor | None]:
        """The target's gradients, by the names of `Wanted.gradients`; None where autograd found no path."""
        x, c = (self.inputs[0].detach(), [v.detach() for v in self.inputs[1]])
        leaves = {"x": x.requires_grad_(), **{f"c{i}": v.requires_grad_() for i, v in enumerate(c)}}
        trained = self.ask("the state", lambda: self.target.state(self.block))
        leaves |= {name: value for name, value in trained.items() if value.requires_grad}
        got = self.go(x, c)
        gy, gj = (g.to(got.y.dtype).to(self.device) for g in incoming(self.case, kind))
        want_shapes = (self.case.x.shape, self.case.gj.shape)
        self.equal(want_shapes, (got.y.shape, got.logdet.shape), "shapes of output and log-det")
        loss = (gy * got.y).sum() if kind != "logdet" else torch.zeros((), device=self.device)
        if kind != "output":
            loss = loss + (gj.to(got.logdet.dtype) * got.logdet).sum()
        if not loss.requires_grad:
            return dict.fromkeys(leaves)
        found = self.ask("backward", lambda: torch.autograd.grad(loss, list(leaves.values()), allow_unused=True))
        return dict(zip(leaves, found, strict=True))

    # Comparisons.

    @part("comparison")
    def near(self, want: Bounded, got: Tensor | None, what: str, *, scale: float | None = None) -> None:
        """``got`` is what the reference computes, to within its bound."""
        value = want.value
        if scale is None:
            scale = float(abs(value).max()) if value.numel() else 1.0
            if scale == 0.0:  # zero by symmetry: the size of the terms that cancel
                scale = float(want.size.max())
        self.within(value, got, self.bound(want), what, scale)

    @part("comparison")
    def within(self, want: Tensor, got: Any, bound: Tensor, what: str, scale: float) -> None:
        """Hold ``|got − want| <= bound`` at every element; raise LawBroken at the worst where it is not so.

        None as ``got`` stands for zeros. A NaN breaks, unless the bound is infinite. An element is decided where
        bound <= scale/16, and the comparison is where at least half of them are; an excess breaks the law in any case.
        """
        if got is None:
            got = torch.zeros(want.shape)
        if not isinstance(got, Tensor) or got.shape != want.shape:
            came = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
            raise LawBroken(
                f"{what} has shape {came}, not {tuple(want.shape)}", kind="shape", what=what, got=str(came),
                want=str(tuple(want.shape)),
            )  # fmt: skip
        got = got.detach().to("cpu", torch.float64)
        error = abs(got - want)
        size = math.prod(self.spec.dims)
        if not want.numel():
            self.meter.add(what, size, 0.0, True)
            return
        held = (error <= bound) | bound.isinf()  # where the arithmetic promises nothing, NaN is no finding
        ratio = error / bound
        if not bool(bound.all()):  # 0 of 0
            ratio = torch.where(error == 0, 0.0, ratio)
        ratio = ratio.nan_to_num(nan=math.inf)
        decided = bound <= DECIDED * scale
        if bool(held.all()):
            share = ratio if bool(decided.all()) else ratio[decided]
            largest = float(share.max()) if share.numel() else 0.0
            self.meter.add(what, size, largest, 2 * share.numel() >= want.numel())
            return
        worst = int(torch.where(held, -1.0, ratio).argmax())
        index = [int(i) for i in np.unravel_index(worst, tuple(want.shape))] if want.ndim else []
        g, w, b, r = (float(t.flatten()[worst]) for t in (got, want, bound, ratio))
        over, of = int((~held).sum()), want.numel()
        raise LawBroken(
            f"{what}{index if index else ''}: got {g:.9g}, want {w:.9g}, bound {b:.3g}: {r:.3g} × the bound; "
            f"{over} of {of} elements over it",
            kind="value", what=what, index=index, got=g, want=w, bound=b, ratio=r, over=over, of=of,
        )  # fmt: skip

    @part("comparison")
    def same(self, want: Tensor, got: Tensor, what: str) -> None:
        """Equal bits but for the sign of zero, NaN equal to NaN."""
        self.equal(tuple(want.shape), tuple(got.shape), f"the shape of {what}")
        want, got = want.detach(), got.detach()
        differs = ~((want == got) | (want.isnan() & got.isnan()))
        self.meter.add(what, math.prod(self.spec.dims), 0.0, True)
        if bool(differs.any()):
            at = int(differs.flatten().int().argmax())
            index = [int(i) for i in np.unravel_index(at, tuple(want.shape))] if want.ndim else []
            g, w = float(got.flatten()[at]), float(want.flatten()[at])
            over = int(differs.sum())
            raise LawBroken(
                f"{what}{index}: got {g!r}, want exactly {w!r}; {over} of {want.numel()} elements differ",
                kind="bits", what=what, index=index, got=g, want=w, bound=0.0, over=over, of=want.numel(),
            )  # fmt: skip

    def reaches(self, want: Tensor, got: Tensor | None, what: str, *, nan: bool = False) -> None:
        """``got`` is not finite wherever ``want`` isn't; with ``nan``, NaN wherever that is. None stands for zeros."""
        got = torch.zeros(want.shape) if got is None else got.detach().cpu()
        self.equal(tuple(want.shape), tuple(got.shape), f"the shape of {what}")
        asked, word = (want.isnan(), "NaN") if nan else (~want.isfinite(), "not finite")
        lost = asked & ~(got.isnan() if nan else ~got.isfinite())
        self.meter.add(what, math.prod(self.spec.dims), 0.0, bool(asked.any()))
        if bool(lost.any()):
            at = int(lost.flatten().int().argmax())
            index = [int(i) for i in np.unravel_index(at, tuple(want.shape))] if want.ndim else []
            g, w = float(got.flatten()[at]), float(want.flatten()[at])
            over, of = int(lost.sum()), int(asked.sum())
            raise LawBroken(
                f"{what}{index}: got {g!r}, want {word}, as the reference's is {w!r}; {over} of {of} elements are lost",
                kind="bits", what=what, index=index, got=g, want=w, bound=0.0, over=over, of=of,
            )  # fmt: skip

    @part("comparison")
    def equal(self, want: Any, got: Any, what: str) -> None:
        """Equal plain values: counts, shapes, names."""
        self.meter.add(what, math.prod(self.spec.dims), 0.0, True)
        if want != got:
            raise LawBroken(f"{what}: got {_plain(got)}, want {_plain(want)}", kind="equal", what=what,
                            got=_plain(got), want=_plain(want))  # fmt: skip


def _plain(value: Any) -> str:
    if isinstance(value, torch.Size):
        return str(tuple(value))
    if isinstance(value, tuple):
        return str(tuple(tuple(v) if isinstance(v, torch.Size) else v for v in value))
    return str(value)


def hold_case(
    law: Law,
    case: Case,
    target: Any,
    precision: str,
    direction: str,
    device: str = "cpu",
    meter: Meter | None = None,
    guard: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Meter:
    """Hold one law on one case. Raises LawBroken, or returns the meter."""
    run = Run(case, target, precision, direction, device, meter, guard)
    law.body(run)
    return run.meter
