"""A case: everything that decides a pass, as values.

Case     spec, state, subnet, inputs, incoming gradients, layout; its id is a hash of all that
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowref.cases.layouts import lay_out
from flowref.cases.regimes import regimes_of
from flowref.cases.subnets import Probe, SubnetSpec
from flowref.spec import BlockSpec

if TYPE_CHECKING:
    from flowref.cases.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Case:
    """One case. All tensors are float64 and contiguous; `inputs` gives them as a target gets them.

    state: ``global_scale``, ``global_offset`` (1, C, 1…); ``w_perm``, ``w_perm_inv`` (C, C, 1…), or, with
    reflections, ``w_0`` (C, C) and ``vk_householder`` (n, C); the probe's parameters as ``subnet.*``.
    x, gy: (B, C, *S); c: (B, C_k, *S) each; gj: (B,). gy and gj are gradients that come in by output and log-det.
    """

    spec: BlockSpec
    subnet: SubnetSpec
    state: dict[str, Tensor]
    x: Tensor
    c: tuple[Tensor, ...]
    gy: Tensor
    gj: Tensor
    layout: str = "contiguous"
    recipe: Recipe | None = None

    @property
    def B(self) -> int:
        """Samples."""
        return self.x.shape[0]

    def subnet_constructor(self, inputs: int, outputs: int) -> Probe:
        """What a block is given to make its subnet: this case's probe, parameters in torch's default dtype."""
        prefix = "subnet."
        own = {name.removeprefix(prefix): value for name, value in self.state.items() if name.startswith(prefix)}
        return self.subnet.make(own, inputs, outputs)

    def inputs(self, dtype: torch.dtype, device: torch.device | str) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x and c in this dtype, on this device, in the case's layout: fresh storage each time, no gradient asked."""
        lay = lambda v: lay_out(v.to(device=device, dtype=dtype), self.layout)  # noqa: E731
        return lay(self.x), tuple(lay(v) for v in self.c)

    @property
    def arrays(self) -> dict[str, Tensor]:
        """Every tensor of the case by name, in one order: x, c0 …, gy, gj, then state.* sorted."""
        inputs = {"x": self.x, **{f"c{k}": v for k, v in enumerate(self.c)}, "gy": self.gy, "gj": self.gj}
        return inputs | {f"state.{name}": self.state[name] for name in sorted(self.state)}

    @property
    def head(self) -> dict[str, Any]:
        """What decides the case beside its arrays, as plain values: spec, subnet, layout."""
        spec = {f.name: getattr(self.spec, f.name) for f in fields(self.spec)}
        return {"spec": {**spec, "dialect": self.spec.dialect.value}, "subnet": self.subnet.kind, "layout": self.layout}

    @cached_property
    def id(self) -> str:
        """sha256 over canonical JSON of `head`, then of each array: name, shape, little-endian float64 bytes."""
        digest = hashlib.sha256(canonical(self.head))
        for name, value in self.arrays.items():
            digest.update(canonical([name, list(value.shape)]))
            digest.update(value.contiguous().numpy().astype("<f8").tobytes())
        return digest.hexdigest()

    @cached_property
    def regimes(self) -> frozenset[str]:
        """Ids of all regimes (`flowref.cases.regimes`) that this case meets."""
        return regimes_of(self)

    @property
    def edge(self) -> str | None:
        """The one edge that this case is at: batch-0, channels-1, reflections-hard, alpha-0; None in the interior."""
        if self.B == 0:
            return "batch-0"
        if self.spec.C == 1:
            return "channels-1"
        if self.spec.learned_householder_permutation and not self.spec.permute_soft:
            return "reflections-hard"
        return "alpha-0" if self.spec.affine_clamping == 0 else None

    def describe(self) -> str:
        """A line to read and, where the case was drawn, a line to paste."""
        spec = self.spec
        parts = [f"B={self.B} C={spec.C} S={spec.S}"]
        if spec.dims_c:
            parts.append(f"conditions={tuple(d[0] for d in spec.dims_c)}")
        parts += [spec.global_affine_type, f"g={spec.global_affine_init:g} α={spec.affine_clamping:g}"]
        words = ["soft" if spec.permute_soft else "hard"]
        n = spec.learned_householder_permutation
        if n:
            words.append(f"{n} reflection{'s' * (n > 1)}")
        words += ["reverse permutation"] * spec.reverse_permutation + ["GIN"] * spec.gin_block
        words += [f"{self.subnet.kind} subnet", *([f"{self.layout} inputs"] * (self.layout != "contiguous"))]
        words += [spec.dialect.value] * (spec.dialect != "anomalib")
        lines = [f"{' '.join(parts)} {', '.join(words)}"]
        if self.recipe is not None:
            lines.append(f"{self.recipe!r}.case()")
        return "\n".join(lines)


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, ASCII, shortest floats that read back the same."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
