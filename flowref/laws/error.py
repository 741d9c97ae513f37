"""What is illegal is refused by the block itself, and the refusal says what it is about.

A table a kind of illegal thing: constructor's arguments, inputs, conditions, answers of the subnet, loaded states.
*Refused*: an allowed type, raised before the subnet was called (for its answer: after the one call), and not from
inside one of torch's own functions. *Named*: the message holds the argument's name, or, in a pass, what was expected
and what came, as numbers. An illegal thing that isn't refused has no name to be asked for: where nothing is refused,
the laws about names are not judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.overrides import TorchFunctionMode

from flowref.laws.logdet import scale_of
from flowref.laws.registry import ONCE, law
from flowref.laws.run import Run, seed_everything
from flowref.spec import AFFINE_TYPES, BlockSpec, Dialect
from flowref.targets.module import OMITTED

SMALL = {"B": (2, 3), "C": (4, 5, 2), "S": ((), (3,), (2, 3), (2, 1, 2)), "g": 1.0, "subnet": "linear",
         "conditions": ((), (2,), (1, 2), (1, 3, 2))}  # fmt: skip
RANKS = ("rank-0", "rank-2")
CONDITIONS = ("conditions-0", "conditions-1", "conditions-2", "conditions-3")
BY_CONSTRUCTOR = (ValueError, TypeError)
BY_PASS = (ValueError, TypeError, RuntimeError)


class _Torch(TorchFunctionMode):
    """Notes what torch's own functions raise. Operators that a target registered are its own code."""

    def __init__(self) -> None:
        super().__init__()
        self.raised: list[BaseException] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except BaseException as error:
            registered = isinstance(func, (OpOverload, OpOverloadPacket)) and not str(func).startswith("aten.")
            if not registered:
                self.raised.append(error)
            raise


@dataclass(frozen=True)
class Illegal:
    """One illegal thing: how it reads, what is given; one of ``names``, or all of ``numbers``, is in a good message."""

    shown: str
    given: Any
    names: tuple[str, ...]
    numbers: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Met:
    """How the block met an illegal thing."""

    what: Illegal
    error: Exception | None
    in_torch: bool
    calls: int

    def excuse(self, allowed: tuple[type[Exception], ...], calls: int) -> str:
        """Why this is no refusal; empty where it is one."""
        if self.error is None:
            return "is accepted"
        said = f"{type(self.error).__name__}: {str(self.error).splitlines()[0] if str(self.error) else ''}"[:80]
        if self.calls != calls:
            return f"is noticed after {self.calls} calls of the subnet ({said})"
        if self.in_torch:
            return f"fails inside one of torch's functions ({said})"
        return "" if isinstance(self.error, allowed) else f"raises {said}"

    @property
    def named(self) -> bool:
        """Whether the message says what it is about."""
        message = str(self.error)
        letter = lambda word: re.search(rf"(?<![A-Za-z0-9_]){word}(?![A-Za-z0-9_])", message)  # noqa: E731
        holds = lambda word: letter(word) if len(word) == 1 else word in message  # noqa: E731
        number = lambda n: re.search(rf"(?<!\d){n}(?!\d)", message)  # noqa: E731
        return any(map(holds, self.what.names)) or (bool(self.what.numbers) and all(map(number, self.what.numbers)))


def _tried(run: Run, what: str, call: Callable[[], Any]) -> tuple[Exception | None, bool]:
    """What the call raised, and whether one of torch's own functions had raised it."""
    watch = _Torch()

    def noted() -> Exception | None:
        try:
            with watch:
                call()
        except Exception as error:
            return error
        return None

    error = run.ask(what, noted)
    return error, any(error is one for one in watch.raised)


def _all_refused(run: Run, met: Iterator[Met], allowed: tuple[type[Exception], ...], calls: int = 0) -> None:
    wrong = [f"{one.what.shown} {why}" for one in met if (why := one.excuse(allowed, calls))]
    run.equal("none", "; ".join(wrong) or "none", f"illegal but not refused ({len(wrong)})")


def _all_named(run: Run, met: Iterator[Met], allowed: tuple[type[Exception], ...], calls: int = 0) -> None:
    refused = [one for one in met if not one.excuse(allowed, calls)]
    if not refused:
        run.meter.moot = "nothing illegal is refused here, so there is no message to look at"
        return
    wrong = [f"{one.what.shown} is answered by {str(one.error)[:80]!r}" for one in refused if not one.named]
    run.equal("none", "; ".join(wrong) or "none", f"refused without a name ({len(wrong)})")


# The constructor's arguments.


def illegal_arguments(spec: BlockSpec, limits: torch.finfo) -> Iterator[Illegal]:
    """What the constructor must refuse; ``limits`` of the dtype in which the block makes its parameters."""
    S = spec.S
    fits, longer = (2, *S), (2, *S, 5)
    wider = (2, *S[:-1], S[-1] + 1) if S else (2, 5)
    table: dict[str, Sequence[Any]] = {
        "dims_in": ([], [spec.dims, spec.dims], [(4.5, *S)], [("4", *S)], (4,), [(2, 1, 1, 1, 1)], [(0, *S)],
                    [(-1, *S)], [(4, *S[:-1], 0)], [(4, 0, *S[1:])]),
        "dims_c": ([longer], [wider], [fits, wider], [fits, fits, wider], [()], [fits, ()], [(1.5, *S)]),
        "subnet_constructor": (OMITTED, None, "Linear", 3),
        "global_affine_type": ("RELU", ""),
        "affine_clamping": (-2.0, torch.nan, torch.inf, "2", None)
        + (0.0,) * (spec.dialect is Dialect.FREIA_MAIN),
        "learned_householder_permutation": (-1, 2.5, "2"),
    }  # fmt: skip
    for name, values in table.items():
        for value in values:
            shown = "no " + name if value is OMITTED else f"{name}={value!r}"
            yield Illegal(shown, {name: value}, (name,))
    ends = [limits.tiny / 8] + [4.0 * limits.max] * (limits.bits == 32)  # Ψ(s) is no normal number there
    for kind in AFFINE_TYPES:
        for g in (0.0, -1.0, torch.nan, torch.inf, *ends, *((10.0, 12.0) if kind == "SIGMOID" else ())):
            given = {"global_affine_type": kind, "global_affine_init": g}
            yield Illegal(f"global_affine_init={g!r} with {kind}", given, ("global_affine_init",))


def _no_subnet(inputs: int, outputs: int) -> nn.Module:
    """A subnet for blocks that are never run."""
    return nn.Identity()


def _arguments(run: Run) -> Iterator[Met]:
    seed_everything(1)
    construct = lambda **changed: run.target.construct(run.spec, _no_subnet, **changed)  # noqa: E731
    made = run.ask("the constructor", construct)
    limits = torch.finfo(made.global_scale.dtype)
    for one in illegal_arguments(run.spec, limits):
        yield Met(one, *_tried(run, one.shown, partial(construct, **one.given)), 0)


ARGUMENTS: dict[str, Any] = {
    "directions": ONCE, "precisions": ("float32",), "needs": ("state",), "fix": SMALL, "rows": 16, "regimes": RANKS
}  # fmt: skip


@law("an illegal argument: ValueError or TypeError, by the constructor itself", **ARGUMENTS,
     broken_by=("second-input-shape-ignored", "only-the-first-condition-shape-checked",
                "clamp-of-either-sign"))  # fmt: skip
def refused_arguments(run: Run) -> None:
    """Illegal arguments are refused by the constructor.

    Bound: none; each entry of the table is refused or not, and all that are not are listed.
    Sees: a check that is missing, looks at the first of several only, or is left to torch.
    Blind to: what the message says.
    Spec: 4, 6. Since: 0.2.
    """
    _all_refused(run, _arguments(run), BY_CONSTRUCTOR)


@law("the message about an illegal argument holds its name", **ARGUMENTS,
     broken_by=("arguments-refused-without-a-name", "scale-refused-as-a-number"))  # fmt: skip
def named_arguments(run: Run) -> None:
    """Refusals of the constructor name the argument.

    Bound: none.
    Sees: "invalid argument", or Python's own words about what the code did with the value.
    Blind to: arguments that are not refused.
    Spec: 6. Since: 0.2.
    """
    _all_named(run, _arguments(run), BY_CONSTRUCTOR)


# A pass: inputs, conditions, answers.

PASS: dict[str, Any] = {"precisions": ("float32",), "needs": ("state",), "fix": SMALL, "rows": 16}


DTYPES = (torch.float32, torch.float64, torch.float16, torch.int64)


def _bits(dtype: torch.dtype) -> str:
    return str(8 * dtype.itemsize)


def _elsewhere(x: Tensor) -> str:
    """A device on which x is not: what a machine with one device has of another is meta."""
    return "meta" if x.device.type == "cpu" else "cpu"


def illegal_inputs(x: Tensor, dims: tuple[int, ...]) -> Iterator[Illegal]:
    """What a pass must refuse as its input, given a legal x (B, C, *S)."""
    C, rank, there = dims[0], len(dims) - 1, _elsewhere(x)
    table: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("x a bare tensor", x, ()),
        ("x a bare tensor with an axis before the batch", x[None], ()),
        ("x without a tensor", [], (1, 0)),
        ("x of two tensors", [x, x], (1, 2)),
        ("x of C + 1 channels", [torch.cat([x, x[:, :1]], 1)], (C, C + 1)),
        ("x of C − 1 channels", [x[:, 1:]], (C, C - 1)),
        ("x with an axis more", [x[..., None]], (C, 1)),
        ("x without its batch axis", [x[0]], dims),
        *((f"x of {d}", [x.to(d)], (_bits(x.dtype), _bits(d))) for d in DTYPES if d != x.dtype),
        (f"x on {there}", [x.to(there)], (x.device.type, there)),
    ]
    if rank:
        table += [
            ("x with a pixel more", [torch.cat([x, x[..., :1]], -1)], (dims[-1], dims[-1] + 1)),
            ("x with an axis less", [x[..., 0]], dims),
        ]
    return (Illegal(shown, given, ("x",), numbers) for shown, given, numbers in table)


def illegal_conditions(x: Tensor, c: Sequence[Tensor]) -> Iterator[Illegal]:
    """What a pass must refuse as its conditions, given legal ones (B, C_k, *S)."""
    n, B, there = len(c), len(x), _elsewhere(x)
    table: list[tuple[str, Any, tuple[Any, ...]]] = [("one condition more", [*c, x[:, :1]], (n, n + 1))]
    if n:
        table += [("no conditions (None)", None, (n, 0)), ("no conditions ([])", [], (n, 0))]
        table += [("one condition less", list(c[:-1]), (n, n - 1))] * (n > 1)
    for k, v in enumerate(c):
        width = v.shape[1]
        changed: list[tuple[str, Tensor, tuple[Any, ...]]] = [
            ("with a channel more", torch.cat([v, v[:, :1]], 1), (width, width + 1)),
            ("of a single sample", v[:1], (B, 1)),
            ("with a sample more", torch.cat([v, v[:1]], 0), (B, B + 1)),
            ("with an axis more", v[..., None], (width, 1)),
            (f"on {there}", v.to(there), (x.device.type, there)),
        ]
        if v.ndim > 2:
            longer = torch.cat([v, v[..., :1]], -1)
            changed += [("with a pixel more", longer, (v.shape[-1], v.shape[-1] + 1)),
                        ("with an axis less", v[..., 0], tuple(v.shape[1:]))]  # fmt: skip
        table += [(f"c[{k}] {what}", [*c[:k], bad, *c[k + 1 :]], numbers) for what, bad, numbers in changed]
    if n:
        whole, first = torch.cat(list(c), 1), c[0].shape[1]
        if n > 1:  # the sum of channels fits in all of these
            table += [("all conditions in one", [whole], (n, 1))]
            cut = [whole[:, : first + 1], whole[:, first + 1 :]] if n == 2 else [c[1], c[0], *c[2:]]
            table += [("conditions cut or ordered otherwise", cut, (first, cut[0].shape[1]))]
        elif first > 1:
            table += [("the condition cut in two", [whole[:, :1], whole[:, 1:]], (1, 2))]
    return (Illegal(shown, given, ("c", "condition", "conditions"), numbers) for shown, given, numbers in table)


def illegal_answers(a: Tensor) -> Iterator[Illegal]:
    """What a pass must refuse as its subnet's answer: each a function of the legal one, like a (B, 2A, *S)."""
    B, width = a.shape[:2]
    A = width // 2
    table: list[tuple[str, Callable[[Tensor], Tensor], tuple[Any, ...]]] = [
        ("an answer of one channel", lambda a: a[:, :1], (width, 1)),
        ("an answer of 4A channels", lambda a: torch.cat([a, a], 1), (width, 2 * width)),
        ("an answer for a single sample", lambda a: a[:1], (B, 1)),
        ("an answer with an axis more", lambda a: a[..., None], (width, 1)),
    ]
    if A > 1:
        table += [("an answer of A + 1 channels", lambda a: a[:, : A + 1], (width, A + 1))]
    if a.ndim > 2:
        axes = tuple(range(2, a.ndim))
        table += [
            ("a pooled answer", lambda a: a.mean(axes, keepdim=True), (*a.shape[2:], 1)),
            ("a flattened answer", lambda a: a.flatten(1), (width, a[0].numel())),
        ]
    return (Illegal(shown, change, ("subnet", "answer"), numbers) for shown, change, numbers in table)


def _passed(run: Run, one: Illegal, x: Any, c: Any) -> Met:
    run.probe.clear()
    error, in_torch = _tried(run, one.shown, lambda: run.target.call(run.block, x, c, run.rev))
    return Met(one, error, in_torch, len(run.probe.seen))


def _inputs(run: Run) -> Iterator[Met]:
    run.ask("the block", lambda: run.block)
    x, c = run.inputs
    return (_passed(run, one, one.given, list(c)) for one in illegal_inputs(x, run.spec.dims))


def _conditions(run: Run) -> Iterator[Met]:
    run.ask("the block", lambda: run.block)
    x, c = run.inputs
    return (_passed(run, one, [x], one.given) for one in illegal_conditions(x, c))


def _answers(run: Run) -> Iterator[Met]:
    right = run.answer.answers[0].detach()
    x, c = run.inputs
    for one in illegal_answers(right):
        run.probe.answer = lambda given, one=one: one.given(type(run.probe).answer(run.probe, given))
        yield _passed(run, one, [x], list(c))


@law("an illegal input: ValueError, TypeError or RuntimeError, before the subnet is called", **PASS, regimes=RANKS,
     broken_by=("bare-tensor-taken-for-a-list", "second-input-ignored", "pixels-of-the-input-unchecked",
                "checks-left-to-torch"))  # fmt: skip
def refused_inputs(run: Run) -> None:
    """Illegal inputs are refused by the pass itself, before the subnet is called.

    Bound: none; each entry of the table is refused or not, and all that are not are listed.
    Sees: a bare tensor taken for a list, a shape, dtype or device that is not looked at, or that torch stumbles on.
    Blind to: conditions, answers, and what the message says.
    Spec: 6. Since: 0.2.
    """
    _all_refused(run, _inputs(run), BY_PASS)


@law("the message about an illegal input names x, or what was expected and what came", **PASS, regimes=RANKS,
     broken_by="inputs-refused-without-a-name")  # fmt: skip
def named_inputs(run: Run) -> None:
    """Refusals of an input say what was expected and what came.

    Bound: none.
    Sees: a message without the argument and without numbers.
    Blind to: inputs that are not refused.
    Spec: 6. Since: 0.2.
    """
    _all_named(run, _inputs(run), BY_PASS)


@law("an illegal condition: ValueError, TypeError or RuntimeError, before the subnet is called", **PASS,
     regimes=(*RANKS, *CONDITIONS),
     broken_by=("conditions-of-an-unconditional-block-ignored", "only-the-sum-of-condition-channels-checked",
                "only-the-first-condition-checked", "condition-of-one-sample-broadcast"))  # fmt: skip
def refused_conditions(run: Run) -> None:
    """Illegal conditions are refused by the pass itself, each held against its own entry of dims_c.

    Bound: none; each entry of the table is refused or not, and all that are not are listed.
    Sees: conditions that are ignored, cut or ordered otherwise, broadcast, or looked at in the first only.
    Blind to: the input, answers, and what the message says.
    Spec: 6. Since: 0.2.
    """
    _all_refused(run, _conditions(run), BY_PASS)


@law("the message about an illegal condition names it, or what was expected and what came", **PASS,
     regimes=(*RANKS, *CONDITIONS), broken_by="conditions-refused-without-a-name")  # fmt: skip
def named_conditions(run: Run) -> None:
    """Refusals of conditions say what was expected and what came.

    Bound: none.
    Sees: a message without the argument and without numbers.
    Blind to: conditions that are not refused.
    Spec: 6. Since: 0.2.
    """
    _all_named(run, _conditions(run), BY_PASS)


@law("an answer that is not (B, 2A, *S): ValueError, TypeError or RuntimeError after one call", **PASS, regimes=RANKS,
     broken_by=("answer-unchecked", "only-the-channels-of-the-answer-checked", "answer-asked-for-again"))  # fmt: skip
def refused_answers(run: Run) -> None:
    """An answer of another shape is refused by the pass itself, after the subnet's one call: nothing is broadcast.

    Bound: none; each entry of the table is refused or not, and all that are not are listed.
    Sees: a shift that is broadcast over channels, pooled answers, answers of one sample for all.
    Blind to: inputs, conditions, and what the message says.
    Spec: 6. Since: 0.2.
    """
    _all_refused(run, _answers(run), BY_PASS, calls=1)


@law("the message about a wrong answer names the subnet, or what was expected and what came", **PASS, regimes=RANKS,
     broken_by="answers-refused-without-a-name")  # fmt: skip
def named_answers(run: Run) -> None:
    """Refusals of an answer say what was expected and what came.

    Bound: none.
    Sees: a message without the subnet and without numbers.
    Blind to: answers that are not refused.
    Spec: 6. Since: 0.2.
    """
    _all_named(run, _answers(run), BY_PASS, calls=1)


# Loaded states.


def illegal_states(state: dict[str, Tensor], C: int) -> Iterator[Illegal]:
    """What loading must refuse: changes to a block's legal state, W in the form of a matrix or an index vector."""
    if "w_0" in state:
        W = state["w_0"]
        yield Illegal("w_0 of length 1.02", {"w_0": 1.02 * W}, ("w_0",))
        yield Illegal("w_0 with a row twice", {"w_0": torch.cat([W[:1], W[:-1]])}, ("w_0",))
        return
    W, back = state["w_perm"], state["w_perm_inv"]
    either = ("w_perm", "w_perm_inv")
    both = lambda M: {"w_perm": M, "w_perm_inv": M.transpose(0, 1) if M.ndim > 1 else M}  # noqa: E731
    yield Illegal("w_perm an index that repeats", both(torch.zeros(C, dtype=torch.int64)), either)
    yield Illegal("w_perm an index past the end", both(torch.arange(1, C + 1)), either)
    yield Illegal("w_perm of length 1.02", both(1.02 * W), either)
    yield Illegal("w_perm with a row twice", both(torch.cat([W[:1], W[:-1]])), either)
    off = back.clone()
    off.flatten()[0] += 2.0**-20
    yield Illegal("w_perm_inv off in one element", {"w_perm": W, "w_perm_inv": off}, either)
    yield Illegal("w_perm_inv of another permutation", {"w_perm": W, "w_perm_inv": back.roll(1, 0)}, either)


def _states(run: Run) -> Iterator[Met]:
    run.ask("the block", lambda: run.block)
    own = run.ask("state_dict", lambda: {name: v.detach().clone() for name, v in run.block.state_dict().items()})
    held = {name: v.to(run.dtype).to(run.device) for name, v in run.case.state.items()}
    for one in illegal_states(held, run.spec.C):
        given = own | {name: v.to(run.device) for name, v in one.given.items()}
        yield Met(one, *_tried(run, one.shown, partial(run.block.load_state_dict, given)), 0)


STATES: dict[str, Any] = {
    "directions": ONCE, "precisions": ("float32",), "needs": ("state",), "fix": {**SMALL, "reflections": (0, 0, 2)},
    "rows": 24, "regimes": ("soft", "reflections-even", "rank-0", "rank-2"),
}  # fmt: skip


@law("an illegal W: ValueError, TypeError or RuntimeError from load_state_dict", **STATES,
     broken_by=("loaded-index-unchecked", "loaded-w-may-be-anything", "loaded-inverse-may-be-anything",
                "loaded-w0-may-be-anything"))  # fmt: skip
def refused_states(run: Run) -> None:
    """An illegal W is refused when it is loaded.

    Bound: none; each entry of the table is refused or not, and all that are not are listed.
    Sees: an index that is no permutation, a W that is not orthogonal, an inverse that is not its transpose, taken.
    Blind to: what the message says.
    Spec: 6. Since: 0.2.
    """
    _all_refused(run, _states(run), BY_PASS)


@law("the message about an illegal W holds its name", **STATES, broken_by="states-refused-without-a-name")  # fmt: skip
def named_states(run: Run) -> None:
    """Refusals of a loaded state name what was refused.

    Bound: none.
    Sees: a message that leaves open which entry of a state it is about.
    Blind to: states that are not refused.
    Spec: 6. Since: 0.2.
    """
    _all_named(run, _states(run), BY_PASS)


# What is legal, next to what is not.


def _neighbours(run: Run) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Legal things that a check might take for illegal ones, each a call that must not raise."""
    construct = lambda **changed: lambda: run.target.construct(run.spec, _no_subnet, **changed)  # noqa: E731
    yield "whole numbers for α and g", construct(affine_clamping=3, global_affine_init=2)
    yield "SIGMOID g=9.99", construct(global_affine_type="SIGMOID", global_affine_init=9.99)
    yield "EXP g=2**-100", construct(global_affine_type="EXP", global_affine_init=2.0**-100)
    # Soft: reflections of a hard permutation are an edge, and shape's own finding.
    yield "more reflections", construct(permute_soft=True, learned_householder_permutation=run.spec.C + 2)
    block, (x, c) = run.block, run.inputs
    yield "x and conditions in lists", lambda: run.target.call(block, [x], list(c), False)
    yield "x and conditions in tuples", lambda: run.target.call(block, (x,), tuple(c), False)
    if not c:
        yield "c=None", lambda: run.target.call(block, [x], None, True)
    if run.spec.permute_soft and "w_perm" in run.case.state:
        W = run.case.state["w_perm"].bfloat16().to(run.dtype)  # an element of WᵀW − I stays below 1/64
        rounded = {"w_perm": W, "w_perm_inv": W.transpose(0, 1)}
        yield "a W rounded to bfloat16", lambda: block.load_state_dict({**block.state_dict(), **rounded})


@law("what section 6 allows is taken", directions=ONCE, precisions=("float32",), needs=("state",), fix=SMALL, rows=24,
     regimes=("soft", "conditions-0", "conditions-2", *RANKS),
     broken_by=("conditions-must-be-a-list", "rounded-w-refused", "sigmoid-refuses-large-g"))  # fmt: skip
def legal_neighbours_pass(run: Run) -> None:
    """What lies next to the illegal, on the legal side, is taken.

    Bound: none; each call returns or raises.
    Sees: a check that refuses too much: tuples, whole numbers, ends of a range, a W rounded to bfloat16.
    Blind to: what is computed then; legal things that other laws draw.
    Spec: 4, 6. Since: 0.2.
    """
    wrong = []
    for shown, call in _neighbours(run):
        error, _ = _tried(run, shown, call)
        wrong += [f"{shown}: {type(error).__name__}: {str(error)[:80]}"] * (error is not None)
    run.equal("none", "; ".join(wrong) or "none", f"legal but refused ({len(wrong)})")


@law("f(x, rev=2) = f(x, rev=True), f(x, rev=0) = f(x, rev=False)", needs=("state",), precisions=("float32",),
     fix={"B": (2, 3), "max_CN": 48, "g": (0.25, 4.0), "scale": "drawn"}, rows=16, regimes=("rank-0", "rank-2"),
     broken_by=("reverse-only-for-true", "sign-from-a-power-of-rev"))  # fmt: skip
def rev_is_read_by_its_truth_value(run: Run) -> None:
    """rev is read by its truth value.

    Bound: the error of the pass.
    Sees: comparisons with True or 1, signs that are made of rev as a number.
    Blind to: what True and False themselves do.
    Spec: 6. Since: 0.2.
    """
    for rev in (2, 0.5) if run.rev else (0, None):
        got = run.go(rev=rev)  # type: ignore[arg-type]
        run.near(run.want.out, got.y, f"the output for rev={rev}")
        run.near(run.want.logdet, got.logdet, f"the log-det for rev={rev}", scale=scale_of(run))
