"""What is run: one block or several in a row, as in a decoder, of any target; the subnets inside; the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from flowref.bench.presets import KINDS, STEPS, Size
from flowref.spec import BlockSpec
from flowref.targets import Target

MATRIX = 4096  # channels up to which a permutation is built where it is stored as a matrix


class Copy(nn.Module):
    """The trivial subnet: its first m/2 channels, twice. It costs a copy, and keeps nothing for backward."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.channels = m // 2

    def forward(self, v: Tensor) -> Tensor:
        half = v[:, : self.channels]
        return torch.cat((half, half), 1)


def subnet(rank: int, step: int, n: int, m: int) -> nn.Module:
    """The subnet of a decoder's step: FastFlow's convolutions, 3 and 1 wide in turn; CFlow's layers for vectors."""
    if not rank:
        return nn.Sequential(nn.Linear(n, 2 * n), nn.ReLU(), nn.Linear(2 * n, m))
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    width = 1 if step % 2 else 3
    return nn.Sequential(conv(n, n, width, padding="same"), nn.ReLU(), conv(n, m, width, padding="same"))


@dataclass(frozen=True)
class Inputs:
    """One set for all contenders: x (B, C, *S), the conditions, and the gradients of output and log-det."""

    x: Tensor
    c: tuple[Tensor, ...]
    g: Tensor
    j: Tensor

    @classmethod
    def of(cls, size: Size, condition: int, device: str) -> Inputs:
        """Normal ones, the same each time."""
        random = torch.Generator().manual_seed(0)
        draw = lambda *shape: torch.randn(size.B, *shape, generator=random).to(device)  # noqa: E731
        c = (draw(condition, *size.dims[1:]),) if condition else ()
        return cls(draw(*size.dims), c, draw(*size.dims), draw())


class Flow:
    """Blocks of one target in a row: y = f_n(… f_1(x)), and the sum of their log-dets."""

    def __init__(
        self, target: Target, kind: str, size: Size, condition: int, decoder: bool, device: str, compiled: bool
    ) -> None:
        self.target, self.rank = target, len(size.dims) - 1
        dims_c = ((condition, *size.dims[1:]),) if condition else ()
        spec = BlockSpec(size.dims, dims_c, dialect=target.dialect, **KINDS[kind])
        if spec.C > MATRIX and (target.dialect != "freia-main" or kind != "hard"):
            raise MemoryError(f"a W of {spec.C}² numbers is left out above {MATRIX} channels")
        torch.manual_seed(0)
        np.random.seed(0)  # what scipy draws rotations from
        blocks = [target.build(spec, self._subnet(decoder, k), torch.float32, device) for k in range(steps(decoder))]
        state = [target.state(block).values() for block in blocks]
        self.state = [v for values in state for v in values if isinstance(v, Tensor)]
        self.blocks = [torch.compile(block) for block in blocks] if compiled else blocks

    def _subnet(self, decoder: bool, step: int) -> type[Copy] | _Step:
        return _Step(self.rank, step) if decoder else Copy

    def run(self, x: Tensor, c: Sequence[Tensor], rev: bool) -> tuple[Tensor, Tensor]:
        """One pass through all blocks, from the last where rev."""
        logdet = None
        for block in reversed(self.blocks) if rev else self.blocks:
            x, own = self.target.run(block, x, c, rev)
            logdet = own if logdet is None else logdet + own
        assert logdet is not None
        return x, logdet


class _Step:
    """The subnet's constructor in a decoder's step."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def __call__(self, n: int, m: int) -> nn.Module:
        return subnet(self.rank, self.step, n, m)


def steps(decoder: bool) -> int:
    """How many blocks are in a row."""
    return STEPS if decoder else 1


def forget(leaves: Sequence[Tensor]) -> None:
    """Drop the gradients."""
    for leaf in leaves:
        leaf.grad = None
