"""What the laws ask of an implementation, and the words in which a target says what it doesn't claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from flowref.spec import BlockSpec, Dialect

SubnetConstructor = Callable[[int, int], nn.Module]

# What a target may leave out. Laws that need it are reported as not claimed, never as held.
NOT_CLAIMED = ("double-backward", "compile", "func", "autocast", "float16", "bfloat16", "pickle", "onnx")
# A target that is no torch module may leave out these too.
NOT_CLAIMED_BY_OTHERS = (*NOT_CLAIMED, "gradient", "state", "layout")
PRECISIONS = ("ieee", "tf32")


class TargetError(Exception):
    """The target can't be used; the message says what was given, what there is, and what to do."""


class TargetMisbehaved(Exception):
    """The target gave what is no block, no state of this block, or no answer of the documented form."""


class Target(Protocol):
    """An implementation under test.

    name: as the user gave it. dialect: the map that it claims to compute. precision: "tf32" where its float32
    products round their factors to 11 bits, else "ieee". not_claimed: words of NOT_CLAIMED.
    """

    name: str
    dialect: Dialect
    precision: str
    not_claimed: frozenset[str]

    def build(self, spec: BlockSpec, subnet: SubnetConstructor, dtype: torch.dtype, device: torch.device | str) -> Any:
        """A new block for these arguments, its state in this dtype on this device."""

    def load(self, block: Any, arrays: Mapping[str, Tensor]) -> None:
        """Give the block its state: float64 arrays by the names of docs/block.md, permutations as matrices."""

    def run(self, block: Any, x: Tensor, c: Sequence[Tensor], rev: bool, jac: bool = True) -> tuple[Tensor, Any]:
        """One pass: ``(y, logdet)``. Without ``jac`` the log-det may be None."""

    def state(self, block: Any) -> dict[str, Tensor]:
        """The block's live parameters and buffers by name, as it stores them."""


def stated_dialect(name: str, value: object) -> Dialect:
    """The dialect that a target states. Raises TargetError."""
    try:
        return Dialect(str(value))
    except ValueError:
        words = [d.value for d in Dialect]
        raise TargetError(
            f"{name} states dialect={value!r}: need one of {', '.join(words)}. {nearest(value, words)}"
        ) from None


def stated_precision(name: str, value: object) -> str:
    """The precision that a target states. Raises TargetError."""
    if value not in PRECISIONS:
        raise TargetError(
            f"{name} states precision={value!r}: need ieee, or tf32 where float32 products are rounded to tf32. "
            f"{nearest(value, PRECISIONS)}"
        )
    return str(value)


def stated_not_claimed(name: str, value: object, words: Sequence[str]) -> frozenset[str]:
    """The words of ``not_claimed`` that a target states, out of ``words``. Raises TargetError."""
    if isinstance(value, str) or not isinstance(value, (set, frozenset, tuple, list)):
        raise TargetError(
            f"{name} states not_claimed={value!r}: need a set of words. Give for example {{'double-backward'}}."
        )
    for word in value:
        if word not in words:
            raise TargetError(
                f"{name} states not_claimed={word!r}, and nothing else can be excused than {', '.join(words)}. "
                f"{nearest(word, words)}"
            )
    return frozenset(value)


def nearest(word: object, known: Sequence[str]) -> str:
    """The end of a message about an unknown word."""
    close = get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Choose one of {', '.join(map(repr, known))}."
