"""Faults that show at one edge alone, in laws that hold everywhere else."""

from __future__ import annotations

from flowref.faults.fault import Fault, fault
from flowref.faults.passes import FED
from flowref.faults.stateful import ASKED, REFLECTED, entering, leaving
from flowref.faults.surface import contiguous

FAULTS: tuple[Fault, ...] = (
    fault(
        "subnet-not-called-at-one-channel",
        "coupling.subnet-called-once",
        "nothing is active there, so values are right; what the subnet counts or records is lost",
        (ASKED, ASKED.replace("a = ", "a = p[:, :0] if self.spec.C == 1 else ")),
    ),
    fault(
        "conditions-detached-at-alpha-0",
        "gradient.by-conditions",
        "the shift still depends on them",
        (FED, FED.replace("*c", "*(v.detach() if self.spec.affine_clamping == 0 else v for v in c)")),
        dialects=("anomalib", "documented"),
    ),
    fault(
        "reflections-of-a-hard-w-take-no-gradient",
        "gradient.by-parameters",
        "values are right; blind: permute_soft",
        (REFLECTED, "W = W if self.spec.permute_soft else W.detach()\n        " + REFLECTED),
    ),
    fault(
        "soft-w-of-one-channel-is-minus-1",
        "permutation.soft-has-determinant-1",
        "a sign that is drawn, or taken from a decomposition",
        ("Q[:, 0] *= torch.sign(torch.linalg.det(Q))", "Q[:, 0] *= torch.sign(torch.linalg.det(Q)) if C > 1 else -1"),
    ),
    fault(
        "input-of-one-channel-is-overwritten",
        "purity.inputs-keep-their-bits",
        "with the output, as nothing is coupled and so nothing was copied",
        leaving("if self.spec.C == 1 and not tensor.requires_grad:", "    tensor.data.copy_(y.detach())"),
    ),
    fault(
        "input-of-one-channel-read-as-contiguous",
        "layout.strides-are-followed",
        "whatever its strides",
        entering(f"tensor = {contiguous('tensor')} if self.spec.C == 1 else tensor"),
    ),
)
