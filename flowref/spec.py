"""What an AllInOneBlock is asked to be: its constructor's arguments, checked once, as frozen values.

Every implementation here (reference, fast block, probes of the suite) takes its arguments through
`BlockSpec.from_arguments`, so an argument is refused in one place and in one wording:
argument, value, what is allowed and why, what to do.

    BlockSpec        the checked arguments, and the sizes that follow from them
    Dialect          which of the three published maps is meant (docs/block.md)
    IllegalArgument  what a refused argument raises; both a ValueError and a TypeError may be it
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from enum import Enum
from typing import Any


class Dialect(str, Enum):
    """The three maps known under one name. They agree at α = 1 only in part; docs/block.md has the table."""

    ANOMALIB = "anomalib"
    FREIA_MAIN = "freia-main"
    DOCUMENTED = "documented"

    __str__ = str.__str__  # as StrEnum has it, from Python 3.11 on


AFFINE_TYPES = ("SIGMOID", "SOFTPLUS", "EXP")
MAX_RANK = 3


class IllegalArgument(ValueError):
    """A constructor's argument that no block can honour: ``name``, ``value``, what is needed, what to do."""

    def __init__(self, name: str, value: object, problem: str, need: str, remedy: str) -> None:
        self.name, self.value = name, value
        self._words = (name, value, problem, need, remedy)
        super().__init__(f"{name}={_shown(value)} {problem}: need {need}. {remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        return IllegalArgument, self._words  # so that it passes between processes


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(word: object, known: Sequence[str]) -> str:
    close = get_close_matches(str(word), known, n=1, cutoff=0.5) or get_close_matches(
        str(word).upper(), known, n=1, cutoff=0.5
    )
    return f"Did you mean {close[0]!r}?" if close else f"Choose one of {', '.join(map(repr, known))}."


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _shape(name: str, value: Any, example: str) -> tuple[int, ...]:
    need = "a tuple of whole numbers, channels first, without the batch axis"
    if not isinstance(value, (tuple, list)) or not all(_is_whole(n) for n in value):
        raise IllegalArgument(name, value, "is no shape", need, f"Give for example {example}.")
    if not value:
        raise IllegalArgument(name, value, "has no axis", "at least the channel axis", f"Give for example {example}.")
    return tuple(int(n) for n in value)


def _number(name: str, value: object) -> float:
    if not isinstance(value, numbers.Real):
        raise IllegalArgument(name, value, "is no number", "a real number", "Give a float.")
    number = float(value)
    if not math.isfinite(number):
        raise IllegalArgument(name, value, "is not finite", "a finite number", "Give a finite value.")
    return number


@dataclass(frozen=True)
class BlockSpec:
    """The checked arguments of an AllInOneBlock.

    Shapes: an input is ``(B, C, *S)``; ``dims = (C, *S)``, ``dims_c`` holds one ``(C_k, *S)`` a condition.
    Build one from a constructor's raw arguments with `from_arguments`; the dataclass's own
    constructor runs the same checks.
    """

    dims: tuple[int, ...]
    dims_c: tuple[tuple[int, ...], ...] = ()
    affine_clamping: float = 2.0
    gin_block: bool = False
    global_affine_init: float = 1.0
    global_affine_type: str = "SOFTPLUS"
    permute_soft: bool = False
    learned_householder_permutation: int = 0
    reverse_permutation: bool = False
    dialect: Dialect = Dialect.ANOMALIB

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731 (frozen dataclass)
        try:
            put("dialect", Dialect(self.dialect))
        except ValueError:
            known = [d.value for d in Dialect]
            raise IllegalArgument(
                "dialect", self.dialect, "is unknown", "one of " + ", ".join(known), _nearest(self.dialect, known)
            ) from None
        put("dims", _input_shape(self.dims))
        put("dims_c", tuple(_condition_shape(k, d, self.S) for k, d in enumerate(self.dims_c)))
        put("affine_clamping", _clamping(self.affine_clamping, self.dialect))
        put("global_affine_type", _affine_type(self.global_affine_type))
        put("global_affine_init", _affine_init(self.global_affine_init, self.global_affine_type))
        put("learned_householder_permutation", _reflections(self.learned_householder_permutation))
        for name in ("gin_block", "permute_soft", "reverse_permutation"):
            put(name, bool(getattr(self, name)))

    @classmethod
    def from_arguments(
        cls, dims_in: object, dims_c: object = None, subnet_constructor: object = None, **flags: Any
    ) -> BlockSpec:
        """The spec for the documented constructor's arguments.

        Raises IllegalArgument (a ValueError) naming the argument, its value, what is allowed, what to do.
        """
        if not isinstance(dims_in, (tuple, list)) or not all(isinstance(d, (tuple, list)) for d in dims_in):
            raise IllegalArgument(
                "dims_in",
                dims_in,
                "is no list of shapes",
                "a list that holds one shape",
                "Give for example [(4, 8, 8)].",
            )
        if len(dims_in) != 1:
            raise IllegalArgument(
                "dims_in", dims_in, f"holds {len(dims_in)} shapes", "exactly one shape, as the block maps one tensor",
                "Give for example [(4, 8, 8)]; conditions go into dims_c.",
            )  # fmt: skip
        if dims_c is None:
            dims_c = ()
        if not isinstance(dims_c, (tuple, list)):
            raise IllegalArgument(
                "dims_c",
                dims_c,
                "is no list of shapes",
                "a list with one shape a condition",
                "Give for example [(2, 8, 8)].",
            )
        if not callable(subnet_constructor):
            raise IllegalArgument(
                "subnet_constructor", subnet_constructor, "can't be called",
                "a callable (channels_in, channels_out) -> torch.nn.Module",
                "Give for example lambda n, m: torch.nn.Linear(n, m).",
            )  # fmt: skip
        unknown = sorted(set(flags) - {f.name for f in fields(cls)})
        if unknown:
            raise TypeError(f"unknown argument {unknown[0]!r}. {_nearest(unknown[0], [f.name for f in fields(cls)])}")
        return cls(dims=dims_in[0], dims_c=tuple(dims_c), **flags)

    # Sizes, in the letters of docs/block.md.
    @property
    def C(self) -> int:
        """Channels of the input."""
        return self.dims[0]

    @property
    def S(self) -> tuple[int, ...]:
        """Spatial axes."""
        return self.dims[1:]

    @property
    def rank(self) -> int:
        """Number of spatial axes, 0 to 3."""
        return len(self.S)

    @property
    def N(self) -> int:
        """Pixels: the product of the spatial axes, 1 at rank 0."""
        return math.prod(self.S)

    @property
    def P(self) -> int:
        """Channels of the passive part."""
        return self.C - self.C // 2

    @property
    def A(self) -> int:
        """Channels of the active part."""
        return self.C // 2

    @property
    def subnet_in(self) -> int:
        """Channels that the subnet is given: the passive part, then the conditions."""
        return self.P + sum(d[0] for d in self.dims_c)

    @property
    def subnet_out(self) -> int:
        """Channels that the subnet answers with: A for the scaling, A for the shift."""
        return 2 * self.A


def _input_shape(value: object) -> tuple[int, ...]:
    dims = _shape("dims_in", value, "[(4, 8, 8)]")
    if len(dims) - 1 > MAX_RANK:
        raise IllegalArgument(
            "dims_in", value, f"has {len(dims) - 1} spatial axes", f"at most {MAX_RANK}, after the channel axis",
            "Fold axes together, or leave out the batch axis.",
        )  # fmt: skip
    if dims[0] < 1:
        raise IllegalArgument("dims_in", value, f"has {dims[0]} channels", "at least 1 channel", "Give C >= 1.")
    if min(dims) < 1:
        raise IllegalArgument(
            "dims_in", value, "has an axis without pixels", "every axis >= 1", "Give a non-empty shape."
        )
    return dims


def _condition_shape(k: int, value: object, S: tuple[int, ...]) -> tuple[int, ...]:
    name = f"dims_c[{k}]"
    dims = _shape(name, value, str((2, *S)))
    if dims[0] < 0:
        raise IllegalArgument(
            name, value, f"has {dims[0]} channels", "0 channels or more", f"Give for example {(2, *S)}."
        )
    if dims[1:] != S:
        raise IllegalArgument(
            name, value, f"has the spatial shape {dims[1:]}", f"the input's, {S}, as both are concatenated",
            f"Give {(dims[0], *S)}.",
        )  # fmt: skip
    return dims


def _clamping(value: object, dialect: Dialect) -> float:
    alpha = _number("affine_clamping", value)
    if alpha < 0:
        raise IllegalArgument(
            "affine_clamping", value, "is negative", "α >= 0, as it limits a magnitude: |l| <= α", f"Use {-alpha:g}."
        )
    if alpha == 0 and dialect is Dialect.FREIA_MAIN:
        raise IllegalArgument(
            "affine_clamping", value, "is zero", "α > 0 in the dialect freia-main, as l = α·tanh(k/α) divides by it",
            "Use a small α, or the dialect anomalib, where 0 switches the scaling off.",
        )  # fmt: skip
    return alpha


def _affine_type(value: object) -> str:
    if not isinstance(value, str) or value not in AFFINE_TYPES:
        raise IllegalArgument(
            "global_affine_type",
            value,
            "is unknown",
            "one of " + ", ".join(AFFINE_TYPES),
            _nearest(value, AFFINE_TYPES),
        )
    return value


def _affine_init(value: object, kind: str) -> float:
    g = _number("global_affine_init", value)
    if g <= 0:
        raise IllegalArgument(
            "global_affine_init", value, f"is too small for {kind}",
            "0 < g < 10" if kind == "SIGMOID" else "g > 0", "The scale Ψ(s) is positive: use a g > 0.",
        )  # fmt: skip
    if kind == "SIGMOID" and g >= 10:
        raise IllegalArgument(
            "global_affine_init", value, "is too large for SIGMOID",
            "0 < g < 10, as Ψ(s) = 10·sigmoid(s − 2) stays below 10", "Use a smaller g, EXP or SOFTPLUS.",
        )  # fmt: skip
    return g


def _reflections(value: object) -> int:
    if not isinstance(value, numbers.Integral):
        raise IllegalArgument(
            "learned_householder_permutation", value, "is no whole number", "a whole number of reflections, 0 or more",
            "Use for example 8, or 0 for none.",
        )  # fmt: skip
    n = int(value)
    if n < 0:
        raise IllegalArgument(
            "learned_householder_permutation", value, "is negative", "a whole number of reflections, 0 or more",
            "Use 0 for none.",
        )  # fmt: skip
    return n
