"""A recipe: the few small numbers from which a case follows.

`Recipe(...)` is what is drawn, stored, printed and pasted; `Recipe(...).case()` makes the case. Every value of a
field goes with every other: `Recipe.__post_init__` alone says which gives way, so each recipe is a legal case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch

from flowref.cases.bulk import Array, Bulk, round_to_bits
from flowref.cases.case import Case
from flowref.cases.layouts import LAYOUTS
from flowref.cases.subnets import PROBES, SubnetSpec
from flowref.spec import AFFINE_TYPES, MAX_RANK, BlockSpec, Dialect

# |argument of tanh| by regime: constants lie in [2**(top - 2), 2**(top + 1)), other subnets about 2**top.
CLAMPS = {"linear": -6, "curved": 0, "saturated": 6}
SCALES = ("drawn", "one", "wide")
OFFSETS = ("drawn", "zero", "dyadic")
PERMUTATIONS = ("drawn", "identity")
WEIGHT_BITS = 8
# s of `scale="drawn"` (σ about 1/8 to 5) and of "wide" (towards both ends; softplus on both sides of its threshold).
DRAWN = {"SIGMOID": (-2.0, 3.0), "SOFTPLUS": (-1.0, 40.0), "EXP": (-1.5, 1.5)}
WIDE = {"SIGMOID": (-15.0, 15.0), "SOFTPLUS": (-30.0, 90.0), "EXP": (-8.0, 8.0)}
CHOICES: dict[str, tuple[str, ...]] = {
    "affine": AFFINE_TYPES,
    "subnet": tuple(PROBES),
    "clamp": tuple(CLAMPS),
    "scale": SCALES,
    "offset": OFFSETS,
    "permutation": PERMUTATIONS,
    "layout": LAYOUTS,
    "dialect": tuple(d.value for d in Dialect),
}


@dataclass(frozen=True, repr=False)
class Recipe:
    """A drawn case, in small. Raises ValueError for a value outside its field's own range; the rest is settled.

    ========================  ======================================================================
    B, C, S, conditions       sizes; ``conditions`` holds each condition's channels
    affine … dialect          the block's arguments
    subnet                    zero, constant, linear, convolutional, network, activation; only where a law asks for
                              them: parameter, buffer, view, frozen (see `flowref.cases.subnets.KEPT`)
    clamp                     |argument of tanh|: linear 2**-6, curved 1/4 to 2, saturated 16 and more
    scale                     drawn: σ differs in every channel, about 1/8 to 5; wide: towards both ends;
                              one: σ = 1 exactly (EXP, s = 0)
    offset                    drawn: 1/4 to 2 and of either sign; dyadic: few bits; zero
    permutation               drawn: without special structure; identity
    size                      x and conditions are about 2**size
    bits                      significant bits of every number, so that it is exact in the narrowest dtype of the run
    dense                     past 8 channels: full W, reflections and weights instead of sparse ones
    ========================  ======================================================================
    """

    B: int = 2
    C: int = 4
    S: tuple[int, ...] = ()
    conditions: tuple[int, ...] = ()
    affine: str = "SOFTPLUS"
    g: float = 1.0
    alpha: float = 2.0
    gin: bool = False
    soft: bool = False
    reflections: int = 0
    reverse_permutation: bool = False
    subnet: str = "linear"
    clamp: str = "curved"
    scale: str = "drawn"
    offset: str = "drawn"
    permutation: str = "drawn"
    size: int = 0
    bits: int = 24
    layout: str = "contiguous"
    dense: bool = False
    dialect: str = "anomalib"
    seed: int = 0

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731 (frozen dataclass)
        put("dialect", getattr(self.dialect, "value", self.dialect))
        put("S", tuple(self.S))
        put("conditions", tuple(self.conditions))
        _check(self)
        # At most one edge: the batch, then the channels, then hard reflections, then α keep theirs.
        if self.B == 0 and self.C == 1:
            put("C", 2)
        if self.B == 0 or self.C == 1:
            put("soft", self.soft or self.reflections > 0)
        freia = self.dialect == Dialect.FREIA_MAIN
        if self.alpha == 0 and (freia or self.B == 0 or self.C == 1 or (self.reflections and not self.soft)):
            put("alpha", 2.0)
        # g within the activation's range, by the nearest that is drawn anywhere.
        if self.affine == "SIGMOID" and self.g >= 10:
            put("g", 10 * (1 - 2.0**-20))
        if self.scale == "one" and self.affine != "EXP":
            put("scale", "drawn")
        # A subnet that the sizes allow, and a clamp that the subnet reaches.
        if self.C == 1 or (self.subnet == "convolutional" and not self.S):
            put("subnet", "linear")
        if self.subnet == "view" and (self.C + 1) // 2 + sum(self.conditions) < self.C // 2 * 2:
            put("subnet", "linear")
        if self.subnet == "zero":
            put("clamp", "linear")
        if self.subnet in ("activation", "view"):  # |a| < 1; a is x
            documented = self.dialect == Dialect.DOCUMENTED
            put("clamp", "curved" if documented and self.clamp != "linear" else "linear")
        # A layout that differs from the contiguous one: stride 0 needs two samples, swapped axes two of each.
        pixels = math.prod(self.S)
        if (
            (self.layout in ("expanded", "transposed") and self.B < 2)
            or (self.layout == "transposed" and self.C < 2)
            or (self.layout == "channels-last" and (self.C < 2 or pixels < 2))
        ):
            put("layout", "contiguous")
        if self.C <= 8:
            put("dense", False)

    def __repr__(self) -> str:
        """Only what differs from the defaults, pasteable."""
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return f"Recipe({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"

    @property
    def CN(self) -> int:
        """Channels times pixels, the size of one sample."""
        return self.C * math.prod(self.S)

    def json(self) -> dict[str, Any]:
        """The fields as plain JSON values; ``Recipe(**fields)`` takes them back."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def case(self) -> Case:
        """The case: the same on every machine."""
        return _make(self)


def _check(r: Recipe) -> None:
    for name, allowed in CHOICES.items():
        value = getattr(r, name)
        if value not in allowed:
            near = get_close_matches(str(value), allowed, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}?" if near else f"Choose one of {', '.join(map(repr, allowed))}."
            raise ValueError(f"{name}={value!r} is unknown: need one of {', '.join(allowed)}. {hint}")
    ranges: list[tuple[str, Any, Callable[[Any], bool], str]] = [
        ("B", r.B, lambda v: v >= 0, "0 or more samples"),
        ("C", r.C, lambda v: v >= 1, "1 or more channels"),
        ("S", r.S, lambda v: len(v) <= MAX_RANK and all(n >= 1 for n in v), f"at most {MAX_RANK} axes of 1 or more"),
        ("conditions", r.conditions, lambda v: all(n >= 1 for n in v), "1 or more channels each"),
        ("reflections", r.reflections, lambda v: v >= 0, "0 or more reflections"),
        ("g", r.g, lambda v: 2.0**-126 <= v <= 2.0**124, "2**-126 <= g <= 2**124, so that Ψ(s) is normal in float32"),
        ("alpha", r.alpha, lambda v: v == 0 or 2.0**-20 <= v <= 16, "0, or 2**-20 <= alpha <= 16, for a legal exp(l)"),
        ("size", r.size, lambda v: abs(v) <= 8, "-8 <= size <= 8, so that every quantity is legal"),
        ("bits", r.bits, lambda v: 8 <= v <= 53, "8 (bfloat16) to 53 (float64) significant bits"),
        ("seed", r.seed, lambda v: 0 <= v < 2**64, "0 <= seed < 2**64"),
    ]  # fmt: skip
    for name, value, holds, need in ranges:
        if not holds(value):
            raise ValueError(f"{name}={value!r} is outside its range: need {need}. Give such a value.")


def _make(r: Recipe) -> Case:
    bulk = Bulk(r.seed, r.bits)
    spec = BlockSpec(
        dims=(r.C, *r.S),
        dims_c=tuple((k, *r.S) for k in r.conditions),
        affine_clamping=r.alpha,
        gin_block=r.gin,
        global_affine_init=r.g,
        global_affine_type=r.affine,
        permute_soft=r.soft,
        learned_householder_permutation=r.reflections,
        reverse_permutation=r.reverse_permutation,
        dialect=Dialect(r.dialect),
    )
    subnet = SubnetSpec(r.subnet, spec.subnet_in, spec.subnet_out, spec.rank)
    state = _global_affine(r, bulk) | _mixing(r, bulk)
    state |= {f"subnet.{name}": value for name, value in _parameters(r, subnet, bulk).items()}
    samples = min(r.B, 1) if r.layout == "expanded" else r.B  # one sample, repeated
    x, *c = (
        np.broadcast_to(bulk.spread(name, (samples, n, *r.S), r.size), (r.B, n, *r.S))
        for name, n in (("x", r.C), *((f"c{k}", n) for k, n in enumerate(r.conditions)))
    )
    return Case(
        spec=spec,
        subnet=subnet,
        state={name: _tensor(value) for name, value in state.items()},
        x=_tensor(x),
        c=tuple(_tensor(v) for v in c),
        gy=_tensor(bulk.spread("gy", x.shape)),
        gj=_tensor(bulk.spread("gj", (r.B,))),
        layout=r.layout,
        recipe=r,
    )


def _tensor(value: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(value, np.float64, order="C"))


def _global_affine(r: Recipe, bulk: Bulk) -> dict[str, Array]:
    """s and o, different in every channel."""
    if r.scale == "one":
        s = np.zeros(r.C)
    else:
        s = bulk.between("global_scale", r.C, *(WIDE if r.scale == "wide" else DRAWN)[r.affine])
    if r.offset == "zero":
        o = np.zeros(r.C)
    elif r.offset == "dyadic":  # ±1/8, ±2/8 …, each once
        place = bulk.shuffled("global_offset", r.C)
        o = (place // 2 + 1).astype(np.float64) * np.where(place % 2, -0.125, 0.125)
    else:
        signs = np.where(bulk.words("global_offset/signs", r.C) & np.uint64(1), -1.0, 1.0)
        o = bulk.between("global_offset", r.C, 0.25, 2.0) * signs
    column = (1, r.C, *(1,) * len(r.S))
    return {"global_scale": s.reshape(column), "global_offset": o.reshape(column)}


def _mixing(r: Recipe, bulk: Bulk) -> dict[str, Array]:
    """W, rounded; past 8 channels sparse unless dense. Reflections act on 8 channels, with different lengths."""
    if r.permutation == "identity":
        w = np.eye(r.C)
    elif r.soft:
        w = bulk.rotation("w", r.C, r.dense)
    else:
        w = np.eye(r.C)[bulk.permutation("w", r.C)]
    if not r.reflections:
        square = (r.C, r.C, *(1,) * len(r.S))
        return {"w_perm": w.reshape(square), "w_perm_inv": w.T.reshape(square)}
    v = bulk.spread("vk", (r.reflections, r.C))
    for k in range(r.reflections):
        v[k] *= 2.0 ** (k % 5 - 2)
        if r.C > 8 and not r.dense:
            v[k, bulk.shuffled(f"vk/{k}", r.C)[8:]] = 0
    return {"w_0": w, "vk_householder": v}


def _parameters(r: Recipe, subnet: SubnetSpec, bulk: Bulk) -> dict[str, Array]:
    """The probe's parameters, such that tanh's argument has the size of ``clamp`` and the shift is about 1."""
    shapes, A = subnet.shapes, subnet.outputs // 2
    tenth = 1 if r.dialect == Dialect.DOCUMENTED else 10
    # Rows of the answer: the first A become the argument k (freia-main: k/α), the others the shift.
    want_k = tenth * (r.alpha if r.dialect == Dialect.FREIA_MAIN else 1.0) * 2.0 ** CLAMPS[r.clamp]
    rows = np.repeat([want_k, float(tenth)], A)
    if r.subnet == "activation":  # the argument of the subnet's own tanh
        rows = np.minimum(rows, 1.0)
    given = 2.0**r.size  # root mean square of x
    if r.subnet in ("zero", "view"):
        return {}
    if r.subnet in ("constant", "parameter", "buffer"):
        values = round_to_bits(rows * bulk.spread("subnet.coefficients", (2 * A,)), r.bits)
        return {"coefficients": values.reshape(shapes["coefficients"])}
    if r.subnet == "network":
        hidden = np.ones(subnet.hidden)
        return {
            "weight_1": _weight(r, bulk, "subnet.weight_1", shapes["weight_1"], hidden / given),
            "bias_1": _few_bits(bulk.spread("subnet.bias_1", shapes["bias_1"], -1)),
            "weight_2": _weight(r, bulk, "subnet.weight_2", shapes["weight_2"], rows * 1.5),
            "bias_2": _few_bits(rows * bulk.spread("subnet.bias_2", shapes["bias_2"], -1)),
        }
    return {
        "weight": _weight(r, bulk, "subnet.weight", shapes["weight"], rows / given),
        "bias": _few_bits(rows * bulk.spread("subnet.bias", shapes["bias"], -1)),
    }


def _weight(r: Recipe, bulk: Bulk, label: str, shape: tuple[int, ...], rows: Array) -> Array:
    """A weight (m, n) whose row i makes numbers of size ``rows[i]`` out of numbers of size 1.

    Past 8 inputs a row reads 4 of them, in turn, so that every input is read.
    """
    m, n = shape
    weight, reads = bulk.spread(label, shape), n
    if n > 8 and not r.dense:
        order, mask, reads = bulk.shuffled(label + "/order", n), np.zeros(shape), 4
        for j in range(4):
            mask[np.arange(m), order[(4 * np.arange(m) + j) % n]] = 1
        weight = weight * mask
    return _few_bits(weight * (rows / math.sqrt(reads))[:, None])


def _few_bits(values: Array) -> Array:
    return round_to_bits(values, WEIGHT_BITS)
