"""The text of the plain block, edited and compiled into a class of its own."""

from __future__ import annotations

import linecache
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

from torch import nn

Edit = tuple[str, str]


@cache
def plain_source() -> str:
    """The source of plain.py, as it is installed."""
    return Path(__file__).with_name("plain.py").read_text(encoding="utf-8")


def edited(edits: Sequence[Edit]) -> str:
    """The plain source after these replacements, each of a text that occurs exactly once.

    Raises: ValueError that names the text and how often it occurs.
    """
    source = plain_source()
    for before, after in edits:
        if source.count(before) != 1:
            raise ValueError(f"an edit must find its text once, but it occurs {source.count(before)} times:\n{before}")
        source = source.replace(before, after)
    return source


def compiled(name: str, edits: Sequence[Edit]) -> type[nn.Module]:
    """The PlainBlock of the edited source, in a fresh module that pickle and tracebacks can find by its name."""
    source = edited(edits)
    module = ModuleType("flowref.faults.edited." + re.sub(r"\W", "_", name))
    module.__file__ = f"<plain.py, {name}>"
    linecache.cache[module.__file__] = (len(source), None, source.splitlines(keepends=True), module.__file__)
    sys.modules[module.__name__] = module
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    return module.__dict__["PlainBlock"]
