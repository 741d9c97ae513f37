"""What no block can do without: moving the bytes, the bare product, the subnets; timed beside the contenders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from flowref.bench.flow import Inputs, forget, steps, subnet
from flowref.bench.timing import Job


def limits(kind: str, what: str, inputs: Inputs, decoder: bool) -> dict[str, Job]:
    """What no block can do without, a step: copy, x + a → y; product, W x (soft); subnets, where they are real ones."""
    x, a, y, n = inputs.x, inputs.g, torch.empty_like(inputs.x), steps(decoder)
    found = {"copy": lambda: torch.add(x, a, out=y)}
    if kind == "soft":
        W = torch.linalg.qr(torch.randn(x.shape[1], x.shape[1], device=x.device))[0]
        v = x.flatten(2) if x.dim() > 2 else x
        found["product"] = lambda: W @ v if v.dim() > 2 else v @ W.mT
    jobs = {name: Job(_repeated(once, n)) for name, once in found.items()}
    if decoder:
        jobs["subnets"] = _subnets(inputs, what)
    return jobs


def _repeated(once: Callable[[], Any], n: int) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            for _ in range(n):
                once()

    return run


def _subnets(inputs: Inputs, what: str) -> Job:
    x, C = inputs.x, inputs.x.shape[1]
    v = torch.cat((x[:, : C - C // 2], *inputs.c), 1)
    torch.manual_seed(0)
    nets = [subnet(x.dim() - 2, k, v.shape[1], 2 * (C // 2)).to(x.device) for k in range(steps(True))]
    if what != "backward":
        return Job(_repeated(lambda: [net(v) for net in nets], 1))
    v.requires_grad_()
    leaves = [v, *nn.ModuleList(nets).parameters()]
    g = torch.cat((inputs.g[:, C - C // 2 :],) * 2, 1)

    def both() -> None:
        for net in nets:
            net(v).backward(g)

    return Job(both, lambda: forget(leaves))
