"""How inputs lie in memory; values never depend on it.

LAYOUTS  their names        lay_out  a copy with the strides of one
"""

from __future__ import annotations

import torch
from torch import Tensor

LAYOUTS = ("contiguous", "channels-last", "strided", "transposed", "expanded", "offset")


def lay_out(v: Tensor, layout: str) -> Tensor:
    """A copy of v (B, C, *S) with equal values and the strides of the layout; what lies around it is NaN.

    expanded: stride 0 over the batch, so v must hold the same values in every sample.
    """
    if layout == "channels-last":
        return v.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)
    if layout == "transposed":
        return v.transpose(0, 1).clone(memory_format=torch.contiguous_format).transpose(0, 1)
    if layout == "expanded":
        return v[:1].clone().expand(v.shape)
    if layout == "strided":
        wide = v.new_full((*v.shape[:-1], 2 * v.shape[-1]), torch.nan if v.is_floating_point() else 0)
        wide[..., ::2] = v
        return wide[..., ::2]
    if layout == "offset":
        around = v.new_full((v.numel() + 8,), torch.nan)
        around[3 : 3 + v.numel()] = v.flatten()
        return around[3 : 3 + v.numel()].view(v.shape)
    return v.clone(memory_format=torch.contiguous_format)
