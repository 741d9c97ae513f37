"""Faults of a block that goes on with other numbers where its own are none; finite passes are right."""

from __future__ import annotations

from flowref.faults.fault import Fault, fault
from flowref.faults.stateful import entering, leaving

FAULTS: tuple[Fault, ...] = (
    fault(
        "output-that-is-no-number-becomes-0",
        "batch.not-finite-reaches-its-outputs",
        "as of nan_to_num on the way out; the log-det keeps its NaN",
        leaving("y = torch.nan_to_num(y, posinf=float('inf'), neginf=float('-inf'))"),
    ),
    fault(
        "output-kept-below-a-large-number",
        "batch.not-finite-reaches-its-outputs",
        "what is infinite is cut; NaN stays",
        leaving("y = y.clamp(-1e30, 1e30)"),
    ),
    fault(
        "logdet-sums-what-is-a-number",
        "batch.not-finite-reaches-its-outputs",
        "outputs are right; blind: GIN",
        ("coupling = l.sum(dim=tuple(range(1, l.ndim)))", "coupling = l.flatten(1).nansum(dim=1)"),
    ),
    fault(
        "condition-that-is-no-number-becomes-0",
        "condition.not-finite-reaches-its-outputs",
        "blind: no conditions",
        entering("conditions = [torch.where(v.isfinite(), v, 0) for v in conditions]"),
    ),
    fault(
        "exponential-that-is-no-number-becomes-1",
        "coupling.not-finite-answer-reaches-the-outputs",
        "forward, k alone NaN: a NaN in the input makes t NaN too, and the log-det tells of l",
        ("return q * torch.exp(l) + t", "return q * torch.exp(torch.nan_to_num(l)) + t"),
    ),
    fault(
        "gradient-that-is-no-number-becomes-0",
        "gradient.not-finite-reaches-its-gradients",
        "as of a hook that keeps training going; values are right",
        entering("tensor = tensor * 1.0", "if tensor.requires_grad:", "    tensor.register_hook(torch.nan_to_num)"),
    ),
)
