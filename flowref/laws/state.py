"""What a block holds: names and shapes, what is trained, how it is copied, and that every change of it is seen."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flowref.cases import Case
from flowref.laws.logdet import scale_of
from flowref.laws.permutation import NEW, drawn_error
from flowref.laws.registry import ONCE, law
from flowref.laws.run import Answer, Run, seed_everything
from flowref.targets.module import OMITTED

OWN = {"subnet": ("linear", "network", "convolutional", "constant")}
SMALL = {**OWN, "C": (2, 3, 4, 5), "B": (1, 2, 3), "max_CN": 24, "g": 1.0, "reflections": (0, 1)}
COMMON: dict[str, Any] = {"directions": ONCE, "precisions": ("float32",), "needs": ("state",)}
Answers = list[tuple[str, Tensor, Tensor]]


def changed(case: Case) -> Case:
    """The case with every entry of the state another legal one."""
    return replace(case, state={name: _moved(name, v) for name, v in case.state.items()}, recipe=None)


def _moved(name: str, v: Tensor) -> Tensor:
    """Another value for an entry: rows of W move (its inverse's columns), so both stay orthogonal."""
    if name in ("w_perm", "w_0"):
        return v.roll(1, 0)
    if name == "w_perm_inv":
        return v.roll(1, 1)
    if name == "vk_householder":
        return v.roll(1, 1) * torch.where(torch.arange(v.shape[1]) % 2 == 1, 1.0, -0.5)
    if name == "global_scale":
        return v / 2 + 0.25
    return -v / 2 + (0.25 if name == "global_offset" else 0.0)


def _entries(run: Run, block: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = run.ask("state_dict", block.state_dict)
    return found


def _another(run: Run) -> Any:
    """A block of the same arguments, made from another seed: all that was drawn is another draw."""
    seed_everything(int(run.case.id[:8], 16) + 1)
    build = lambda: run.target.build(run.spec, run.case.subnet_constructor, run.dtype, run.device)  # noqa: E731
    return run.ask("the constructor", build)


def _answers(run: Run, block: Any) -> Answers:
    """Output and log-det of both directions, copied; in eval mode without gradients, as blocks are used."""
    found: Answers = []
    for rev in (False, True):
        with torch.set_grad_enabled(getattr(block, "training", True)):
            got: Answer = run.go(rev=rev, block=block)
        found.append(("reverse" if rev else "forward", got.y.detach().clone(), got.logdet.detach().clone()))
    return found


def _alike(run: Run, want: Answers, block: Any, when: str) -> None:
    """The block answers so in both directions, to within the errors of both; the state is that of the run's case."""
    _agree(run, want, _answers(run, block), when)


def _agree(run: Run, want: Answers, found: Answers, when: str) -> None:
    for rev, (way, y, logdet), (_, got_y, got_logdet) in zip((False, True), want, found, strict=True):
        one = run.wanted.go(rev)
        for what, w, got, bounded, size in (
            ("output", y, got_y, one.out, one.out.value),
            ("log-det", logdet, got_logdet, one.logdet, one.l_scale.value),
        ):
            scale = float(abs(size).max()) if size.numel() else 1.0
            run.within(w.double().cpu(), got, 2 * run.bound(bounded), f"the {way} {what} {when}", scale)


@law(
    "global_scale, global_offset (1, C, 1…); w_perm, w_perm_inv (C, C, 1…) or (C,) | w_0 (C, C), vk_householder (n, C)",
    broken_by=("state-has-an-entry-more", "index-vector-is-int32"),
    regimes=("rank-0", "rank-2", "rank-3", "soft", "gin", "reflections-1"),
    fix=SMALL,
    edges=("reflections-hard", "channels-1"),
    rows=24,
    **COMMON,
)
def entries_are_the_documented_ones(run: Run) -> None:
    """The state dict has the documented names and shapes, floats, and int64 where a hard permutation is an index.

    Bound: none.
    Sees: a name, a shape or an entry of its own, with which checkpoints don't load both ways.
    Blind to: the values.
    Spec: 5. Since: 0.2.
    """
    form = lambda v: (tuple(v.shape), "float" if v.is_floating_point() else str(v.dtype))  # noqa: E731
    got = {name: form(v) for name, v in sorted(_entries(run, run.build(load=False)).items())}
    want = {name: form(v) for name, v in sorted(run.case.state.items())}
    index = ((run.spec.C,), "torch.int64")
    hard = [] if run.spec.permute_soft else ["w_perm", "w_perm_inv"]
    want |= {name: index for name in hard if name in want and got.get(name) == index}
    run.equal(want, got, "names, shapes and dtypes of the state")


@law(
    "requires_grad: global_scale, global_offset, vk_householder, the subnet's own; nothing else",
    broken_by=("permutation-is-trained", "reflections-are-not-trained"),
    regimes=("soft", "reflections-1", "gin"),
    fix=SMALL,
    edges=("reflections-hard",),
    rows=16,
    **COMMON,
)
def trains_what_is_documented(run: Run) -> None:
    """Scale, offset, reflections and the subnet's parameters are trained, W is not.

    Bound: none.
    Sees: a W that an optimizer bends, a parameter that it never moves.
    Blind to: whether gradients reach them (`gradient`).
    Spec: 5. Since: 0.2.
    """
    state = run.ask("the state", lambda: run.target.state(run.build(load=False)))
    got = sorted(name for name, v in state.items() if v.requires_grad)
    run.equal(sorted(name for name in run.case.state if not name.startswith("w_")), got, "what is trained")


@law(
    "f of a new block that has loaded the state dict = f",
    broken_by="state-dict-rounds-to-half",
    regimes=("rank-0", "rank-2", "gin", "soft", "reflections-1"),
    fix=SMALL,
    edges=("reflections-hard",),
    rows=16,
    **COMMON,
)
def state_dict_is_the_whole_state(run: Run) -> None:
    """A state dict, loaded strictly into a block of another seed, gives the same function.

    Bound: twice the reference's: both blocks round, perhaps from matrices that lie differently in memory.
    Sees: what decides the function and is not in the state dict, or is there in another form.
    Blind to: what is lost by every loading (`reference` sees that).
    Spec: 5, 6. Since: 0.2.
    """
    block = run.block
    want = _answers(run, block)
    other, entries = _another(run), _entries(run, block)
    run.ask("load_state_dict", lambda: other.load_state_dict(entries, strict=True))
    _alike(run, want, other, "of a new block with this state")


def _parts(run: Run) -> dict[str, dict[str, Tensor]]:
    """Another legal state, in the parts that may be loaded alone: W with its inverse, the subnet, each other entry."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, v in _entries(run, run.on(changed(run.case)).build()).items():
        part = "W" if name.startswith("w_") else "the subnet" if name.startswith("subnet.") else name
        parts.setdefault(part, {})[name] = v.detach().clone()
    return parts


@law(
    "load_state_dict(part, strict=False), with assign or without: the part's entries are its own, others keep theirs",
    broken_by=("missing-scale-starts-anew", "offset-is-loaded-with-the-scale-alone"),
    regimes=("rank-0", "gin", "soft", "reflections-1"),
    fix=SMALL,
    edges=("reflections-hard",),
    rows=8,
    **COMMON,
)
def a_part_loads_alone(run: Run) -> None:
    """A part of a state, loaded without strict, changes that part and nothing else.

    Bound: none; the bits of every entry.
    Sees: a loader that starts anew, or ignores, what comes without the rest.
    Blind to: whether what is missing is told.
    Spec: 5, 6. Since: 0.2.
    """
    block = run.block
    for assign in (False, True):
        for part, entries in _parts(run).items():
            run.ask("loading the state", lambda: run.target.load(block, run.case.state))
            want = {name: v.clone() for name, v in _entries(run, block).items()} | entries
            given = {name: v.clone() for name, v in entries.items()}
            run.ask(f"loading {part} alone", lambda: block.load_state_dict(given, strict=False, assign=assign))  # noqa: B023
            for name, v in _entries(run, block).items():
                run.same(want[name], v, f"{name} after {part} alone was loaded{' with assign=True' if assign else ''}")


@law(
    "load_state_dict(all but one part) raises, and names what is missing where strict=False",
    broken_by="missing-entries-are-filled-in",
    regimes=("rank-0", "gin", "soft", "reflections-1"),
    fix=SMALL,
    edges=("reflections-hard",),
    rows=8,
    **COMMON,
)
def missing_entries_are_told(run: Run) -> None:
    """A state that lacks an entry is refused, and without strict the names of what it lacks are the answer.

    Bound: none.
    Sees: a loader that fills in what is not there, so that half a checkpoint passes for a whole one.
    Blind to: what is loaded of the rest (`a-part-loads-alone`).
    Spec: 5. Since: 0.2.
    """
    block, parts = run.block, _parts(run)
    for part, entries in parts.items():
        rest = {name: v for other in parts if other != part for name, v in parts[other].items()}
        told = run.ask(f"loading all but {part}", lambda: block.load_state_dict(dict(rest), strict=False))  # noqa: B023
        run.equal(sorted(entries), sorted(told.missing_keys), f"what is told to be missing, all but {part} loaded")
        refused = _loudly(run, lambda: block.load_state_dict(dict(rest), strict=True)) is None  # noqa: B023
        run.equal(True, refused, f"a strict loading of all but {part} is refused")


@law(
    "f of to_empty(), loaded with the state = f",
    broken_by="constants-outside-of-the-state",
    regimes=("rank-0", "rank-2", "gin", "soft", "reflections-1"),
    fix=SMALL,
    edges=("reflections-hard",),
    rows=8,
    **COMMON,
)
def emptied_and_loaded_is_the_same(run: Run) -> None:
    """A block whose memory was given back by to_empty, and that has loaded its state, is the same function.

    Bound: twice the reference's: both blocks round, perhaps from matrices that lie differently in memory.
    Sees: a constant that lies in a buffer and not in the state, with which a block made on meta starts with garbage.
    Blind to: what the constructor keeps on the host.
    Spec: 5. Since: 0.2.
    """
    block = run.block
    want = _answers(run, block)
    entries = {name: v.clone() for name, v in _entries(run, block).items()}
    run.ask("to_empty", lambda: block.to_empty(device=run.device))
    with torch.no_grad():  # what lies there by chance may be what lay there before
        for v in (*block.parameters(), *block.buffers()):
            v.fill_(torch.nan if v.is_floating_point() else 0)
    run.ask("load_state_dict", lambda: block.load_state_dict(entries, strict=True))
    _alike(run, want, block, "after to_empty and loading")


class _Held(torch.nn.Module):
    """A block as a child, whose forward is one pass as the target runs it."""

    def __init__(self, run: Run, block: Any) -> None:
        super().__init__()
        self.block, self.call = block, partial(run.target.run, block)

    def forward(self, *given: Any) -> Any:
        return self.call(*given)


@law(
    "functional_call(block, θ', x) = f of a block with θ', and f(x) = f of the block's own θ afterwards",
    broken_by="parameters-kept-when-loaded",
    regimes=("rank-0", "gin", "soft", "reflections-1"),
    fix=SMALL,
    edges=("reflections-hard",),
    rows=8,
    directions=ONCE,
    precisions=("float32",),
    needs=("state", "func"),
)
def functional_call_takes_the_state_given(run: Run) -> None:
    """torch.func.functional_call computes with the state that it is given, and leaves the block its own.

    Bound: twice the reference's, for a block that was given that state.
    Sees: parameters that are reached by a reference of the block's own, as after a loading.
    Blind to: gradients by that state.
    Spec: 6. Since: 0.2.
    """
    goal = run.on(changed(run.case))
    like = goal.build()
    want, own = _answers(goal, like), _answers(run, run.block)
    state = {f"block.{name}": v.detach().clone() for name, v in _entries(run, like).items()}
    held = _Held(run, run.block)

    def pass_with_it(way: str, rev: bool) -> tuple[str, Tensor, Tensor]:
        y, logdet = torch.func.functional_call(held, state, (*run.inputs, rev))
        return way, y.detach(), logdet.detach()

    found = run.ask("functional_call", lambda: [pass_with_it("forward", False), pass_with_it("reverse", True)])
    _agree(goal, want, found, "of functional_call with another state")
    _alike(run, own, run.block, "after functional_call")


def _load(run: Run, block: Any, like: Any, case: Case) -> None:
    run.ask("loading the state", lambda: run.target.load(block, case.state))


def _copy(run: Run, block: Any, like: Any, case: Case) -> None:
    with torch.no_grad():
        for old, new in _pairs(run, block, like):
            old.copy_(new)


def _copy_data(run: Run, block: Any, like: Any, case: Case) -> None:
    for old, new in _pairs(run, block, like):
        old.data.copy_(new)


def _set_data(run: Run, block: Any, like: Any, case: Case) -> None:
    for old, new in _pairs(run, block, like):
        old.data = new.clone()


def _assign(run: Run, block: Any, like: Any, case: Case) -> None:
    entries = {name: v.clone() for name, v in _entries(run, like).items()}
    run.ask("load_state_dict with assign=True", lambda: block.load_state_dict(entries, assign=True))


def _pairs(run: Run, block: Any, like: Any) -> list[tuple[Tensor, Tensor]]:
    """Each entry of a block's state, and what another holds there."""
    state, new = (run.ask("the state", partial(run.target.state, one)) for one in (block, like))
    return [(v, new[name].detach()) for name, v in state.items()]


WAYS: dict[str, Callable[[Run, Any, Any, Case], None]] = {
    "loaded": _load,
    "changed in place": _copy,
    "changed in place through .data": _copy_data,
    "set as .data": _set_data,
    "loaded with assign=True": _assign,
}


@law(
    "f after a change of the state = f of a new block with the changed state",
    broken_by=(
        "w-cached-at-first-pass", "scale-cached-at-first-pass", "inverse-cached-at-first-reverse",
        "w-cached-until-loading", "scale-cached-by-version", "offset-copied-when-loaded", "eval-keeps-w",
        "parameters-kept-in-a-list",
    ),
    regimes=("rank-0", "gin", "soft", "reflections-1", "reverse-permutation"),
    fix=SMALL,
    edges=("reflections-hard",),
    rows=12,
    **COMMON,
)  # fmt: skip
def changes_are_seen(run: Run) -> None:
    """A change of state by any means is seen by the next pass, in both directions and modes.

    Bound: twice the reference's, for a new block that was given the changed state before its first pass.
    Sees: whatever is derived from the state and kept beyond a pass: W, its inverse, σ, a copy of the offset.
    Blind to: a cache that every new block shares.
    Spec: 6. Since: 0.2.
    """
    goal = run.on(changed(run.case))
    for training in (True, False):
        like = goal.build()
        run.ask("train()", partial(like.train, training))
        want = _answers(goal, like)
        for way, change in WAYS.items():
            block = run.build()
            run.ask("train()", partial(block.train, training))
            _answers(run, block)
            change(run, block, like, goal.case)
            _alike(goal, want, block, f"after the state was {way}{'' if training else ', in eval mode'}")


@law(
    "f of deepcopy(block), before and after passes = f",
    broken_by=("w-left-on-the-block-with-its-graph",),
    regimes=("rank-0", "gin", "soft", "reflections-1"),
    fix=SMALL,
    edges=("reflections-hard",),
    rows=12,
    **COMMON,
)
def deepcopy_works(run: Run) -> None:
    """deepcopy gives a block of the same function, before any pass and after passes with gradients.

    Bound: twice the reference's: both blocks round, perhaps from matrices that lie differently in memory.
    Sees: a tensor with its graph left on the block, which can't be copied.
    Blind to: what copy and original share (`copies-share-nothing`).
    Spec: 6. Since: 0.2.
    """
    block = run.block
    copies = {"before any pass": run.ask("deepcopy before any pass", lambda: copy.deepcopy(block))}
    want = _answers(run, block)
    copies["after passes"] = run.ask("deepcopy after passes with gradients", lambda: copy.deepcopy(block))
    for when, one in copies.items():
        _alike(run, want, one, f"of a copy made {when}")


@law(
    "f of deepcopy(block) does not change with the block",
    broken_by="copies-share-their-buffers",
    regimes=("rank-0", "soft", "reflections-1"),
    fix=SMALL,
    edges=("reflections-hard",),
    rows=12,
    **COMMON,
)
def copies_share_nothing(run: Run) -> None:
    """A copy and its original share no state.

    Bound: twice the reference's, for the copy before and after all of the original was changed in place.
    Sees: a buffer, a parameter or a function of the original that the copy goes on to use.
    Blind to: copies that fail (`deepcopy-works`).
    Spec: 6. Since: 0.2.
    """
    block, goal = run.block, run.on(changed(run.case)).build()
    one = run.ask("deepcopy", lambda: copy.deepcopy(block))
    want = _answers(run, one)
    _copy(run, block, goal, run.case)
    _alike(run, want, one, "of a copy, after the original was changed")


@law(
    "f of loads(dumps(block)) = f, by pickle and by torch.save, before and after passes",
    broken_by="activation-is-a-local-function",
    regimes=("rank-0", "gin", "soft", "reflections-1"),
    fix=SMALL,
    directions=ONCE,
    precisions=("float32",),
    needs=("state", "pickle"),
    edges=("reflections-hard",),
    rows=12,
)
def pickle_works(run: Run) -> None:
    """A block can be pickled, and saved whole by torch.save, before and after passes.

    Bound: twice the reference's: both blocks round, perhaps from matrices that lie differently in memory.
    Sees: a local function or a graph on the block.
    Blind to: checkpoints of the state alone (`state-dict-is-the-whole-state`).
    Spec: 6. Since: 0.2.
    """
    block, want = run.block, _answers(run, run.build())
    for when in ("before any pass", "after passes"):
        one = run.ask(f"pickle {when}", lambda: pickle.loads(pickle.dumps(block)))
        _alike(run, want, one, f"of a block pickled {when}")
        other = run.ask(f"torch.save {when}", lambda: _saved(block))
        _alike(run, want, other, f"of a block saved by torch.save {when}")
        _answers(run, block)


def _saved(block: Any) -> Any:
    file = io.BytesIO()
    torch.save(block, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@law(
    "f of a new block that has loaded safetensors of the state dict = f",
    broken_by="inverse-is-not-contiguous",
    regimes=("rank-0", "rank-2", "soft", "reflections-1"),
    fix=SMALL,
    edges=("reflections-hard",),
    rows=12,
    **COMMON,
)
def safetensors_keeps_the_state(run: Run) -> None:
    """safetensors writes the state dict after passes, and a new block that reads it is the same function.

    Bound: twice the reference's: both blocks round, perhaps from matrices that lie differently in memory.
    Sees: entries that are not contiguous or share memory, which that format refuses.
    Blind to: entries that share memory where no format is asked (`entries-share-no-memory`).
    Spec: 6. Since: 0.2.
    """
    block, other = run.block, _another(run)
    want = _answers(run, block)
    data = run.ask("safetensors", lambda: safetensors.torch.save(_entries(run, block)))
    run.ask("load_state_dict", lambda: other.load_state_dict(safetensors.torch.load(data), strict=True))
    _alike(run, want, other, "of a new block with this state from safetensors")


@law(
    "a change of one entry in place changes no other",
    broken_by="inverse-is-a-view",
    regimes=("rank-0", "rank-2", "soft", "reflections-1"),
    fix=SMALL,
    edges=("reflections-hard",),
    rows=12,
    **COMMON,
)
def entries_share_no_memory(run: Run) -> None:
    """Each entry of the state has memory of its own.

    Bound: none; bits of all entries, while each in turn is changed in place.
    Sees: scale and offset, or a matrix and its inverse, in one storage, so that loading one overwrites the other.
    Blind to: order in memory (`safetensors-keeps-the-state`).
    Spec: 5, 6. Since: 0.2.
    """
    entries = _entries(run, run.build(load=False))
    before = {name: v.clone() for name, v in entries.items()}
    for name, v in entries.items():
        with torch.no_grad():
            v.add_(1)
            for other, want in before.items():
                if other != name:
                    run.same(want, entries[other], f"{other} after a change of {name}")
            v.copy_(before[name])


# A new block whose W can be read off unit vectors, once scale and offset are back at 1 and 0.
BARE = {**NEW, "C": (2, 3, 4, 5, 8), "B": 3, "reflections": (0, 1)}


def _orthogonal(run: Run, block: Any, when: str) -> None:
    """W Wᵀ = I and W⁻¹ W = I, read off the unit vectors."""
    with torch.no_grad():
        state = run.ask("the state", lambda: run.target.state(block))
        state["global_scale"].zero_()
        state["global_offset"].zero_()
        unit = torch.eye(run.spec.C, dtype=run.dtype, device=run.device)
        W, V = (run.go(unit, (), rev=rev, block=block).y.double().cpu().T for rev in (False, True))
    row = drawn_error(run)
    bound = torch.full_like(W, 2 * row + row * row)
    run.within(torch.eye(len(W), dtype=W.dtype), W @ W.T, bound, f"WWᵀ {when}", 1.0)
    run.within(torch.eye(len(W), dtype=W.dtype), V @ W, bound, f"W⁻¹W {when}", 1.0)


def _loudly(run: Run, do: Callable[[], Any]) -> Any:
    """What this gives, or None where it raises, which is allowed here."""
    try:
        with run.guard():
            return do()
    except Exception:
        return None


@law(
    "WWᵀ = I after requires_grad_(True) and steps of an optimizer, or an exception",
    broken_by="w-is-a-frozen-parameter",
    regimes=("soft", "reflections-1"),
    fix=BARE,
    directions=ONCE,
    precisions=("float32",),
    needs=("state", "gradient"),
    edges=("reflections-hard",),
    rows=12,
)
def training_keeps_w_orthogonal(run: Run) -> None:
    """requires_grad_(True) and an optimizer over all parameters leave W orthogonal, or fail loudly.

    Bound: as of `permutation.w-is-orthogonal`.
    Sees: a W that is a parameter without gradient, which requires_grad_(True) trains, each of matrix and inverse apart.
    Blind to: what else the training does.
    Spec: 6. Since: 0.2.
    """
    block = run.build(load=False)
    x, c = run.inputs
    gy = run.case.gy.to(run.device, run.dtype)

    def train() -> bool:
        block.requires_grad_(True)
        optimizer = torch.optim.SGD(block.parameters(), lr=2.0**-5)
        for rev in (False, True, False):
            optimizer.zero_grad()
            y, logdet = run.target.run(block, x, c, rev)
            ((gy * y).sum() + logdet.sum()).backward()
            optimizer.step()
        return True

    trained = _loudly(run, train)
    run.equal(True, trained is None or trained, "training")
    _orthogonal(run, block if trained else run.build(load=False), "after training")


@law(
    "WWᵀ = I for AveragedModel(block, use_buffers=False), or an exception",
    broken_by="index-vectors-are-parameters",
    regimes=("soft", "reflections-1"),
    fix={**BARE, "C": (4, 5, 8)},
    edges=("reflections-hard",),
    rows=12,
    **COMMON,
)
def averaging_keeps_w_orthogonal(run: Run) -> None:
    """Weight averaging over parameters leaves W orthogonal, or fails loudly.

    Bound: as of `permutation.w-is-orthogonal`.
    Sees: an index vector that is a parameter, whose average is rounded down to another index.
    Blind to: what averaging does to trained parameters.
    Spec: 6. Since: 0.2.
    """
    block = run.build(load=False)

    def average() -> Any:
        averaged = AveragedModel(block, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=False)
        for _ in range(4):
            averaged.update_parameters(block)
        return averaged.module

    averaged = _loudly(run, average)
    _orthogonal(run, block if averaged is None else averaged, "of an average")


@law(
    "f after double() and float() = f",
    broken_by="identity-kept-in-its-first-dtype",
    regimes=("rank-0", "rank-2", "gin", "soft", "reflections-1"),
    fix=SMALL,
    edges=("reflections-hard",),
    rows=12,
    **COMMON,
)
def float64_and_back_changes_nothing(run: Run) -> None:
    """A block taken to float64, run there and taken back is the same function.

    Bound: twice the reference's; every float32 number is one of float64, so the state is the same.
    Sees: what a block keeps from a pass in the dtype that it had then, or outside of what `.to` converts.
    Blind to: accuracy in float64 (every law that is judged there).
    Spec: 5, 6. Since: 0.2.
    """
    block, (x, c) = run.block, run.inputs
    want = _answers(run, block)
    run.ask("double()", block.double)
    for rev in (False, True):
        got = run.go(x.double(), [v.double() for v in c], rev=rev, block=block)
        run.equal((torch.float64, torch.float64), (got.y.dtype, got.logdet.dtype), "dtypes of a float64 pass")
    run.ask("float()", block.float)
    _alike(run, want, block, "after float64 and back")


def _stored(run: Run, index: bool) -> dict[str, Tensor]:
    """The case's state as a checkpoint would hold it, W as matrices or as index vectors."""
    stored = {name: v.to(run.device, run.dtype) for name, v in run.case.state.items()}
    for name in ("w_perm", "w_perm_inv"):
        if index and name in stored:
            stored[name] = stored[name].flatten(1).argmax(1)
    return stored


@law(
    "f of a block that has loaded W as a matrix = f of one that has loaded it as an index vector",
    broken_by="index-vectors-refused",
    regimes=("rank-0", "rank-2", "gin", "reverse-permutation"),
    fix={**SMALL, "soft": False, "reflections": 0},
    rows=12,
    **COMMON,
)
def either_form_of_w_loads(run: Run) -> None:
    """A hard permutation loads as a matrix and as an index vector, and is the same function.

    Bound: twice the reference's: a permutation moves numbers, but for what follows both round.
    Sees: checkpoints of one public block that the other refuses, W taken for its inverse in one of the forms.
    Blind to: soft matrices (`hard-block-loads-a-soft-w`).
    Spec: 5. Since: 0.2.
    """
    matrices, vectors = _another(run), _another(run)
    run.ask("loading W as matrices", lambda: matrices.load_state_dict(_stored(run, index=False), strict=True))
    want = _answers(run, matrices)
    run.ask("loading W as index vectors", lambda: vectors.load_state_dict(_stored(run, index=True), strict=True))
    _alike(run, want, vectors, "of a block that has loaded index vectors")


@law(
    "a block with permute_soft=False that has loaded a soft W computes the map with that W",
    broken_by="soft-w-refused-by-a-hard-block",
    regimes=("rank-0", "rank-2", "soft"),
    fix={**SMALL, "soft": True, "reflections": 0},
    precisions=("float32",),
    needs=("state",),
    rows=12,
)
def hard_block_loads_a_soft_w(run: Run) -> None:
    """A hard block takes a soft matrix, and answers as a soft block does.

    Bound: twice the reference's, for the output of a soft block with this state.
    Sees: a loader that takes permutations alone, a block that gathers by a matrix which is none.
    Blind to: hard permutations.
    Spec: 5. Since: 0.2.
    """
    hard = run.on(replace(run.case, spec=replace(run.spec, permute_soft=False), recipe=None))
    block = hard.build(load=False)
    want, scale = run.answer.y.detach().double().cpu(), float(abs(run.want.out.value).max())
    run.ask("loading a soft W", lambda: block.load_state_dict(_stored(run, index=False), strict=True))
    run.within(want, hard.go(block=block).y, 2 * run.bound(run.want.out), "the output with a soft W", scale)


@law(
    "AllInOneBlock(dims_in, dims_c, subnet_constructor) = the block of the documented defaults: α = 2, g = 1, no GIN …",
    broken_by="clamping-of-1.9-by-default",
    regimes=("rank-0", "rank-2", "softplus"),
    fix={"affine": "SOFTPLUS", "g": 1.0, "alpha": 2.0, "gin": False, "soft": False, "reflections": 0,
         "reverse_permutation": False, "subnet": ("linear", "network"), "max_CN": 64, "max_B": 3},
    precisions=("float32",),
    needs=("state",),
    rows=4,
)  # fmt: skip
def defaults_are_the_documented_ones(run: Run) -> None:
    """A block made without its optional arguments has the state and the map of one made with their defaults.

    Bound: none for the state, made from one seed; the error of the pass for output and log-det.
    Sees: a default of one's own, which only those meet who leave the argument out.
    Blind to: arguments that the constructor asks for.
    Spec: 1. Since: 0.2.
    """
    optional = getattr(run.target, "optional", ())
    if not optional:
        run.meter.moot = "the constructor asks for every argument"
        return

    def made(**changed: Any) -> Any:
        seed_everything(int(run.case.id[:8], 16))
        return run.target.construct(run.spec, run.case.subnet_constructor, **changed)

    block = run.ask("the constructor", lambda: made(**dict.fromkeys(optional, OMITTED)))
    want = run.ask("the constructor", made).state_dict()
    got = block.state_dict()
    own = lambda state: sorted(name for name in state if "." not in name)  # noqa: E731
    run.equal(own(want), own(got), "names of the state")
    for name in own(want):
        run.same(want[name], got[name], f"{name} of a new block")
    block = block.to(device=run.device, dtype=run.dtype)
    run.ask("loading the state", lambda: run.target.load(block, run.case.state))
    answer = run.go(block=block)
    run.near(run.want.out, answer.y, "the output of a block made by its defaults")
    run.near(run.want.logdet, answer.logdet, "the log-det of a block made by its defaults", scale=scale_of(run))
