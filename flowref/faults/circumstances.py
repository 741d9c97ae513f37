"""Faults that show in no single pass of moderate size with gradients by everything: each needs its circumstances."""

from __future__ import annotations

from flowref.faults.fault import Fault, fault
from flowref.faults.passes import ANSWER, CHECKED, FED, HEAD, T
from flowref.faults.stateful import STORED

MIXED = "(M @ columns)"
SHARED = "\n        threads = torch.get_num_threads()\n        shared = len(t) // threads * threads"

FAULTS: tuple[Fault, ...] = (
    fault(
        "shift-forgotten-past-65535-samples",
        "reference.large-sizes-equal-reference",
        "consistent in both directions; a grid's axis ends there",
        (T, T + "\n        t = torch.cat([t[:65535], 0 * t[65535:]])"),
    ),
    fault(
        "shift-forgotten-past-2048-pixels",
        "reference.large-sizes-equal-reference",
        "consistent in both directions; N > 2048",
        (
            T,
            T
            + "\n        kept = (torch.arange(self.spec.N, device=t.device) < 2048).reshape(self.spec.S)"
            + "\n        t = t * kept",
        ),
    ),
    fault(
        "shift-forgotten-past-524288-numbers",
        "reference.large-sizes-equal-reference",
        "consistent in both directions; samples that end past so many numbers of x, as turns through a buffer do",
        (
            T,
            T
            + "\n        ends = torch.arange(1, len(t) + 1, device=t.device) * self.spec.C * self.spec.N"
            + "\n        t = t * (ends <= 524288).reshape(-1, *[1] * (t.dim() - 1))",
        ),
    ),
    fault(
        "w-sums-64-channels-at-pixels-past-64",
        "reference.large-sizes-equal-reference",
        "either direction; the last tile of a product that is cut along channels and pixels",
        (MIXED, "torch.cat([M @ columns[..., :64], M[:, :64] @ columns[:, :64, 64:]], -1)"),
    ),
    fault(
        "w-sums-64-channels-in-samples-past-64",
        "reference.large-sizes-equal-reference",
        "either direction; the last tile of a product that is cut along channels and samples",
        (MIXED, "torch.cat([M @ columns[:64], M[:, :64] @ columns[64:, :64]])"),
    ),
    fault(
        "shift-forgotten-behind-equal-shares-of-threads",
        "reference.several-threads-equal-reference",
        "consistent in both directions; each thread has as many samples, and what is left over has none",
        (T, T + SHARED + "\n        t = torch.cat([t[:shared], 0 * t[shared:]])"),
    ),
    fault(
        "input-gradient-forgotten-behind-equal-shares-of-threads",
        "gradient.on-several-threads",
        "backward of the whole pass, in either direction; values are right",
        (
            CHECKED,
            CHECKED
            + SHARED.replace("len(t)", "len(tensor)")
            + "\n        if tensor.requires_grad:"
            + "\n            tensor = torch.cat([tensor[:shared], tensor[shared:].detach()])",
        ),
    ),
    fault(
        "input-gradient-forgotten-past-2048-pixels",
        "gradient.at-large-sizes",
        "backward of the whole pass, in either direction; values are right",
        (
            CHECKED,
            CHECKED
            + "\n        if tensor.requires_grad:"
            + "\n            past = (torch.arange(self.spec.N, device=tensor.device) >= 2048).reshape(self.spec.S)"
            + "\n            tensor = tensor.masked_fill(past, 0) + (tensor * past).detach()",
        ),
    ),
    fault(
        "input-gradient-forgotten-past-64-channels-and-64-pixels",
        "gradient.at-large-sizes",
        "backward of the whole pass, in either direction; values are right; both at once",
        (
            CHECKED,
            CHECKED
            + "\n        if tensor.requires_grad and tensor.dim() > 1 and tensor.shape[1:] == self.spec.dims:"
            + "\n            past = (torch.arange(self.spec.N, device=tensor.device) >= 64).reshape(self.spec.S)"
            + "\n            here = torch.arange(self.spec.C, device=tensor.device) >= 64"
            + "\n            past = past & here.reshape(-1, *[1] * len(self.spec.S))"
            + "\n            tensor = tensor.masked_fill(past, 0) + (tensor * past).detach()",
        ),
    ),
    fault(
        "input-gradient-forgotten-past-524288-numbers",
        "gradient.at-large-sizes",
        "backward of the whole pass, in either direction; values are right; samples that end past so many numbers",
        (
            CHECKED,
            CHECKED
            + "\n        if tensor.requires_grad:"
            + "\n            ends = torch.arange(1, len(tensor) + 1, device=tensor.device) * self.spec.C * self.spec.N"
            + "\n            past = (ends > 524288).reshape(-1, *[1] * (tensor.dim() - 1))"
            + "\n            tensor = tensor.masked_fill(past, 0) + (tensor * past).detach()",
        ),
    ),
    fault(
        "scale-detached-where-x-needs-no-gradient",
        "gradient.each-alone-is-right",
        "as of data before the first block; blind: x asks for a gradient too",
        (
            "sigma = self.scale()\n        z =",
            "sigma = self.scale() if x.requires_grad else self.scale().detach()\n        z =",
        ),
        (
            "sigma = self.scale()\n        u =",
            "sigma = self.scale() if y.requires_grad else self.scale().detach()\n        u =",
        ),
    ),
    fault(
        "frozen-block-passes-no-gradient-on",
        "gradient.each-alone-is-right",
        "no gradient reaches x through the coupling where the block's own parameters are frozen",
        (FED, "torch.cat([p if self.global_offset.requires_grad else p.detach(), *c], dim=1)), p)"),
    ),
    fault(
        "second-backward-of-a-graph-doubled",
        "gradient.a-kept-graph-gives-it-again",
        "backward counts its calls; blind: one call a graph",
        (
            HEAD,
            "class _Counted(torch.autograd.Function):\n"
            "    @staticmethod\n    def forward(ctx: Any, v: Tensor) -> Tensor:\n"
            "        ctx.calls = 0\n        return v.clone()\n\n"
            "    @staticmethod\n    def backward(ctx: Any, g: Tensor) -> Tensor:\n"
            "        ctx.calls += 1\n        return g * ctx.calls\n\n\n" + HEAD,
        ),
        (T, T + "\n        t = _Counted.apply(t)"),
    ),
    fault(
        "w-read-as-it-stands-in-backward",
        "gradient.is-of-the-state-that-the-pass-had",
        "a .data has no version that autograd could compare; blind: W is the same in backward",
        (STORED, STORED.replace("w_perm.", "w_perm.data.").replace("w_perm_inv.", "w_perm_inv.data.")),
    ),
    fault(
        "gradient-masked-by-the-output-as-it-stands",
        "gradient.is-of-the-outputs-that-the-pass-gave",
        "no gradient goes where the output is NaN or Inf; blind: none is, in the pass and in backward",
        (
            ANSWER,
            "if y.requires_grad and not torch.compiler.is_compiling():\n"
            "            kept = y.detach()\n"
            "            y.register_hook(lambda g: torch.where(kept.isfinite(), g, torch.zeros_like(g)))\n"
            "        " + ANSWER,
        ),
    ),
    fault(
        "subnet-called-past-its-hooks",
        "coupling.subnet-is-called-with-its-hooks",
        "forward itself is called",
        ("self.subnet(torch.cat([p, *c], dim=1))", "self.subnet.forward(torch.cat([p, *c], dim=1))"),
    ),
)
