"""What to do where a public library is not there."""

from __future__ import annotations

from flowref.targets.protocol import TargetError

INSTALL = "pip install scipy && pip install --no-deps anomalib==2.7.0 FrEIA==0.2"


def missing(what: str, why: object) -> TargetError:
    """The error for a library that this target needs and that can't be imported."""
    return TargetError(f"this target needs {what}, which can't be imported ({why}). Install: {INSTALL}")
