"""Which form runs a pass: compiled kernels where they can, else torch's operators."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from typing import Any

VARIABLE = "FLOWREF_FAST"


def kernels() -> str:
    """ "numba" where the extra `flowref[cpu]` is installed, else "eager"; FLOWREF_FAST=eager or =numba decides.

    Under "numba" eager operators still run what kernels can't: other dtypes and devices, autocast, torch.compile,
    torch.func, forward-mode derivatives, derivatives of gradients, B = 0. Raises ValueError for another word, and
    ImportError where numba is asked for and missing.
    """
    return "eager" if module() is None else "numba"


def module() -> Any:
    """The module with the kernels, or None for eager."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "eager", "numba"):
        raise ValueError(f"{VARIABLE}={wanted!r}: expected eager or numba. Unset it to have the best that is there.")
    if wanted == "eager":
        return None
    found = _found()
    if found is None and wanted == "numba":
        raise ImportError(f"{VARIABLE}=numba, but numba can't be imported: install flowref[cpu], or unset it.")
    return found


@cache
def _found() -> Any:
    try:
        return import_module("flowref.fast.fused")
    except ImportError:
        return None
