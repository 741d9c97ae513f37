"""What is measured: sizes that users have, and kinds of block. Nothing here needs torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowref.gate.options import Unusable

PASSES = ("forward", "inverse", "backward")  # backward: forward with backward behind it
KINDS: dict[str, dict[str, Any]] = {  # constructor's flags
    "hard": {},
    "gin": {"gin_block": True},
    "reflections": {"learned_householder_permutation": 8},
    "soft": {"permute_soft": True},
}
USUAL = ("anomalib", "freia", "eager", "fast")  # contenders, in the order in which they are shown
STEPS = 8  # of a whole decoder, as in FastFlow and CFlow


@dataclass(frozen=True)
class Size:
    """The input's size: B samples of the shape dims = (C, *S). As text DIMS@B, such as 48x32x32@8 or 512@256."""

    dims: tuple[int, ...]
    B: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Raises Unusable."""
        match = re.fullmatch(r"([1-9]\d*(?:x[1-9]\d*){0,3})@([1-9]\d*)", text)
        if not match:
            raise Unusable(
                f"--shapes={text!r} is no size: need CHANNELS[xPIXELS…]@BATCH with at most 3 axes of pixels. "
                "Give for example 48x32x32@8, or 512@256 for vectors."
            )
        return cls(tuple(int(n) for n in match[1].split("x")), int(match[2]))

    def __str__(self) -> str:
        return "x".join(map(str, self.dims)) + f"@{self.B}"

    @property
    def numbers(self) -> int:
        """How many numbers the input holds."""
        return self.B * math.prod(self.dims)


@dataclass(frozen=True)
class Preset:
    """Series of sizes, by what grows in them ("" where they are just sizes), and what is measured at each.

    condition: channels of a condition, 0 for none. beside: contenders where none are asked for.
    """

    about: str
    series: Mapping[str, tuple[Size, ...]]
    condition: int = 0
    kinds: tuple[str, ...] = tuple(KINDS)
    beside: tuple[str, ...] = USUAL
    sizes: tuple[Size, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(size for sizes in self.series.values() for size in sizes))


def _sizes(text: str) -> tuple[Size, ...]:
    return tuple(map(Size.parse, text.split()))


def _of(text: str) -> dict[str, tuple[Size, ...]]:
    return {"": _sizes(text)}


# Four decades, 10³ to 10⁷ numbers, in half decades; along each axis alone.
GROWING = [round(10 ** (k / 2)) for k in range(9)]

PRESETS = {
    "shapes": Preset(
        "six sizes between small vectors and large activations",
        _of("64@4096 512@256 48x32x32@32 256x32x32@8 64x64x64@8 768x16x16@8"),
    ),
    "fastflow": Preset(
        "FastFlow: feature maps of ResNet18 at 256², its last layer, and DeiT at 384²",
        _of("64x64x64@8 128x32x32@8 256x16x16@8 512x8x8@8 768x24x24@8"),
    ),
    "cflow": Preset(
        "CFlow: vectors with a condition of 128, in fiber batches of 64 (anomalib's) and 256",
        _of("512@64 512@256 1024@64 1024@256 1536@64 1536@256"),
        condition=128,
    ),
    "tabular": Preset("tables: few channels, many rows", _of("8@1024 8@65536 16@16384 32@16384 64@4096 64@65536")),
    "linear": Preset(
        "how time grows with batch, pixels and channels, hard permutation, over four decades",
        {
            "B": _sizes(" ".join(f"16x8x8@{n}" for n in GROWING)),
            "pixels": _sizes(" ".join(f"16x{round(4 * n**0.5)}x{round(4 * n**0.5)}@4" for n in GROWING)),
            "C": _sizes(" ".join(f"{16 * n}x4x4@4" for n in GROWING)),
        },
        kinds=("hard",),
        beside=("fast", "index"),
    ),
}
