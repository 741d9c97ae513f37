"""The fast AllInOneBlock: an `nn.Module` with the constructor and the state of FrEIA and anomalib."""

from flowref.fast.block import AllInOneBlock
from flowref.fast.choice import kernels

__all__ = ["AllInOneBlock", "kernels"]
