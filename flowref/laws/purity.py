"""A pass is a function: it changes nothing that it was given, holds or shares, and leaves nothing behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from flowref.laws.logdet import scale_of
from flowref.laws.registry import law
from flowref.laws.run import Answer, Run
from flowref.laws.state import changed

# Subnets whose answer is theirs alone: what becomes of other answers is the matter of one law.
OWN = {"subnet": ("linear", "network", "convolutional", "constant")}
SMALL = {**OWN, "C": (2, 3, 4, 5), "B": (1, 2, 3), "max_CN": 24, "g": 1.0, "reflections": (0, 1)}
FLOAT32 = ("float32",)
MODES: tuple[Callable[[], AbstractContextManager[Any]], ...] = (nullcontext, torch.no_grad)  # training, inference


def _whole(v: Tensor) -> Tensor:
    """All numbers of the storage in which v lies, (n,): the storage itself, no copy."""
    v = v.detach()
    return v.as_strided((v.untyped_storage().nbytes() // v.element_size(),), (1,), 0)


def _kept(answer: Answer) -> dict[str, Tensor]:
    """Copies of output and log-det."""
    return {"output": answer.y.detach().clone(), "log-det": answer.logdet.detach().clone()}


def _same(run: Run, want: dict[str, Tensor], got: Answer, when: str) -> None:
    run.same(want["output"], got.y, f"the output {when}")
    run.same(want["log-det"], got.logdet, f"the log-det {when}")


def _other(run: Run) -> tuple[Tensor, Sequence[Tensor]]:
    """Another input: twice as many samples, other numbers."""
    x, c = run.case.inputs(run.dtype, run.device)
    return torch.cat([x + 1, x - 1]), [torch.cat([v + 1, v - 1]) for v in c]


def _when_asked(run: Run, do: Callable[[], Any]) -> None:
    """From now on, each call of the subnet does this first; calls made meanwhile don't."""
    answer = run.probe.answer
    inside: list[bool] = []

    def noted(x: Tensor) -> Tensor:
        if not inside:
            inside.append(True)
            do()
            inside.clear()
        return answer(x)

    run.probe.answer = noted


@law(
    "x, c after f(x; c) = x, c before",
    broken_by=(
        "active-half-updated-in-place",
        "conditions-cleared-after-use",
        "input-of-one-channel-is-overwritten",
    ),
    regimes=("conditions-1", "rank-0", "rank-2", "layout-strided", "layout-expanded"),
    fix={**SMALL, "layout": ("contiguous", "channels-last", "strided", "transposed", "expanded", "offset")},
    precisions=FLOAT32,
    rows=24,
    edges=("channels-1",),
)
def inputs_keep_their_bits(run: Run) -> None:
    """A pass changes neither its input nor its conditions, nor what lies around them.

    Bound: none; every number of the storages in which they lie keeps its bits.
    Sees: an operation in place on the input or a view of it, a write past its elements.
    Blind to: what backward does (`backward-changes-nothing`).
    Spec: 6. Since: 0.2.
    """
    x, c = run.case.inputs(run.dtype, run.device)
    held = {"x": x, **{f"c[{k}]": v for k, v in enumerate(c)}}
    before = {name: _whole(v).clone() for name, v in held.items()}
    run.go(x, c)
    for name, v in held.items():
        run.same(before[name], _whole(v), f"{name} after the pass")


@law(
    "the lists of x and c after a pass = before",
    broken_by="conditions-taken-out-of-their-list",
    regimes=("conditions-0", "conditions-1", "conditions-2"),
    fix={**SMALL, "conditions": ((), (2,), (1, 2))},
    precisions=FLOAT32,
    needs=("state",),
    rows=6,
)
def lists_keep_their_tensors(run: Run) -> None:
    """A pass leaves the lists in which it is given its input and conditions as they are.

    Bound: none; the same tensors in the same places.
    Sees: a list that is emptied, filled up or written to.
    Blind to: what becomes of the tensors in them (`inputs-keep-their-bits`).
    Spec: 6. Since: 0.2.
    """
    x, c = run.inputs
    for name, given in (("x", [x]), ("c", list(c))):
        held = list(given)
        xs, cs = (held, list(c)) if name == "x" else ([x], held)
        run.ask("the pass", partial(run.target.call, run.block, xs, cs, run.rev))
        kept = len(held) == len(given) and all(one is other for one, other in zip(held, given, strict=True))
        run.equal("as it was given", "as it was given" if kept else f"changed, of {len(held)} tensors",
                  f"the list {name} of {len(given)} tensors after the pass")  # fmt: skip


@law(
    "gy, gj, x, c, a, y, logdet after backward = before",
    broken_by=("incoming-gradient-cleared", "input-takes-its-gradient"),
    regimes=("rank-0", "conditions-1", "gin", "soft"),
    fix=SMALL,
    precisions=FLOAT32,
    needs=("gradient",),
    rows=12,
)
def backward_changes_nothing(run: Run) -> None:
    """Backward changes neither the incoming gradients nor what the pass was given and gave.

    Bound: none; all of them keep their bits.
    Sees: a gradient written into the memory of another tensor, whose version counter need not move.
    Blind to: whether the gradients are right.
    Spec: 6. Since: 0.2.
    """
    x, c = run.case.inputs(run.dtype, run.device)
    got = run.go(x.requires_grad_(), [v.requires_grad_() for v in c])
    outputs = [v for v in (got.y, got.logdet) if v.requires_grad]
    incoming = [g.to(run.device, run.dtype) for g in (run.case.gy, run.case.gj)][: len(outputs)]
    given = {"x": x, "the output": got.y, "the log-det": got.logdet}
    given |= {f"c[{k}]": v for k, v in enumerate(c)} | {f"the answer of call {k}": v for k, v in enumerate(got.answers)}
    given |= dict(zip(("the incoming gradient of the output", "that of the log-det"), incoming, strict=False))
    before = {name: v.detach().clone() for name, v in given.items()}
    run.ask("backward", lambda: torch.autograd.backward(outputs, incoming))
    for name, v in given.items():
        run.same(before[name], v, f"{name} after backward")


@law(
    "a after the pass = a as the subnet gave it",
    broken_by=("answer-overwritten-through-data", "expanded-answer-refused", "subnet-input-cleared"),
    regimes=("subnet-linear", "subnet-parameter", "subnet-buffer", "subnet-view", "subnet-frozen", "rank-0", "rank-1"),
    fix={"C": 3, "B": (1, 2), "S": ((), (1,), (2,), (1, 1)), "conditions": (), "g": 1.0,
         "subnet": ("linear", "parameter", "buffer", "view", "frozen")},
    precisions=FLOAT32,
    rows=40,
)  # fmt: skip
def answer_keeps_its_bits(run: Run) -> None:
    """The subnet's answer is left as it came, be it a parameter, a buffer, expanded, a view of its input or frozen.

    Bound: none; the answer keeps its bits until the pass is over, in two passes without gradients.
    Sees: an answer that is scaled or clamped in place, which reaches the subnet's state, its input or a hook's copy;
        an answer that is refused for how it lies in memory.
    Blind to: backward through such an answer (`gradient.runs-through-a-kept-answer`).
    Spec: 6. Since: 0.2.
    """
    block, made = run.block, []
    answer = run.probe.answer

    def noted(x: Tensor) -> Tensor:
        a = answer(x)
        made.append(a.clone())
        return a

    run.probe.answer = noted
    with torch.no_grad():
        for turn in ("first", "second"):
            got = run.go(block=block)
            for want, a in zip(made[-len(got.answers) :], got.answers, strict=True):
                run.same(want, a, f"the subnet's answer after the {turn} pass")
    for later in made[1:]:
        run.same(made[0], later, "the subnet's answer to the same input")


@law(
    "state after f = state before",
    broken_by=("reflections-normalised-in-place", "passes-counted-in-the-state"),
    regimes=("rank-0", "rank-2", "reflections-1", "gin", "soft"),
    fix=SMALL,
    precisions=FLOAT32,
    needs=("state",),
    edges=("reflections-hard",),
    rows=16,
)
def state_keeps_its_bits(run: Run) -> None:
    """A pass leaves the block's state as it is: names and bits.

    Bound: none.
    Sees: statistics that a pass updates, a parameter that is normalised on the way, an entry that a pass adds.
    Blind to: what is kept outside the state dict (`called-again-gives-the-same-bits` sees its effects).
    Spec: 6. Since: 0.2.
    """
    block = run.block
    entries = lambda: run.ask("state_dict", block.state_dict)  # noqa: E731
    before = {name: v.clone() for name, v in entries().items()}
    for mode in MODES:
        with mode():
            run.go()
    after = entries()
    run.equal(sorted(before), sorted(after), "the names of the state after two passes")
    for name, want in before.items():
        run.same(want, after[name], f"{name} after two passes")


# TF32's setting by the name that torch gives it: from 2.9 on the former, after which to ask for the latter may raise.
_TF32 = "fp32_precision" if hasattr(torch.backends.cuda.matmul, "fp32_precision") else "allow_tf32"

# What is global: how to read it, how to put it back.
GLOBAL: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    # Not by get_default_device, which in torch 2.6 raises once the default was set to None.
    "default device": (lambda: torch.empty(0).device, torch.set_default_device),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic algorithms": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "deterministic cuDNN": (
        lambda: torch.backends.cudnn.deterministic,
        lambda value: setattr(torch.backends.cudnn, "deterministic", value),
    ),
    "TF32 in matrix products": (
        lambda: getattr(torch.backends.cuda.matmul, _TF32),
        lambda value: setattr(torch.backends.cuda.matmul, _TF32, value),
    ),
    "TF32 in convolutions": (
        lambda: torch.backends.cudnn.allow_tf32,
        lambda value: setattr(torch.backends.cudnn, "allow_tf32", value),
    ),
    "precision of matrix products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "thread count": (torch.get_num_threads, torch.set_num_threads),
    "autocast": (lambda: torch.is_autocast_enabled("cpu"), lambda value: torch.set_autocast_enabled("cpu", value)),
    "current device": (
        lambda: torch.cuda.current_device() if torch.cuda.is_initialized() else None,
        lambda value: torch.cuda.set_device(value) if value is not None else None,
    ),
    "current stream": (
        lambda: torch.cuda.current_stream() if torch.cuda.is_initialized() else None,
        lambda value: torch.cuda.set_stream(value) if value is not None else None,
    ),
}


@law(
    "default dtype and device, grad mode, determinism, TF32, threads, current device and stream: as before",
    broken_by=("grad-mode-switched-on", "default-dtype-moved", "threads-set", "tf32-switched-on"),
    regimes=("rank-0", "rank-2", "reflections-1"),
    fix=SMALL,
    precisions=FLOAT32,
    rows=8,
)
def settings_stay(run: Run) -> None:
    """A pass changes no setting of the process, with gradients or without.

    Bound: none.
    Sees: a default, a mode or a flag that is set for the pass and not put back.
    Blind to: random generators (`random.pass-draws-nothing`); what is put back before the pass returns.
    Spec: 6. Since: 0.2.
    """
    block = run.block
    for mode in MODES:
        with mode():
            before = {name: read() for name, (read, _) in GLOBAL.items()}
            try:
                run.go(block=block)
                run.equal(before, {name: read() for name, (read, _) in GLOBAL.items()}, "the settings after the pass")
            finally:
                for name, (read, put) in GLOBAL.items():
                    if read() != before[name]:
                        put(before[name])


@law(
    "f(x) again, after f(x)'s outputs were overwritten = f(x); f(x)'s outputs after f(x') = f(x)",
    broken_by=("zero-log-det-is-kept", "output-is-a-kept-buffer"),
    regimes=("rank-0", "rank-2", "gin", "conditions-1"),
    fix=SMALL,
    precisions=FLOAT32,
    rows=16,
    edges=("channels-1",),
)
def outputs_are_the_callers(run: Run) -> None:
    """Outputs belong to the caller: later passes leave them alone, and to overwrite them changes no later pass.

    Bound: none; bits.
    Sees: an output or log-det that is an alias of what the block holds: a buffer, a cached result, a parameter.
    Blind to: an output that shares memory with the input alone.
    Spec: 6. Since: 0.2.
    """
    for mode in MODES:
        with mode():
            first = run.go(*run.case.inputs(run.dtype, run.device))
            want = _kept(first)
            x, c = run.case.inputs(run.dtype, run.device)
            run.go(x + 1, c)
            _same(run, want, first, "after a later pass")
            for v in (first.y, first.logdet):
                _whole(v).fill_(torch.nan)
            _same(run, want, run.go(x, c), "of a pass after that output was overwritten")


class _Saved:
    """What the graph keeps of a tensor: the object's life is that of its node."""

    def __init__(self, value: Tensor) -> None:
        self.value = value.detach()


def _passed(
    run: Run, mode: Callable[[], AbstractContextManager[Any]]
) -> tuple[dict[str, StorageWeakRef], list[weakref.ref[_Saved]]]:
    """Weak references to the memory of all that one pass was given and gave, and to what its graph saved."""
    graph: list[weakref.ref[_Saved]] = []

    def pack(value: Tensor) -> _Saved:
        saved = _Saved(value)
        graph.append(weakref.ref(saved))
        return saved

    block, (x, c) = run.block, run.case.inputs(run.dtype, run.device)
    x, c = x.requires_grad_(), tuple(v.requires_grad_() for v in c)
    with mode(), saved_tensors_hooks(pack, lambda saved: saved.value):
        got = run.go(x, c, block=block)
    lasting = {"x": x, "the output": got.y, "the log-det": got.logdet}
    lasting |= {f"c[{k}]": v for k, v in enumerate(c)} | {
        f"the answer of call {k}": v for k, v in enumerate(got.answers)
    }
    return {name: StorageWeakRef(v.untyped_storage()) for name, v in lasting.items()}, graph


def _alive(memory: dict[str, StorageWeakRef], graph: list[weakref.ref[_Saved]]) -> list[str]:
    found = [name for name, one in memory.items() if not one.expired()]
    return found + ["the graph"] * any(one() is not None for one in graph)


@law(
    "of x, c, a, y, logdet and the graph nothing is alive once the caller has dropped them",
    broken_by=("last-input-kept", "log-dets-added-up", "w-kept-with-its-graph"),
    regimes=("rank-0", "gin", "soft", "reflections-1", "conditions-1"),
    fix=SMALL,
    precisions=FLOAT32,
    edges=("reflections-hard",),
    rows=12,
    needs=("gradient",),
)
def nothing_stays_alive(run: Run) -> None:
    """Between passes a block keeps no graph, input, answer or output alive.

    Bound: none.
    Sees: a tensor of the pass, or one with its graph, that is left on the block or in a global.
    Blind to: copies of numbers.
    Spec: 6. Since: 0.2.
    """
    for mode, named in zip(MODES, ("with gradients", "without gradients"), strict=True):
        memory, graph = _passed(run, mode)
        run.probe.clear()
        if _alive(memory, graph):
            gc.collect()
        run.equal([], _alive(memory, graph), f"what is alive after a pass {named}")


@law(
    "f(x) = f(x), at once and after passes of the other direction, other inputs, other sizes",
    broken_by=("first-reverse-divides", "largest-batch-decides"),
    regimes=("rank-0", "rank-2", "gin", "soft", "reflections-1", "conditions-1"),
    fix={**OWN, "B": (1, 2, 3), "max_CN": 64},
    edges=("reflections-hard", "channels-1"),
    rows=24,
)
def called_again_gives_the_same_bits(run: Run) -> None:
    """A pass depends on state and input alone: called again, it gives the same bits, whatever ran in between.

    Bound: none; bits.
    Sees: a first call unlike later ones, a plan or a cache that an earlier pass has left, a race.
    Blind to: a cache that ignores a change of state (`state.changes-are-seen`).
    Spec: 6. Since: 0.2.
    """
    want = _kept(run.go())
    _same(run, want, run.go(), "of a second call")
    x, c = _other(run)
    with torch.no_grad():
        for rev in (not run.rev, run.rev):
            run.go(x, c, rev=rev)
    run.go(rev=not run.rev)
    _same(run, want, run.go(), "after other passes")


@law(
    "f(x) = f(x) where the subnet calls f⁻¹(x') in between",
    broken_by="active-half-handed-over-on-the-block",
    regimes=("rank-0", "gin", "soft", "reflections-1", "conditions-1"),
    fix=SMALL,
    precisions=FLOAT32,
    rows=12,
)
def a_pass_inside_a_pass_is_harmless(run: Run) -> None:
    """A subnet that runs the block itself, in both directions on other inputs, changes nothing of the pass around it.

    Bound: none; bits.
    Sees: intermediate values that are handed from one step to the next on the block itself, a shared workspace.
    Blind to: gradients (`a-pass-inside-a-pass-takes-no-gradient`).
    Spec: 6. Since: 0.2.
    """
    want = _kept(run.go())
    x, c = _other(run)
    _when_asked(run, lambda: [run.target.run(run.block, x, c, rev) for rev in (False, True)])
    _same(run, want, run.go(), "around other passes")


@law(
    "∂f(x) = ∂f(x) where the subnet calls f(x') without gradients in between",
    broken_by="w-handed-over-on-the-block",
    regimes=("rank-0", "gin", "soft", "reflections-1"),
    fix={**SMALL, "soft": True, "reflections": (1, 2, 3)},
    precisions=FLOAT32,
    needs=("gradient", "state"),
    rows=8,
)
def a_pass_inside_a_pass_takes_no_gradient(run: Run) -> None:
    """A pass without gradients inside one with gradients takes none of them away.

    Bound: twice that of the gradient, for what the same block gives without the inner pass.
    Sees: a matrix or scale that the inner pass replaces on the block by one without a graph.
    Blind to: gradients that are wrong in both.
    Spec: 6. Since: 0.2.
    """
    want, bounds = run.gradients("both"), run.wanted.gradients(run.rev, "both")
    x, c = _other(run)

    def inner() -> None:
        with torch.no_grad():
            run.target.run(run.block, x, c, run.rev)

    _when_asked(run, inner)
    got = run.gradients("both")
    run.equal({n for n, g in want.items() if g is not None}, {n for n, g in got.items() if g is not None},
              "the names that get a gradient around a pass without")  # fmt: skip
    for name, bound in bounds.items():
        one = want.get(name)
        if one is not None:
            scale = float(abs(bound.value).max()) if bound.value.numel() else 1.0
            run.within(one.detach().double().cpu(), got[name], 2 * run.bound(bound), f"the gradient by {name}", scale)


@law(
    "f_A(x) = f_A(x) after a block B of other state was built and run",
    broken_by=("w-kept-on-the-class", "workspace-of-all-blocks"),
    regimes=("rank-0", "gin", "soft", "reflections-1"),
    fix=SMALL,
    precisions=FLOAT32,
    rows=12,
)
def instances_do_not_know_of_each_other(run: Run) -> None:
    """Two blocks of the same sizes and other states do not influence each other.

    Bound: none; bits, of the first block's outputs and of another pass of it.
    Sees: state or workspace that is kept on the class or in the module.
    Blind to: what the first block ever built leaves for all others: they are wrong, as other laws see.
    Spec: 6. Since: 0.2.
    """
    for mode in MODES:
        with mode():
            first = run.go()
            want = _kept(first)
            other = run.on(changed(run.case))
            other.go()
            other.go(rev=not run.rev)
            _same(run, want, first, "after another block has run")
            _same(run, want, run.go(), "of a pass after another block has run")


@law(
    "f(x) in each mode = f(x) in that mode, however train() and eval() alternate",
    broken_by="train-averages-for-eval",
    regimes=("rank-0", "gin", "soft", "reflections-1"),
    fix=SMALL,
    precisions=FLOAT32,
    needs=("state",),
    rows=12,
)
def modes_alternate(run: Run) -> None:
    """train() and eval() alternate freely: the bits of a mode stay those of that mode.

    Bound: none; bits.
    Sees: statistics of training that evaluation uses, state that a change of mode touches.
    Blind to: a map that differs between the modes (`eval-computes-the-map`).
    Spec: 6. Since: 0.2.
    """
    want: dict[bool, dict[str, Tensor]] = {}
    for training in (False, True, False, True, False):
        run.ask("train()", partial(run.block.train, training))
        got = run.go()
        _same(run, want.setdefault(training, _kept(got)), got, f"in {'training' if training else 'eval'} mode, again")


@law(
    "f in eval mode = the map of section 2",
    broken_by="eval-forgets-the-offset",
    regimes=("rank-0", "gin", "soft", "reflections-1", "conditions-1"),
    fix=SMALL,
    precisions=FLOAT32,
    needs=("state",),
    rows=12,
)
def eval_computes_the_map(run: Run) -> None:
    """eval() computes the same map: a block has no mode.

    Bound: the reference's, of output and log-det.
    Sees: a step that only one mode makes.
    Blind to: what is wrong in training mode too.
    Spec: 2, 6. Since: 0.2.
    """
    run.ask("eval()", run.block.eval)
    got = run.go()
    run.near(run.want.out, got.y, "the output in eval mode")
    run.near(run.want.logdet, got.logdet, "the log-det in eval mode", scale=scale_of(run))
