"""What can be put under test, and how a name on the command line becomes it.

    Target             what the laws ask of an implementation: build, load, run, state
    Module             the Target made of a class or callable with the documented constructor
    resolve            "MODULE:ATTR" or "path/to/file.py:ATTR" -> Target
    TargetError        the target can't be used: not found, not importable, not callable, states something unknown
    TargetMisbehaved   the target gave what is no block, no state, or no answer

Adapters for public blocks: `flowref.targets.freia:AllInOneBlock`, `flowref.targets.anomalib:AllInOneBlock`;
what they are known to get wrong is in ``known/``.
"""

from flowref.targets.module import Module
from flowref.targets.protocol import Target, TargetError, TargetMisbehaved
from flowref.targets.resolve import resolve

__all__ = ["Module", "Target", "TargetError", "TargetMisbehaved", "resolve"]
