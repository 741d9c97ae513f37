"""FrEIA's block as a target: ``flowref.targets.freia:AllInOneBlock``.

FrEIA 0.2 as published is of the dialect anomalib. Its main branch carries the same version but computes another map:
gate it with ``--dialect freia-main``, and ``--known-failures freia-main``.
"""

from __future__ import annotations

from flowref.targets.libraries import missing

try:
    from FrEIA.modules import AllInOneBlock
except ImportError as error:
    raise missing("FrEIA", error) from error

__all__ = ["AllInOneBlock"]
