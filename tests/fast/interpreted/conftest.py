"""Triton's kernels, interpreted: here memory that nobody wrote holds NaN, and passes are counted."""

import pytest
import torch

from flowref.fast import choice, device, kernels


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """The CPU's tensors go through Triton's kernels; what `empty` gives holds NaN, or an index far outside."""
    monkeypatch.setenv(choice.VARIABLE, "triton")
    assert kernels("cpu") == "triton (interpreted)"
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan() and torch.empty(1, dtype=torch.int64) > 2**62
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def passes(monkeypatch):
    """Counts the passes that kernels run."""
    counted, run = [], device.run

    def noted(*given):
        counted.append(True)  # and keeps nothing of the pass
        return run(*given)

    monkeypatch.setattr(device, "run", noted)
    return counted


@pytest.fixture
def small_tiles(monkeypatch):
    """Few numbers to a tile and few programs, so that small cases take several of each, and loops in them."""
    for name, value in (("TILE", 32), ("PROGRAMS", 4), ("ALONE", 1), ("MOST", 3)):
        monkeypatch.setattr(device, name, value)
