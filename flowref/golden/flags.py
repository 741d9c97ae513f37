"""Flags: what a vector is, which mistakes it is there for, and how often a random case would meet it.

    FLAGS      id -> Flag; where a regime of the cases has the id, it is the same fact
    flags_of   the flags that hold for a case

*A random case* stands for what a test usually draws: a few samples of normal numbers, a block as it was made (one g
for all channels, no offset), a subnet that answers with about 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from flowref.cases import Case
from flowref.cases.regimes import regimes_of
from flowref.golden.answers import flat_coupling
from flowref.spec import Dialect


@dataclass(frozen=True)
class Flag:
    """One fact. holds: None where it is the regime of this id."""

    id: str
    note: str
    sees: str
    chance: str
    holds: Callable[[Case], bool] | None = None

    def json(self) -> dict[str, str]:
        """What the manifest says of it."""
        return {"note": self.note, "sees": self.sees, "chance": self.chance}


def _regime(id: str, note: str, sees: str, chance: str) -> Flag:
    return Flag(id, note, sees, chance)


def _scales(case: Case) -> torch.Tensor:
    return case.state["global_scale"]


def _wide(case: Case) -> bool:
    s, kind = _scales(case), case.spec.global_affine_type
    low, high = {"SIGMOID": (-8.0, 10.0), "SOFTPLUS": (-15.0, 76.0), "EXP": (-5.0, 5.0)}[kind]
    return not case.spec.gin_block and bool((s < low).any() and (s > high).any())


def _coefficients(case: Case) -> torch.Tensor:
    """What tanh is given, where the subnet's answer is part of the case; else nothing."""
    kind, spec = case.subnet.kind, case.spec
    if kind not in ("given", "constant"):
        return torch.zeros(0)
    a = case.state["subnet.a"][:, : spec.A] if kind == "given" else case.state["subnet.coefficients"][: spec.A]
    k = a if spec.dialect is Dialect.DOCUMENTED else a / 10
    return k / spec.affine_clamping if spec.dialect is Dialect.FREIA_MAIN else k


def _small(case: Case) -> bool:
    k = _coefficients(case)
    return bool(k.numel()) and bool((k.abs() < 2.0**-16).all())


def _near_tiny(case: Case) -> bool:
    return bool(case.x.numel()) and bool((case.x.abs() < 2.0**-100).all())


_TABLE = (
    _regime("rank-0", "no spatial axis: (B, C)", "code that takes a spatial axis for granted", "common"),
    _regime("rank-1", "one spatial axis", "matrices and vectors brought to another rank wrongly", "common"),
    _regime("rank-2", "two spatial axes", "height and width exchanged; pixels counted along one axis", "common"),
    _regime("rank-3", "three spatial axes", "pixels counted along two axes", "common"),
    _regime("gin", "gin_block", "the mean over the batch, or over channels alone; a global scale that counts; a "
            "log-det of rounding errors", "common"),
    _regime("softplus", "global_affine_type SOFTPLUS", "a wrong constant; log(1 + exp(s/2)) that loses small scales "
            "and overflows for large ones", "common, but with one scale for all channels"),
    _regime("sigmoid", "global_affine_type SIGMOID", "the 2 or the 10 left out; s in place of s − 2",
            "common, but with one scale for all channels"),
    _regime("exp", "global_affine_type EXP", "log σ computed from σ", "common, but with one scale for all channels"),
    _regime("soft", "W is no permutation", "W in place of its transpose; a permutation made of W by argmax",
            "common"),
    _regime("reflections-1", "one reflection", "a vector that isn't normalised; vᵀv in place of its double",
            "common, but with vectors of one length"),
    _regime("reflections-even", "an even number of reflections", "their order; the order of W₀ and the reflections",
            "common, but with vectors of one length"),
    _regime("reflections-odd", "three reflections or another odd number", "a sign: the determinant is −1",
            "common, but with vectors of one length"),
    _regime("reflections-over-channels", "more reflections than channels", "reflections cut to C",
            "none: nobody asks for as many"),
    _regime("reverse-permutation", "reverse_permutation", "W in place of W⁻¹; undone after the coupling, not before",
            "common"),
    _regime("conditions-1", "one condition", "a condition that the subnet isn't given in one direction",
            "common"),
    _regime("conditions-2", "two conditions of different sizes", "conditions in another order, or only the first",
            "common"),
    Flag("subnet-given", "the subnet's answer is part of the vector", "mistakes between answer and output: no subnet "
         "need be written", "none: an answer that differs in every element has no subnet to make it",
         lambda k: k.subnet.kind == "given"),
    _regime("channels-odd", "an odd number of channels", "parts of C//2 and C − C//2 exchanged", "1 in 2"),
    _regime("pixels-1", "one pixel", "axes of size 1 squeezed away", "rare, where shapes are drawn"),
    _regime("clamp-saturated", "|argument of tanh| mostly 8 and more", "tanh by exponentials that overflow; a "
            "derivative that is 0/0 or never 0", "none: 90 standard deviations"),
    Flag("coefficients-small", "|argument of tanh| below 2**-16, σ = 1", "tanh or exp(x) − 1 that loses its relative "
         "accuracy near 0; a log-det off by more than its own size", "none: 1 in 8,000 for one number", _small),
    _regime("channels-over-32", "36 channels", "a tile of 16 or 32 channels whose rest is left out", "none: tests are "
            "small"),
    _regime("pixels-over-256", "257 pixels", "a tile of 256 pixels whose rest is left out", "none: tests are small"),
    _regime("batch-over-64", "66 samples", "a tile of 32 or 64 samples whose rest is left out", "none: tests are "
            "small"),
    _regime("batch-0", "an empty batch", "sizes read off the first sample; a mean over nothing", "none"),
    _regime("channels-1", "one channel: nothing is active", "a coupling of no channels; a subnet that isn't called",
            "none: blocks have 2 channels or more"),
    _regime("alpha-0", "affine_clamping 0: no scaling", "a division by α; 0 taken for “not given”", "none"),
    _regime("reflections-hard", "reflections without permute_soft", "the permutation left out", "1 in 4"),
    Flag("gin-alone", "GIN with one active element a sample: l = 0", "a mean that leaves the element out; 0/0",
         "rare, where sizes are drawn", flat_coupling),
    Flag("scale-wide", "σ from near 0 to its top, channel by channel", "σ computed where exp under- or overflows; "
         "log σ computed from a σ that was rounded to 10 or to 0", "none: σ is about 1 in a new block", _wide),
    _regime("g-small", "global_affine_init 2**-100", "an initial scale of −∞, which loading doesn't mend",
            "none: g is about 1"),
    _regime("g-large", "global_affine_init near the top of its range", "an initial scale of ∞", "none: g is about 1"),
    Flag("near-tiny", "all values about 2**-115, just above what float32 can divide by", "a small number added to a "
         "divisor or to σ; log-dets of values; a value taken for 0", "none", _near_tiny),
)  # fmt: skip

FLAGS: dict[str, Flag] = {flag.id: flag for flag in _TABLE}


def flags_of(case: Case) -> list[str]:
    """The ids of all flags that hold for the case, in the order of the table."""
    met = regimes_of(case)
    return [f.id for f in FLAGS.values() if (f.holds(case) if f.holds else f.id in met)]
