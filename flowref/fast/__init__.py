"""The fast AllInOneBlock: an `nn.Module` with the constructor and the state of FrEIA and anomalib."""

from flowref.fast import pool as _pool  # noqa: F401 (a fork is to be noticed, even one before the first pass)
from flowref.fast.block import AllInOneBlock
from flowref.fast.choice import kernels

__all__ = ["AllInOneBlock", "kernels"]
