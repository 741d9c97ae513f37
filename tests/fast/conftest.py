"""What every test of the fast block shares: one thread, a fixed seed, a subnet that says what it saw."""

import os

import pytest
import torch
from torch import Tensor, nn

from flowref.fast import AllInOneBlock

# Triton is interpreted, or not, by a whole process: `test_triton.py` runs these in one of their own.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]


class Pixelwise(nn.Module):
    """b + w v at every pixel, for any rank and any number of channels, 0 included; counts its calls."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(m, n))
        self.b = nn.Parameter(torch.randn(m))
        self.calls = 0

    def forward(self, v: Tensor) -> Tensor:
        self.calls += 1
        return torch.einsum("oi,bi...->bo...", self.w, v) + self.b.view(-1, *[1] * (v.dim() - 2))


@pytest.fixture(autouse=True)
def steady():
    """One thread, one seed, the usual default dtype: what a test sees depends on nothing before it."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.fixture
def block():
    """A function (dims, conditions, **flags) -> a block that is off its starting point, so that no constant hides."""

    def build(dims=(4,), conditions=(), *, dtype=torch.float32, subnet=Pixelwise, moved=True, **flags):
        made = AllInOneBlock([dims], [(k, *dims[1:]) for k in conditions], subnet, **flags).to(dtype)
        if moved:
            with torch.no_grad():
                made.global_scale += torch.randn_like(made.global_scale)
                made.global_offset += torch.randn_like(made.global_offset)
        return made

    return build
