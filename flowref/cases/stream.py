"""Where cases come from: covering rows, the same in every run, and strategies that search.

    rows         a covering array of recipes, and rows for sizes that no array would reach
    edge_rows    a handful at one edge
    recipes      a Hypothesis strategy of recipes: structure, magnitudes and a seed; it shrinks to small sizes,
                 flags off, seed 0
    narrow       both follow a law's ``fix`` by changing fields, never by filtering
    misfit       what a recipe that was made elsewhere lacks of a ``fix``

``fix`` maps a field of Recipe to the value that it must have, or to a tuple of allowed ones (for S and conditions,
themselves tuples: to one tuple of numbers, or to a tuple of such). ``max_CN`` and ``max_B`` limit the size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from functools import cache
from typing import Any

from hypothesis import strategies as st

from flowref.cases.covering import covering_array
from flowref.cases.recipe import CHOICES, Recipe
from flowref.cases.regimes import EDGES
from flowref.spec import Dialect

Fields = dict[str, Any]
Fix = Mapping[str, Any]

FIELDS = tuple(f.name for f in fields(Recipe))
LIMITS = ("max_CN", "max_B")
ALPHAS = (2.0, 1.0, 0.5, 3.0, 1.9, 0.1, 5.0)
SHAPES: dict[int, dict[str, tuple[int, ...]]] = {  # rank -> one pixel; square; neither
    0: {"one": (), "square": (), "uneven": ()},
    1: {"one": (1,), "square": (2,), "uneven": (5,)},
    2: {"one": (1, 1), "square": (3, 3), "uneven": (2, 3)},
    3: {"one": (1, 1, 1), "square": (2, 2, 2), "uneven": (3, 1, 2)},
}
# Fields that an edge settles, whatever ``fix`` says.
AT_EDGE = {"batch-0": {"B"}, "channels-1": {"C"}, "reflections-hard": {"soft", "reflections"}, "alpha-0": {"alpha"}}
PROFILES = ("smoke", "ci", "nightly")

# The constructor's flags, then what surrounds them.
FLAGS: dict[str, tuple[Any, ...]] = {
    "rank": (0, 1, 2, 3),
    "affine": ("SOFTPLUS", "SIGMOID", "EXP"),
    "mixing": ("hard", "soft", "reflections"),
    "gin": (False, True),
    "reverse_permutation": (False, True),
}
WIDTH: dict[str, tuple[Any, ...]] = {
    "subnet": ("linear", "convolutional", "network", "activation", "constant", "zero"),
    "layout": CHOICES["layout"],
    "C": (4, 3, 2, 5, 6, 9),
    "B": (2, 1, 3, 5),
    "conditions": ((), (2,), (1, 2), (1, 3, 2)),
    "reflections": (1, 2, 3, "over"),
    "clamp": ("curved", "saturated", "linear"),
    "shape": ("uneven", "square", "one"),
    "g": ("middle", "small", "large"),
}


def _contradicts(one: tuple[str, Any], other: tuple[str, Any]) -> bool:
    """Whether a recipe would change one of two values because of the other."""
    for (name, value), (by, because) in ((one, other), (other, one)):
        if name == "subnet" and value == "convolutional" and (by, because) == ("rank", 0):
            return True
        if name == "clamp" and value != "linear" and by == "subnet" and because in ("zero", "activation"):
            return True
        if name == "layout" and value in ("expanded", "transposed") and (by, because) == ("B", 1):
            return True
        if name == "layout" and value == "channels-last" and (by, because) in (("rank", 0), ("shape", "one")):
            return True
    return False


# Rows that no array of small sizes holds: one axis large at a time, and pairs that search rarely draws.
LARGE: tuple[Fields, ...] = (
    {"C": 17, "B": 1, "soft": True, "dense": True, "subnet": "linear"},
    {"C": 33, "B": 1, "S": (2,), "soft": True, "reflections": 3, "alpha": 1.0, "subnet": "network", "conditions": (3,)},
    {"C": 65, "B": 2, "affine": "EXP", "subnet": "constant", "reverse_permutation": True, "gin": True},
    {"C": 129, "B": 1, "soft": True, "affine": "SIGMOID", "subnet": "linear", "clamp": "saturated"},
    {"C": 257, "B": 1, "soft": True, "affine": "EXP", "subnet": "network", "reverse_permutation": True},
    {"B": 33, "C": 3, "subnet": "network", "reverse_permutation": True},
    {"B": 65, "C": 4, "S": (2,), "soft": True, "affine": "EXP", "subnet": "network", "conditions": (2,)},
    {"B": 67, "C": 5, "affine": "SIGMOID", "gin": True, "subnet": "linear", "layout": "strided"},
    {"S": (257,), "C": 2, "B": 2, "subnet": "convolutional", "clamp": "linear"},
    {"S": (17, 31), "C": 3, "B": 2, "soft": True, "gin": True, "affine": "EXP", "layout": "channels-last"},
    {"S": (1030,), "C": 4, "B": 1, "affine": "SIGMOID", "subnet": "network", "soft": True},
    {"S": (11, 9, 11), "C": 2, "B": 2, "affine": "EXP", "subnet": "constant", "reverse_permutation": True},
    {"C": 2, "B": 3, "S": (1,), "gin": True, "subnet": "linear", "soft": True},
    {"C": 3, "B": 2, "gin": True, "subnet": "network", "affine": "EXP", "reverse_permutation": True},
)


@cache
def _array(profile: str) -> tuple[Fields, ...]:
    """The rows of a profile before any ``fix``."""
    if profile not in PROFILES:
        raise ValueError(f"profile={profile!r} has no rows: need one of {', '.join(PROFILES)}. Choose one of them.")
    names = (*FLAGS, *WIDTH)
    wanted = [(3, tuple(FLAGS)), (2, names)] if profile != "smoke" else [(2, tuple(FLAGS)), (1, names)]
    found = [_fields(row, turn) for turn, row in enumerate(covering_array(FLAGS | WIDTH, wanted, _contradicts))]
    found += [
        {"seed": 1000 + turn, **row} for turn, row in enumerate(LARGE) if profile != "smoke" or turn in (1, 6, 11)
    ]
    return tuple(found)


def _fields(chosen: Fields, turn: int) -> Fields:
    """A row of the array as fields of Recipe; what the array does not vary goes round by turn."""
    row: Fields = dict(chosen)
    mixing, number = row.pop("mixing"), row.pop("reflections")
    row["S"] = SHAPES[row.pop("rank")][row.pop("shape")]
    row["soft"] = mixing != "hard"
    row["reflections"] = 0 if mixing != "reflections" else row["C"] + 1 + turn % 2 if number == "over" else number
    top = 10 * (1 - 2.0**-20) if row["affine"] == "SIGMOID" else (40.0, 2.0**100)[turn % 2]
    row["g"] = {"middle": (1.0, 0.3, 3.0)[turn % 3], "small": (2.0**-100, 1e-3)[turn % 2], "large": top}[row["g"]]
    row["alpha"] = ALPHAS[turn % len(ALPHAS)]
    row["size"] = (0, 1, -1, 0, 2, -2)[turn % 6]
    row["scale"] = "wide" if turn % 8 == 5 else "drawn"
    return {**row, "seed": turn + 1}


def rows(profile: str, dialect: str = "anomalib", fix: Fix | None = None) -> list[Recipe]:
    """The covering rows of a profile, narrowed to ``fix``; twins that narrowing made are left out.

    smoke: pairs of the constructor's flags. ci and nightly: triples of them, pairs of these with conditions, clamp,
    subnet, layout and sizes, and rows with one large axis.
    """
    found = [narrow(row, dialect, fix or {}, turn=turn) for turn, row in enumerate(_array(profile))]
    return list(dict.fromkeys(found))


def edge_rows(edge: str, dialect: str = "anomalib", fix: Fix | None = None) -> list[Recipe]:
    """A handful of rows at one edge: with and without reflections, GIN, reverse permutation, every rank.

    Empty where the dialect has no such edge (alpha-0 in freia-main).
    """
    _check_edge(edge)
    if edge == "alpha-0" and dialect == Dialect.FREIA_MAIN:
        return []
    handful: tuple[Fields, ...] = (
        {},
        {"S": (3,), "soft": True, "gin": True, "C": 3, "affine": "EXP"},
        {"S": (2, 3), "soft": True, "reflections": 2, "conditions": (2,), "affine": "SIGMOID", "alpha": 1.0},
        {"S": (2, 1, 2), "reverse_permutation": True, "C": 5, "subnet": "network", "conditions": (1, 2)},
        {"soft": True, "reflections": 3, "reverse_permutation": True, "gin": True, "subnet": "constant", "alpha": 0.5},
        {"S": (2, 2), "soft": True, "reflections": 1, "C": 3, "subnet": "convolutional", "affine": "EXP", "alpha": 1.0},
    )
    found = [
        narrow({"seed": 2001 + turn, **row}, dialect, fix or {}, edge=edge, turn=turn)
        for turn, row in enumerate(handful)
    ]
    return list(dict.fromkeys(found))


def _check_edge(edge: str | None) -> None:
    if edge is not None and edge not in EDGES:
        raise ValueError(f"edge={edge!r} is unknown: need one of {', '.join(EDGES)}, or None. Choose one of them.")


def allowed(fix: Fix, name: str) -> tuple[Any, ...] | None:
    """The values that ``fix`` allows for a field; None where it says nothing."""
    if name not in fix:
        return None
    value = fix[name]
    if name in ("S", "conditions"):
        single = not value or not isinstance(value[0], tuple)
    else:
        single = not isinstance(value, tuple)
    return (value,) if single else value


def narrow(row: Fields, dialect: str, fix: Fix, *, edge: str | None = None, turn: int = 0) -> Recipe:
    """The recipe nearest to the row that ``fix`` allows, at the edge or (None) at none.

    A field that is not allowed takes one of the allowed values, by turn; a field that ``fix`` leaves free gives way
    where it contradicts one that is fixed. Away from the edge of hard reflections, soft=False leaves no reflections.
    """
    unknown = sorted(set(fix) - {*FIELDS, *LIMITS})
    if unknown:
        near = get_close_matches(unknown[0], [*FIELDS, *LIMITS], n=1)
        raise ValueError(
            f"fix[{unknown[0]!r}] names no field of Recipe: need one of {', '.join((*FIELDS, *LIMITS))}. "
            + (f"Did you mean {near[0]!r}?" if near else "Use one of them.")
        )
    row = {**{f.name: f.default for f in fields(Recipe)}, **row} | {"dialect": str(dialect)}
    for name in fix:
        choice = allowed(fix, name) if name in FIELDS else None
        if choice and row[name] not in choice:
            row[name] = choice[turn % len(choice)]
    free = lambda name: name not in fix  # noqa: E731

    # What a fixed field needs from the free ones.
    if row["scale"] == "one" and free("affine"):
        row["affine"] = "EXP"
    if row["subnet"] == "convolutional" and not free("subnet") and not row["S"] and free("S"):
        row["S"] = (2, 3)
    if row["clamp"] != "linear" and not free("clamp") and free("subnet") and row["subnet"] in ("zero", "activation"):
        row["subnet"] = ("linear", "network")[turn % 2]
    if not free("layout") and row["layout"] != "contiguous":
        if row["layout"] in ("expanded", "transposed") and free("B"):
            row["B"] = max(row["B"], 2)
        if row["layout"] == "channels-last" and math.prod(row["S"]) < 2 and free("S"):
            row["S"] = (2, 3)

    # Edges, and away from them.
    edge_fields: Fields = {}
    if edge == "batch-0":
        edge_fields = {"B": 0}
    elif edge == "channels-1":
        edge_fields = {"C": 1}
    elif edge == "reflections-hard":
        edge_fields = {"soft": False, "reflections": row["reflections"] or 1 + turn % 3}
    elif edge == "alpha-0":
        edge_fields = {"alpha": 0.0}
    row |= edge_fields
    if edge != "batch-0":
        row["B"] = max(row["B"], 1)
    if edge != "channels-1":
        row["C"] = max(row["C"], 2)
    if edge != "alpha-0" and row["alpha"] == 0:
        row["alpha"] = 2.0
    if edge != "reflections-hard" and row["reflections"] and not row["soft"]:
        soft_only = allowed(fix, "soft")
        if soft_only is None or True in soft_only:
            row["soft"] = True
        else:
            row["reflections"] = 0
    _limit(row, fix, turn)
    return Recipe(**row)


def misfit(recipe: Recipe, fix: Fix, edge: str | None) -> str | None:
    """What ``fix`` asks for and a recipe at this edge hasn't, in words; None for every recipe that comes from here."""
    sizes = {"B"} if "max_B" in fix else set()  # a limit may have cut them below what is asked for
    sizes |= {"C", "S"} if "max_CN" in fix else set()
    for name in sorted((set(fix) & set(FIELDS)) - AT_EDGE.get(edge or "", set()) - sizes):
        choice = allowed(fix, name) or ()
        # A recipe settles what its other fields don't allow, so what is asked for need not stand there as it is.
        if not any(replace(recipe, **{name: value}) == recipe for value in choice):
            return f"{name}={' or '.join(map(repr, dict.fromkeys(choice)))}, not {getattr(recipe, name)!r}"
    for limit, what, size in (("max_B", "B", recipe.B), ("max_CN", "C·N", recipe.CN)):
        if size > fix.get(limit, size):
            return f"{what} up to {fix[limit]}, not {size}"
    return None


def _limit(row: Fields, fix: Fix, turn: int) -> None:
    """Cut B, S and C down to ``max_B`` and ``max_CN``, keeping the rank and, where it can, one large axis uneven."""
    if row["B"] > fix.get("max_B", row["B"]):
        row["B"] = fix["max_B"]
    limit = fix.get("max_CN", math.inf)
    S = list(row["S"])
    if row["C"] > limit:
        row["C"] = max(2, limit - turn % 2)
    while row["C"] * math.prod(S) > limit and max(S, default=1) > 1:
        S[S.index(max(S))] = max(1, min(max(S) - 1, limit // row["C"]))
    row["S"] = tuple(S)


# What the search draws from; the first value is the one that it shrinks to.
SEARCHED: dict[str, tuple[Any, ...]] = {
    "gin": (False, True),
    "reverse_permutation": (False, True),
    "affine": ("SOFTPLUS", "SIGMOID", "EXP"),
    "alpha": (2.0, 1.0, 0.5, 3.0, 1.9, 0.1, 5.0),
    "subnet": ("linear", "constant", "network", "convolutional", "activation", "zero"),
    "clamp": ("curved", "curved", "saturated", "linear"),
    "scale": ("drawn",) * 7 + ("wide", "one"),
    "offset": ("drawn",) * 6 + ("dyadic", "zero"),
    "permutation": ("drawn",) * 11 + ("identity",),
    "layout": ("contiguous", *CHOICES["layout"]),
    "size": (0, 1, -1, 2, -2),
    "bits": (24,),
}
# Sizes: small ones, repeated so that they are drawn more often, then those past a boundary.
CHANNELS = (2, 3, 4, 5, 6, 7, 8, 9, 11)
CHANNELS_LARGE = (17, 33, 65, 129, 257)
BATCHES = (1, 2, 3, 4, 5)
BATCHES_LARGE = (33, 35, 65, 67, 130)
PIXELS = ((), (), (), (1,), (2,), (3,), (7,), (1, 1), (2, 2), (2, 3), (4, 3), (1, 1, 1), (2, 2, 2), (2, 1, 3))
PIXELS_LARGE = ((257,), (19, 19), (7, 6, 7), (1025,), (33, 34), (11, 9, 11))
CONDITIONS = ((), (), (1,), (2,), (1, 2), (3, 1), (1, 3, 2), (2, 1, 1, 1))


@st.composite
def recipes(
    draw: st.DrawFn, dialect: str = "anomalib", fix: Fix | None = None, edge: str | None = None
) -> Recipe:  # fmt: skip
    """A recipe in the interior (``edge=None``) or at one edge, narrowed to ``fix``."""
    _check_edge(edge)
    fix = fix or {}

    def pick(name: str, values: tuple[Any, ...]) -> Any:
        choice = allowed(fix, name) or values
        return choice[0] if len(choice) == 1 else draw(st.sampled_from(choice))

    row: Fields = {
        "C": pick("C", CHANNELS * 3 + CHANNELS_LARGE),
        "B": pick("B", BATCHES * 6 + BATCHES_LARGE),
        "S": pick("S", PIXELS * 3 + PIXELS_LARGE),
        "conditions": pick("conditions", CONDITIONS),
    }
    _one_large(row, fix)
    mixing = draw(st.sampled_from((0, 0, 1, 1, 2)))  # hard, soft, reflections
    row["soft"] = pick("soft", (mixing > 0,))
    row["reflections"] = pick("reflections", (1, 2, 3, row["C"] + 1 if row["C"] < 8 else 5) if mixing == 2 else (0,))
    for name, values in SEARCHED.items():
        row[name] = pick(name, values)
    row["g"] = pick("g", ()) if "g" in fix else _init(draw, row["affine"])
    row["dense"] = pick("dense", (False,) * 7 + (True,)) if row["C"] > 8 else False
    seed = draw(st.integers(0, 2**32 - 1))
    return narrow({**row, "seed": seed}, dialect, fix, edge=edge, turn=seed)


def _one_large(row: Fields, fix: Fix) -> None:
    """Leave one axis large, so that the case stays cheap: the channels, else the samples, else the pixels."""
    pixels = math.prod(row["S"])
    most: Fields = {}
    if row["C"] > max(CHANNELS):
        most = {"B": 2, "S": 4}
    elif row["B"] > max(BATCHES):
        most = {"C": 5, "S": 4}
    elif pixels > 12:
        most = {"C": 4, "B": 2}
    for name, limit in most.items():
        if name in fix:
            continue
        if name != "S":
            row[name] = min(row[name], limit)
        elif pixels > limit:
            row["S"] = (2,) * (len(row["S"]) > 0)


def _init(draw: st.DrawFn, affine: str) -> float:
    """g: from 1/8 to about 10, or evenly in log g over its whole range, near both ends too; shrinks to 1."""
    ends = draw(st.booleans())
    exponent, mantissa = draw(st.integers(-120, 120) if ends else st.integers(-3, 3)), draw(st.integers(16, 31))
    if affine == "SIGMOID" and exponent > 2:  # 10 from below
        return 10 * (1 - 2.0 ** -min(exponent // 2, 20))
    return math.ldexp(mantissa, exponent - 4)
