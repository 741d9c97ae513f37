"""What the tests of faults and variants share: blocks on cases, and what can be seen of them from outside."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowref.cases import Case, Recipe
from flowref.cases.stream import edge_rows, rows
from flowref.faults.plain import PlainBlock
from flowref.targets import Module

Seen = dict[str, Any]
EDGES = ("batch-0", "channels-1", "reflections-hard", "alpha-0")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """One thread: the cases are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ulps(want: Tensor, got: Tensor) -> float:
    """The largest difference in ulps of the largest magnitude in ``want``, or of 1; infinite for other shapes or NaN.

    Why: the terms of sums and contractions are of that size, whatever they cancel to; those of the sums that cancel
    to 0 (the log-det of GIN, the gradient by a reflection of one channel) are of size 1 in this deck.
    """
    if want.shape != got.shape:
        return math.inf
    if not want.numel():
        return 0.0
    unit = torch.finfo(want.dtype).eps * max(float(want.abs().max()), 1.0)
    error = float((want - got).abs().max())
    return error / unit if math.isfinite(error) else math.inf


def loaded(make: type[nn.Module], case: Case, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The block built for the case and given its state."""
    target = Module(make, dialect=case.spec.dialect)
    torch.manual_seed(int(case.id[:8], 16))
    block = target.build(case.spec, case.subnet_constructor, dtype, "cpu")
    target.load(block, case.state)
    return block


def seen(make: type[nn.Module], case: Case, dtype: torch.dtype = torch.float64) -> Seen:
    """What a pass in each direction shows: values and gradients by name, or what was raised."""
    out: Seen = {}
    for rev in (False, True):
        way = "reverse" if rev else "forward"
        try:
            out |= {f"{way} {name}": value for name, value in _passed(loaded(make, case, dtype), case, rev, dtype)}
        except Exception as error:
            out[f"{way} raised"] = type(error).__name__
    return out


def _passed(block: Any, case: Case, rev: bool, dtype: torch.dtype) -> Any:
    x, c = case.inputs(dtype, "cpu")
    x, c = x.detach().requires_grad_(), [v.detach().requires_grad_() for v in c]
    (y,), logdet = block((x,), c, rev=rev)
    yield "output", y.detach()
    yield "log-det", logdet.detach()
    probe = block.subnet
    yield "calls", len(probe.seen)
    yield "subnet input", probe.seen[-1].detach()
    leaves = {"x": x, **{f"c{k}": v for k, v in enumerate(c)}}
    leaves |= {name: v for name, v in block.named_parameters() if v.requires_grad}
    gy, gj = case.gy.to(dtype), case.gj.to(dtype)
    if y.shape == gy.shape and logdet.shape == gj.shape:
        loss = (y * gy).sum() + (logdet * gj).sum()
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        for name, g in zip(leaves, found, strict=True):
            yield f"gradient by {name}", torch.zeros_like(leaves[name]) if g is None else g
    (y,), _ = block((x,), c, rev=rev, jac=False)
    yield "output without jac", y.detach()
    (back,), _ = block((y.detach(),), c, rev=not rev)
    yield "round trip", back.detach()


def apart(want: Seen, got: Seen) -> dict[str, float]:
    """How far each thing seen is apart, in ulps; things seen by one only are infinitely far apart."""
    return {
        name: ulps(want[name], got[name])
        if name in want and name in got and isinstance(want[name], Tensor)
        else (0.0 if want.get(name) == got.get(name) else math.inf)
        for name in want | got
    }


LARGE = (
    {"C": 36, "B": 2, "S": (2,), "subnet": "network"},
    {"C": 130, "B": 1, "soft": True, "subnet": "constant"},
    {"C": 4, "B": 67, "soft": True},
    {"C": 5, "B": 2, "S": (17, 17), "affine": "EXP", "conditions": (2,)},
    {"C": 6, "B": 3, "S": (2, 2), "gin": True, "affine": "EXP", "reverse_permutation": True, "conditions": (1, 2)},
    {"C": 4, "B": 2, "S": (4, 4), "alpha": 0.5, "clamp": "saturated"},
    {"C": 4, "B": 2, "S": (3, 2, 2), "scale": "wide", "subnet": "activation"},
    {"C": 5, "B": 2, "soft": True, "reflections": 3, "affine": "SIGMOID", "alpha": 5.0},
)


def deck(dialect: str) -> list[Case]:
    """Small cases of every flag, edge and regime that some fault needs."""
    recipes = [*rows("smoke", dialect), *(Recipe(dialect=dialect, seed=7 + k, **row) for k, row in enumerate(LARGE))]
    for edge in EDGES:
        recipes += edge_rows(edge, dialect)[:3]
    return [recipe.case() for recipe in recipes]


@pytest.fixture(scope="session")
def decks() -> Callable[[str], list[Case]]:
    """The deck of a dialect, made once."""
    made: dict[str, list[Case]] = {}
    return lambda dialect: made.setdefault(dialect, deck(dialect))


@pytest.fixture(scope="session")
def tools() -> Any:
    """The functions above, for test modules that can't import this file by name."""
    kept: dict[str, Seen] = {}

    def plain(case: Case) -> Seen:
        """What the plain block shows, looked at once a case."""
        if case.id not in kept:
            kept[case.id] = seen(PlainBlock, case)
        return kept[case.id]

    return type("Tools", (), {f.__name__: staticmethod(f) for f in (ulps, loaded, seen, apart, deck, plain)})
