"""Blocks that look impure or keep something, and are right: laws of purity and state must hold on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flowref.faults.plain import PlainBlock
from flowref.gate.hold import Judge
from flowref.gate.options import Settings
from flowref.gate.plan import items
from flowref.laws import registry


class ExpandedLogDet(PlainBlock):
    """One number, expanded, where the log-det is 0 for every sample: its memory is that of this pass."""

    def volume(self, l: Tensor, sigma: Tensor) -> Tensor:  # noqa: E741
        return l.new_zeros(1).expand(len(l)) if self.spec.gin_block else super().volume(l, sigma)


class OneAllocation(PlainBlock):
    """Output and log-det are slices of one tensor, made anew in each pass."""

    def forward(self, x: Any, c: Any = None, rev: bool = False, jac: bool = True) -> Any:
        (y,), logdet = super().forward(x, c, rev, jac)
        both = torch.cat([y.flatten(), logdet])
        return (both[: y.numel()].view(y.shape),), both[y.numel() :]


class CacheThatLooks(PlainBlock):
    """σ is kept between passes without gradients, and used again only where s has the very same bits."""

    def scale(self) -> Tensor:
        if torch.is_grad_enabled():
            return super().scale()
        kept, s = getattr(self, "kept", None), self.global_scale
        if kept is None or kept[0].dtype != s.dtype or not torch.equal(kept[0], s):
            self.kept = kept = (s.detach().clone(), super().scale().clone())
        return kept[1]


class RefusesTraining(PlainBlock):
    """requires_grad_(True) raises."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        if requires_grad:
            raise RuntimeError("W must not be trained: set requires_grad of the other parameters, one by one.")
        return super().requires_grad_(requires_grad)


OUTPUTS = ("purity.outputs-are-the-callers", "purity.nothing-stays-alive", "purity.backward-changes-nothing")
CASES = [
    *((block, law) for block in ("ExpandedLogDet", "OneAllocation") for law in OUTPUTS),
    ("CacheThatLooks", "state.changes-are-seen"),
    ("CacheThatLooks", "state.float64-and-back-changes-nothing"),
    ("CacheThatLooks", "purity.called-again-gives-the-same-bits"),
    ("CacheThatLooks", "purity.nothing-stays-alive"),
    ("RefusesTraining", "state.training-keeps-w-orthogonal"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("block", "law"), CASES)
def test_holds_on_a_right_block(block: str, law: str) -> None:
    settings = Settings(targets=(f"{__file__}:{block}",), profile="smoke", device="cpu", shrink=False)
    judge = Judge(settings)
    records = [judge.judge(item) for item in items(settings, registry.find(law))]

    assert [(r["law"], r["status"], r.get("failure") or r["reason"]) for r in records if r["status"] != "held"] == []
