"""Subnets of a vector: those of the cases, and one that answers with what it was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from flowref.cases import Case, Probe, SubnetSpec
from flowref.cases.subnets import KINDS
from flowref.exact import Rows, Subnet, flat
from flowref.spec import BlockSpec

FORMULAS = {
    "given": "a = a",
    "linear": "a[b,:,n] = weight v[b,:,n] + bias, with v = cat(p, c0, c1, ...)",
    "zero": "a = 0",
    "constant": "a[b,:,n] = coefficients",
    "convolutional": (
        "a[b,:,n] = weight w[b,:,n] + bias, with w = v, then for each spatial axis v at the pixel before, and v at the "
        "pixel behind; 0 outside"
    ),
    "network": "a[b,:,n] = weight_2 tanh(weight_1 v[b,:,n] + bias_1) + bias_2",
    "activation": "a[b,:,n] = tanh(weight v[b,:,n] + bias)",
}


class Given(Probe):
    """a is the parameter ``a`` (B, 2A, *S), whatever the input: no subnet is needed to follow it."""

    a: Tensor

    def answer(self, x: Any) -> Any:
        return x.new_zeros(tuple(self.a.shape)) + self.a  # its own storage, as a subnet's answer has

    def pullback(self, x: Any, g: Any) -> tuple[Any, dict[str, Any]]:
        return torch.zeros_like(x), {"a": g}


@dataclass(frozen=True)
class GivenSpec(SubnetSpec):
    """`Given`, for inputs of B samples and spatial axes S."""

    B: int = 0
    S: tuple[int, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of the one parameter."""
        return {"a": (self.B, self.outputs, *self.S)}

    def make(self, parameters: Mapping[str, Tensor], inputs: int, outputs: int) -> Probe:
        """The probe; `SubnetSpec.make` says what is refused."""
        if (inputs, outputs) != (self.inputs, self.outputs):
            raise ValueError(f"subnet_constructor({inputs}, {outputs}): need ({self.inputs}, {self.outputs}).")
        return Given({"a": parameters["a"].to(torch.get_default_dtype())}, outputs)


def subnet_spec(kind: str, spec: BlockSpec, B: int) -> SubnetSpec:
    """The subnet of this kind for a block and B samples."""
    if kind == "given":
        return GivenSpec(kind, spec.subnet_in, spec.subnet_out, spec.rank, B, spec.S)
    return SubnetSpec(kind, spec.subnet_in, spec.subnet_out, spec.rank)


def scalar_subnet(case: Case) -> Subnet:
    """The case's subnet over scalars, for `flowref.exact.Exact`, which asks for one sample after another."""
    spec, kind = case.spec, case.subnet.kind
    if kind == "given":
        samples = cycle(range(case.B))
        return lambda ctx, parameters, rows: [flat(row) for row in parameters["a"][next(samples)]]

    def subnet(ctx: Any, parameters: Mapping[str, Any], rows: Rows) -> Rows:
        return KINDS[kind].scalars(ctx, parameters, rows, spec.S, spec.subnet_out)

    return subnet
