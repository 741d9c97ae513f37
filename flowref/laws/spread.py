"""Where a value that is not finite must be seen again: the reference's own lines, in the form that spreads it least.

A product by W is taken as a gather would take it: what W does not read does not count, though 0 · NaN is NaN. So a
dense product, which spreads more, is right too. Gradients are autograd's, which follows no path that is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flowref.cases.case import Case
from flowref.laws.run import Run, incoming, reference_block

# A·N = 1 is left out: centred over one coefficient l is 0, whatever that one is.
SMALL: Mapping[str, Any] = {"B": (2, 3), "C": (4, 5, 6, 7, 8), "max_CN": 48}


class Gathering(Tensor):
    """A matrix whose products with vectors leave out its zeros."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.einsum:
            return super().__torch_function__(func, types, args, kwargs or {})
        _, W, x = args  # "ij,bj...->bi...", as `flowref.reference.mix` has it
        W = W.as_subclass(Tensor)
        each = W.reshape(*W.shape, *(1,) * (x.ndim - 2))
        return torch.where(each == 0, 0.0, each * x.unsqueeze(1)).sum(2)


def least(case: Case, rev: bool, kind: str | None = None) -> tuple[Tensor, Tensor, dict[str, Tensor | None]]:
    """Output, log-det, and where ``kind`` asks for them the gradients that `Run.gradients` gives."""
    block = reference_block(case).requires_grad_(kind is not None)
    state = {
        name: value.as_subclass(Gathering) if name.startswith("w_perm") else value
        for name, value in block.tensors().items()
    }
    leaves = {"x": case.x.clone(), **{f"c{k}": v.clone() for k, v in enumerate(case.c)}}
    given = {name: v.requires_grad_(kind is not None) for name, v in leaves.items()}
    x, *c = given.values()
    one = block.trace(x, c, rev, state)
    if kind is None:
        return one.out, one.logdet, {}
    leaves = given | dict(block.named_parameters())
    gy, gj = incoming(case, kind)
    loss = (gj * one.logdet).sum() if kind == "logdet" else (gy * one.out).sum()
    if not loss.requires_grad:
        return one.out, one.logdet, dict.fromkeys(leaves)
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return one.out.detach(), one.logdet.detach(), dict(zip(leaves, found, strict=True))


def poisoned(v: Tensor, turn: int, values: Sequence[float]) -> Tensor:
    """``v`` (B, …) with one element of each of its first samples made one of these values, where ``turn`` says."""
    found = v.clone()
    for sample, value in enumerate(values):
        found[sample].view(-1)[(turn + 5 * sample) % found[sample].numel()] = value
    return found


def reaches_the_outputs(run: Run, case: Case, where: str) -> None:
    """Hold one pass on a case with a NaN in its first sample, and perhaps infinities in others, against `least`."""
    y, logdet, _ = least(case, run.rev)
    got = run.on(case).answer
    for want, have, what in ((y, got.y, "the output"), (logdet, got.logdet, "the log-det")):
        if what == "the log-det" and run.spec.gin_block:
            continue
        run.reaches(want, have, f"{what} {where}")
        run.reaches(want[:1], have[:1], f"{what} {where}", nan=True)
