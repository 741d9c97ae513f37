"""A target's σ, W, o, l and t, each read from its outputs alone and held against the reference's.

    reading(case, target, …)    the first of them that is not the reference's, and the step that makes it

A ladder. A pass whose subnet answers with constants is an affine map of each pixel, so x = 0 and the unit vectors show
all of it. Its first case has next to nothing in it, and each further one adds one thing to a case that was within its
bound; the first that is out shows what was added. So a step is told by what it does, where the neutral cases of
`diagnosis` tell it by what goes away without it: these need a target whose σ = 1 and W = I are right, the ladder needs
none. Only what shows at one pixel, whatever the sizes, is read; for the rest there are the neutral cases.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowref.cases import Case
from flowref.cases.subnets import SubnetSpec
from flowref.gate.findings import AFFINE, CLAMP, COUPLING, GIN, MIXING
from flowref.laws.logdet import scale_of
from flowref.laws.run import LawBroken, Meter, Run
from flowref.spec import Dialect

WIDEST = 64  # channels, so that a ladder costs no more than a few passes of a law
Guard = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Reading:
    """``step``, since ``what`` was read from outputs and is not the reference's."""

    step: str
    what: str


def without_mixing(case: Case) -> Case:
    """W = I: an even number of equal reflections, or one more beside H itself."""
    channels, state = case.spec.C, dict(case.state)
    if "vk_householder" in state:
        v = torch.zeros_like(state["vk_householder"])
        v[:, 0] = 1
        eye = torch.eye(channels, dtype=v.dtype)
        if len(v) % 2:
            eye[0, 0] = -1
        state |= {"w_0": eye, "vk_householder": v}
    else:
        eye = torch.eye(channels, dtype=case.x.dtype).reshape(state["w_perm"].shape)
        state |= {"w_perm": eye, "w_perm_inv": eye.clone()}
    return replace(case, state=state, recipe=None)


def without_affine(case: Case) -> Case:
    """σ = 1 exactly, which only EXP has, and o = 0."""
    zero = torch.zeros_like(case.state["global_scale"])
    spec = replace(case.spec, global_affine_type="EXP", global_affine_init=1.0)
    return replace(case, spec=spec, state=case.state | {"global_scale": zero, "global_offset": zero.clone()},
                   recipe=None)  # fmt: skip


@dataclass
class Part:
    """Part of what a pass gave, the reference's, and how far they may differ."""

    got: Tensor
    want: Tensor
    bound: Tensor

    @property
    def over(self) -> Tensor:
        """True where it is out of its bound."""
        return ~((abs(self.got - self.want) <= self.bound) | self.bound.isinf())

    @property
    def out(self) -> bool:
        """Whether any of it is."""
        return bool(self.over.any())

    @property
    def is_longer_or_shorter(self) -> Tensor:
        """Which rows are, by more than an error within the bound makes it: ``| |a| − |b| | ≤ |a − b|``.

        So neither the order of channels nor a W that was not read counts.
        """
        got, want, bound = (torch.linalg.vector_norm(v, dim=1) for v in (self.got, self.want, self.bound))
        return ~(abs(got - want) <= bound)


@dataclass
class Seen:
    """A pass on one rung: what x = 0 becomes, (1, C), and what each unit vector adds to it, a row each, (C, C)."""

    run: Run
    zero: Part
    units: Part

    @property
    def out(self) -> bool:
        """Whether either is."""
        return self.zero.out or self.units.out


class Ladder:
    """The rungs of one case in one direction. Raises LawBroken where the target gives no answer."""

    def __init__(self, case: Case, target: Any, precision: str, direction: str, device: str, guard: Guard) -> None:
        self.case, self.gin = _bare(case), case.spec.gin_block
        self.back = case.spec.reverse_permutation
        self.channels = [dims[0] for dims in case.spec.dims_c]
        self._run = lambda rung: Run(rung, target, precision, direction, device, Meter(), guard)

    def look(self, rung: Case) -> Seen:
        """The target's pass and the reference's."""
        run = self._run(rung)
        run.equal(run.want.out.shape, run.answer.y.shape, "the shape of y")
        answer = run.answer.y.detach().to("cpu", torch.float64)
        got, want, bound = (v.flatten(1) for v in (answer, run.want.out.value, run.bound(run.want.out)))
        units = Part(got[1:] - got[:1], want[1:] - want[:1], bound[1:] + bound[:1])
        return Seen(run, Part(got[:1], want[:1], bound[:1]), units)

    def first(self) -> Reading | None:
        """From the bottom rung up."""
        return (
            self.global_affine_and_mixing()
            or self.coupling()
            or (self.conditions() if self.channels else None)
            or (self.centring() if self.gin else None)
        )

    # The rungs: s, W, o and what follows of the case, each added in its turn.

    def global_affine_and_mixing(self) -> Reading | None:
        """σ, then W, then each channel's own σ, o, and the W⁻¹ before the coupling. The subnet answers 0."""
        case = self.case
        one_scale = _put(case, global_scale=case.state["global_scale"][:, :1].expand_as(case.state["global_scale"]))
        still = _put(one_scale, global_offset=torch.zeros_like(one_scale.state["global_offset"]))
        flat, mixed = self.look(without_mixing(still)), self.look(still)
        wrong = flat.units.is_longer_or_shorter
        if bool(wrong.any()):
            if not bool((wrong & ~_active(flat).diagonal()).any()):  # σ is one for all channels here, so this is l
                return self.coupling()
            return Reading(AFFINE, "σ, the length of what unit vectors become at W = I,")
        if mixed.units.out:
            if flat.units.out and _follows(mixed, flat):
                return Reading(COUPLING, "the order of channels at W = I")
            return Reading(MIXING, "W, what unit vectors become at equal σ,")
        if mixed.zero.out:
            return Reading(COUPLING, "0, what x = 0 becomes at o = 0 and t = 0,")
        if self.look(_put(case, global_offset=still.state["global_offset"])).out:
            return Reading(AFFINE, "W σ, what unit vectors become,")
        if self.look(case).out:
            return Reading(AFFINE, "what the offset becomes, with no shift from the subnet,")
        if self.back and self.look(_spec(case, reverse_permutation=True)).out:
            return Reading(MIXING, "W σ W⁻¹, what unit vectors become,")
        return None

    def coupling(self) -> Reading | None:
        """l and t, of a subnet that answers with constants, at W = I and o = 0."""
        A = self.case.spec.A
        if not A:
            return None
        still = _put(self.case, global_offset=torch.zeros_like(self.case.state["global_offset"]))
        flat, k, t = without_mixing(still), _log_scales(still), torch.arange(1, A + 1).double() * 3
        scales = [self.look(_answering(flat, sign * k, 0 * t)) for sign in (1, -1)]
        shift = self.look(_answering(flat, 0 * k, t))
        if any(seen.out for seen in scales):
            other = any(seen.zero.out or bool((seen.units.over & ~_active(seen)).any()) for seen in scales)
            shifted = shift.out and not self.look(flat).out  # else it is l that shows there, too
            if other or shifted or all(_logdet_holds(seen) for seen in scales):
                return Reading(COUPLING, "exp(l), the factor of the active channels at constant k,")
            return Reading(CLAMP, "l, in the factor of the active channels and the log-det at constant k,")
        if shift.out:
            return Reading(COUPLING, "t, the output at x = 0 and constant t,")
        if self.look(_answering(flat, k, t)).out:
            return Reading(COUPLING, "t beside exp(l), the output at x = 0 and constant k and t,")
        return None

    def conditions(self) -> Reading | None:
        """They reach nothing but the subnet."""
        if self.look(_beside_conditions(self.case, self.channels)).out:
            return Reading(COUPLING, "what unit vectors become beside conditions that the subnet ignores")
        return None

    def centring(self) -> Reading | None:
        """GIN: σ = 1, then l less its mean."""
        whole = _spec(self.case, gin_block=True)
        k = _log_scales(whole)
        if len(k) and self.look(_answering(without_affine(without_mixing(whole)), k, 0 * k)).out:
            return Reading(GIN, "l less its mean, in the factor of the active channels at constant k,")
        if self.look(whole).out:
            return Reading(AFFINE, "what unit vectors and the offset become in a GIN block, where σ = 1,")
        return None


def reading(case: Case, target: Any, precision: str, direction: str, device: str, guard: Guard) -> Reading | None:
    """The lowest rung on which the target is out; None where it is on none, or does not answer."""
    if case.spec.C > WIDEST or not case.B:
        return None
    try:
        return Ladder(case, target, precision, direction, device, guard).first()
    except LawBroken:
        return None


def _bare(case: Case) -> Case:
    """The case's s, o and W over x = 0 and the unit vectors, one pixel each; subnet 0, no conditions, no flag set."""
    spec, B = case.spec, case.spec.C + 1
    ones = (1,) * spec.rank
    spec = replace(spec, dims=(spec.C, *ones), dims_c=(), gin_block=False, reverse_permutation=False)
    x = torch.cat([torch.zeros(1, spec.C), torch.eye(spec.C)]).double().reshape(B, *spec.dims)
    state = {name: value for name, value in case.state.items() if not name.startswith("subnet.")}
    state |= _other_than_one(state)
    state["subnet.coefficients"] = torch.zeros(spec.subnet_out, dtype=x.dtype)
    subnet = SubnetSpec("constant", spec.subnet_in, spec.subnet_out, spec.rank)
    return Case(spec, subnet, state, x, (), torch.zeros_like(x), torch.zeros(B, dtype=x.dtype))


def _beside_conditions(case: Case, channels: list[int]) -> Case:
    """The same, and conditions of so many channels, which are 1 and which the subnet does not look at."""
    spec = replace(case.spec, dims_c=tuple((n, *case.spec.S) for n in channels))
    c = tuple(torch.ones(case.B, *dims, dtype=case.x.dtype) for dims in spec.dims_c)
    return replace(case, spec=spec, c=c, subnet=replace(case.subnet, inputs=spec.subnet_in), recipe=None)


def _other_than_one(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Another W where it is I, as each channel in the place of the next: at I, W can't be told from what is beside."""
    if "w_perm" not in state or not torch.equal(state["w_perm"].flatten(1), torch.eye(len(state["w_perm"])).double()):
        return {}
    return {"w_perm": state["w_perm"].roll(1, 0), "w_perm_inv": state["w_perm_inv"].roll(1, 1)}


def _put(case: Case, **state: Tensor) -> Case:
    return replace(case, state=case.state | {name: value.clone() for name, value in state.items()}, recipe=None)


def _spec(case: Case, **flags: Any) -> Case:
    return replace(case, spec=replace(case.spec, **flags), recipe=None)


def _answering(case: Case, k: Tensor, t: Tensor) -> Case:
    return replace(case, state=case.state | {"subnet.coefficients": torch.cat([k, t])}, recipe=None)


def _log_scales(case: Case) -> Tensor:
    """Answers for which |argument of tanh| goes from 1/2 to 3/2, of either sign."""
    spec = case.spec
    k = torch.linspace(0.5, 1.5, spec.A, dtype=torch.float64) * (-1.0) ** torch.arange(spec.A)
    k = k if spec.dialect is Dialect.DOCUMENTED else 10 * k
    k = k * spec.affine_clamping if spec.dialect is Dialect.FREIA_MAIN else k
    return k.float().double()


def _active(seen: Seen) -> Tensor:
    """True where an active channel scales itself, of (C, C)."""
    spec = seen.run.spec
    at = torch.arange(spec.C)
    active = at < spec.A if spec.dialect is Dialect.DOCUMENTED else at >= spec.P
    return torch.diag(active)


def _follows(mixed: Seen, flat: Seen) -> bool:
    """Whether W x is W applied to what x is at W = I, in reverse what W⁻¹ x is there, to within both bounds."""
    one, W = mixed.run.want, mixed.run.want.W.value

    def turned(rows: Tensor, W: Tensor) -> Tensor:
        return W @ rows if one.rev else rows @ W.T

    bound = mixed.units.bound + turned(flat.units.bound, abs(W))
    return bool((abs(mixed.units.got - turned(flat.units.got, W)) <= bound).all())


def _logdet_holds(seen: Seen) -> bool:
    run = seen.run
    try:
        run.near(run.want.logdet, run.answer.logdet, "logdet", scale=scale_of(run))
    except LawBroken:
        return False
    return True
