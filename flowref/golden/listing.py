"""Which vectors there are: every combination of flags in small shapes, then edges.

Listed     how one vector is drawn: a recipe, and what is changed of its case
LISTING    all of golden/v1, by dialect
for_spec   those for one specification of somebody's own
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import numpy as np
import torch

from flowref.cases import Case, Recipe
from flowref.cases.bulk import Bulk, round_to_bits
from flowref.golden.subnet import subnet_spec
from flowref.spec import BlockSpec, Dialect

State = dict[str, torch.Tensor]

ALPHAS = (2.0, 0.5, 1.9, 3.0, 5.0)
CLAMPS = ("curved", "linear", "curved", "saturated", "curved", "curved", "linear")
CHANNELS, BATCHES, REFLECTIONS = (4, 3, 5, 2, 3), (2, 1, 2, 3), (1, 2, 3)
CONDITIONS: tuple[tuple[int, ...], ...] = ((), (2,), (1, 2))
SHAPES: dict[int, tuple[tuple[int, ...], ...]] = {
    0: ((),),
    1: ((3,), (1,), (4,)),
    2: ((2, 3), (2, 2), (1, 1), (3, 1)),
    3: ((1, 2, 2), (3, 1, 2), (1, 1, 2)),
}
# s of "ends": Ψ from near 0 to its top, on both sides of the place where softplus may turn linear.
ENDS = {"SIGMOID": (-15.0, 15.0, -9.0, 11.0), "SOFTPLUS": (-30.0, 88.0, 38.75, -15.5), "EXP": (-8.0, 8.0, 5.5, -5.5)}
TINY = 2.0**-112


@dataclass(frozen=True)
class Listed:
    """``given``: the subnet's answer is part of the vector. ``twist``: what is changed afterwards, out of TWISTS."""

    recipe: Recipe
    given: bool = False
    twist: str = ""
    steps: bool = False

    def json(self) -> dict[str, Any]:
        """The recipe's fields that differ from their defaults, and the twist."""
        values, plain = self.recipe.json(), Recipe().json()
        found = {f.name: values[f.name] for f in fields(Recipe) if values[f.name] != plain[f.name]}
        return found | ({"twist": self.twist} if self.twist else {})

    def case(self) -> Case:
        """The case: the same on every machine."""
        case = self.recipe.case()
        spec, state = case.spec, dict(case.state)
        if spec.global_affine_type == "SOFTPLUS":  # where torch's softplus is linear and off, float64 decides little
            s = state["global_scale"]
            state["global_scale"] = torch.where((s > 39) & (s < 76), s / 2, s)
        subnet = case.subnet
        if self.given:
            subnet = subnet_spec("given", spec, case.B)
            state = {name: value for name, value in state.items() if not name.startswith("subnet.")}
            state["subnet.a"] = _answer(case, self.recipe)
        case = replace(case, state=state, subnet=subnet, recipe=None)
        return TWISTS[self.twist](case) if self.twist else case


def _answer(case: Case, recipe: Recipe) -> torch.Tensor:
    """An answer that differs in every element, each row of the size of the recipe's constant."""
    rows = case.state.get("subnet.coefficients", torch.zeros(0)).numpy()  # C = 1 has none
    spread = Bulk(recipe.seed, recipe.bits).spread("golden.a", (case.B, case.spec.subnet_out, *case.spec.S))
    return torch.from_numpy(round_to_bits(np.abs(rows).reshape(-1, *(1,) * case.spec.rank) * spread, recipe.bits))


def _ends(case: Case) -> Case:
    s = torch.tensor(ENDS[case.spec.global_affine_type], dtype=torch.float64)
    column = s.repeat(case.spec.C)[: case.spec.C].reshape(case.state["global_scale"].shape)
    return replace(case, state=case.state | {"global_scale": column})


def _halves(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    a = case.state["subnet.a"]
    return a[:, : case.spec.A], a[:, case.spec.A :]


def _with_answer(case: Case, scaling: torch.Tensor, shift: torch.Tensor, **state: torch.Tensor) -> Case:
    return replace(case, state=case.state | {"subnet.a": torch.cat([scaling, shift], 1), **state})


def _small(case: Case) -> Case:
    """Coefficients of the scaling about 2**-20, all positive, so that a log-det is their sum."""
    scaling, shift = _halves(case)
    return _with_answer(case, scaling.abs() * 2.0**-20, shift)


def _tiny(case: Case) -> Case:
    """Inputs, shift and offset about 2**-112."""
    scaling, shift = _halves(case)
    return replace(
        _with_answer(case, scaling, shift * TINY, global_offset=case.state["global_offset"] * TINY), x=case.x * TINY
    )


TWISTS: dict[str, Callable[[Case], Case]] = {"ends": _ends, "small": _small, "tiny": _tiny}


def _grid(dialect: str) -> Iterator[Listed]:
    """Every combination of flags at every rank; sizes, α, clamp, conditions and the subnet go round by turn."""
    flags = list(product(("SOFTPLUS", "SIGMOID", "EXP"), (False, True), (False, True), (False, True), (False, True)))
    for rank in range(4):
        for turn, (affine, gin, soft, reflected, reverse) in enumerate(flags):
            given = (turn + turn // 2 + turn // 4 + turn // 8 + turn // 16 + rank) % 2 == 1
            at = turn + 5 * rank
            yield Listed(
                Recipe(
                    B=BATCHES[at % len(BATCHES)],
                    C=CHANNELS[at % len(CHANNELS)],
                    S=SHAPES[rank][at % len(SHAPES[rank])],
                    conditions=() if given else CONDITIONS[at % len(CONDITIONS)],
                    affine=affine,
                    g=(1.0, 0.3, 3.0)[at % 3],
                    alpha=ALPHAS[at % len(ALPHAS)],
                    gin=gin,
                    soft=soft,
                    reflections=REFLECTIONS[at % len(REFLECTIONS)] if reflected else 0,
                    reverse_permutation=reverse,
                    subnet="constant" if given else "linear",
                    clamp=CLAMPS[at % len(CLAMPS)],
                    dialect=dialect,
                    seed=100 * rank + turn,
                ),
                given,
                steps=turn % 8 == (3 * rank) % 8,
            )


def _edges(dialect: str) -> Iterator[Listed]:
    one = Recipe(S=(2,), dialect=dialect)
    given = replace(one, subnet="constant")
    for k, affine in enumerate(("SOFTPLUS", "SIGMOID", "EXP")):
        top = 10 * (1 - 2.0**-20) if affine == "SIGMOID" else 2.0**100
        yield Listed(replace(given, affine=affine, seed=1000 + k), True, "ends")
        yield Listed(replace(given, affine=affine, soft=True, seed=1003 + k), True, "ends")
        yield Listed(replace(given, affine=affine, g=2.0**-100, seed=1006 + k), True)
        yield Listed(replace(given, affine=affine, g=top, seed=1009 + k), True)
        yield Listed(replace(given, affine=affine, C=1, seed=1012 + k), True)
        yield Listed(replace(given, affine=affine, offset="drawn", seed=1015 + k), True, "tiny")
    yield Listed(replace(given, B=0, seed=1020), True)
    yield Listed(replace(one, B=0, conditions=(2,), soft=True, reverse_permutation=True, seed=1021))
    yield Listed(Recipe(B=0, C=3, gin=True, dialect=dialect, seed=1022))
    yield Listed(Recipe(C=1, conditions=(2,), soft=True, reflections=2, dialect=dialect, seed=1023))
    yield Listed(replace(one, C=1, gin=True, reverse_permutation=True, seed=1024))
    for k, S in enumerate(((), (1,), (1, 1), (1, 1, 1))):
        yield Listed(Recipe(C=2 + k % 2, S=S, gin=True, subnet="constant", dialect=dialect, seed=1030 + k), True)
        yield Listed(Recipe(C=3 - k % 2, S=S, gin=True, reverse_permutation=True, dialect=dialect, seed=1034 + k))
    for k, alpha in enumerate((8.0, 2.0, 16.0)):
        yield Listed(replace(given, alpha=alpha, clamp="saturated", affine="EXP", seed=1040 + k), True, steps=k == 0)
        yield Listed(replace(one, alpha=alpha, clamp="saturated", gin=True, soft=True, seed=1043 + k))
    for k, gin in enumerate((False, True, False)):
        small = replace(given, affine="EXP", scale="one", gin=gin, clamp="linear", seed=1050 + k)
        yield Listed(small, True, "small", steps=k == 0)
    for k, reflections in enumerate((4, 5, 7)):
        soft = replace(one, C=3, soft=True, reflections=reflections, clamp="linear", alpha=0.5, seed=1060 + k)
        yield Listed(soft)
    for k, reverse in enumerate((False, True)):
        many = replace(one, C=6, conditions=(1, 3, 2), soft=True, reverse_permutation=reverse, seed=1070 + k)
        yield Listed(many)
    for k, (B, C, S) in enumerate(((1, 36, ()), (1, 2, (257,)), (66, 3, ()))):
        yield Listed(replace(given, B=B, C=C, S=S, reverse_permutation=k == 0, seed=1075 + k), True)
    if dialect != Dialect.FREIA_MAIN:
        yield Listed(replace(given, alpha=0.0, seed=1080), True)
        yield Listed(replace(one, alpha=0.0, soft=True, conditions=(2,), reverse_permutation=True, seed=1081))


LISTING: dict[str, tuple[Listed, ...]] = {d.value: (*_grid(d.value), *_edges(d.value)) for d in Dialect}

KINDS = ((False, "curved"), (True, "curved"), (False, "saturated"), (True, "linear"))


def for_spec(spec: BlockSpec, batch: int, seed: int) -> list[Listed]:
    """Four vectors for a specification: subnet and clamp vary, the first two have the steps.

    Raises ValueError where no recipe makes a case of this specification.
    """
    found = []
    for k, (given, clamp) in enumerate(KINDS):
        recipe = Recipe(
            B=batch,
            C=spec.C,
            S=spec.S,
            conditions=tuple(d[0] for d in spec.dims_c),
            affine=spec.global_affine_type,
            g=spec.global_affine_init,
            alpha=spec.affine_clamping,
            gin=spec.gin_block,
            soft=spec.permute_soft,
            reflections=spec.learned_householder_permutation,
            reverse_permutation=spec.reverse_permutation,
            subnet="constant" if given else "linear",
            clamp=clamp,
            dialect=spec.dialect,
            seed=seed + k,
        )
        found.append(Listed(recipe, given, steps=k < 2))
        made = found[-1].case().spec
        if made != spec:
            odd = next(f.name for f in fields(spec) if getattr(made, f.name) != getattr(spec, f.name))
            raise ValueError(
                f"{odd}={getattr(spec, odd)!r} with batch={batch} is not drawn, since it would be two edges at once: "
                f"an empty batch, one channel, reflections of a hard permutation, affine_clamping 0. Give one of them."
            )
    return found
