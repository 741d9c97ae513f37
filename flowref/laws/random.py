"""Where randomness comes from: torch's generator, when a block is made, and from nowhere else."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowref.laws.registry import ONCE, law
from flowref.laws.run import Run, seed_everything

MADE: dict[str, Any] = {
    "C": (9, 12),
    "S": ((), (2,)),
    "B": 1,
    "conditions": (),
    "subnet": "zero",
    "g": 1.0,
    "reflections": (0, 1),
}
COMMON: dict[str, Any] = {"directions": ONCE, "precisions": ("float32",), "rows": 12}
# Every generator, as bytes or numbers that can be compared.
GENERATORS: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.get_rng_state().tolist(),
    "torch on CUDA": lambda: (
        [v.tolist() for v in torch.cuda.get_rng_state_all()] if torch.cuda.is_initialized() else []
    ),
    "numpy": lambda: [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
    "python": random.getstate,
}


def _made(run: Run) -> dict[str, Tensor]:
    """The state of a new block, as the constructor leaves it, without the subnet's."""
    construct = lambda: run.target.construct(run.spec, run.case.subnet_constructor)  # noqa: E731
    block = run.ask("the constructor", construct)
    entries = run.ask("state_dict", block.state_dict)
    return {name: v for name, v in entries.items() if not name.startswith("subnet.")}


def _moved(before: dict[str, Any]) -> list[str]:
    return [name for name, read in GENERATORS.items() if read() != before[name]]


@law(
    "state of a new block after torch.manual_seed(n): the same, whatever the other generators hold",
    broken_by=("permutation-drawn-from-numpy", "rotation-drawn-from-numpy", "reflections-drawn-from-python"),
    regimes=("soft", "reflections-1"),
    fix=MADE,
    needs=("state",),
    edges=("reflections-hard",),
    **COMMON,
)
def manual_seed_reproduces_a_block(run: Run) -> None:
    """torch.manual_seed reproduces a new block.

    Bound: none; bits of its state. Two permutations of 9 channels agree by chance once in 362880.
    Sees: a draw from numpy's or python's generator, from entropy, from uninitialised memory.
    Blind to: the distribution (`permutation`).
    Spec: 6. Since: 0.2.
    """
    made = []
    for others in (1, 2):
        seed_everything(others)
        torch.manual_seed(7)
        made.append(_made(run))
    for name, want in made[0].items():
        run.same(want, made[1][name], f"{name} of a block from the same torch seed")


@law(
    "generators of numpy and python after construction = before",
    broken_by=("construction-reseeds-numpy", "construction-shuffles-by-python"),
    regimes=("soft", "reflections-1"),
    fix=MADE,
    edges=("reflections-hard",),
    **COMMON,
)
def construction_moves_torchs_generator_alone(run: Run) -> None:
    """Making a block moves no generator but torch's.

    Bound: none.
    Sees: a draw from another generator, or its reseeding, after which the program around it isn't reproducible.
    Blind to: how often torch's is drawn from.
    Spec: 6. Since: 0.2.
    """
    seed_everything(3)
    before = {name: read() for name, read in GENERATORS.items()}
    build = lambda: run.target.build(run.spec, run.case.subnet_constructor, run.dtype, run.device)  # noqa: E731
    run.ask("the constructor", build)
    run.equal([], [name for name in _moved(before) if not name.startswith("torch")], "generators that it moved")


@law(
    "every generator after a pass = before",
    broken_by=("pass-draws-noise", "pass-draws-from-numpy"),
    regimes=("rank-0", "rank-2", "gin", "soft", "reflections-1"),
    fix={
        "C": (2, 3, 4, 5),
        "B": (1, 2),
        "max_CN": 24,
        "subnet": ("linear", "network", "constant"),
        "reflections": (0, 1),
    },
    edges=("reflections-hard",),
    precisions=("float32",),
    rows=12,
)
def pass_draws_nothing(run: Run) -> None:
    """A pass draws no random number.

    Bound: none.
    Sees: noise, even if it is not used; a generator that is reseeded.
    Blind to: construction.
    Spec: 6. Since: 0.2.
    """
    block = run.block
    seed_everything(4)
    before = {name: read() for name, read in GENERATORS.items()}
    run.go(block=block)
    run.equal([], _moved(before), "generators that the pass moved")


@law(
    "torch.set_default_dtype(float64): every float of a new block's state is float64",
    broken_by="w-always-in-float32",
    regimes=("soft", "reflections-1"),
    fix=MADE,
    needs=("state",),
    edges=("reflections-hard",),
    **COMMON,
)
def follows_the_default_dtype(run: Run) -> None:
    """A block made under another default dtype holds all its floats in that dtype.

    Bound: none.
    Sees: a matrix of fixed dtype among parameters of the default one, with which no pass runs; a
        constructor that raises.
    Blind to: `.to(dtype)` afterwards.
    Spec: 6. Since: 0.2.
    """
    seed_everything(5)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        made = _made(run)
    finally:
        torch.set_default_dtype(before)
    got = {name: v.dtype for name, v in made.items() if v.is_floating_point()}
    run.equal(dict.fromkeys(got, torch.float64), got, "dtypes of the state")


@law(
    "with torch.device(d): every entry of a new block's state is on d",
    broken_by="w-always-on-the-cpu",
    regimes=("soft", "reflections-1"),
    fix=MADE,
    needs=("state",),
    edges=("reflections-hard",),
    **COMMON,
)
def follows_the_default_device(run: Run) -> None:
    """A block made under another default device is wholly there; the device asked is meta, which holds no numbers.

    Bound: none.
    Sees: a matrix that stays on the CPU among parameters elsewhere; a constructor that looks at numbers it just drew.
    Blind to: `.to(device)` afterwards.
    Spec: 6. Since: 0.2.
    """
    seed_everything(6)
    with torch.device("meta"):
        made = _made(run)
    run.equal(dict.fromkeys(made, "meta"), {name: v.device.type for name, v in made.items()}, "devices of the state")
