"""Which form runs a pass: compiled kernels where they can, else torch's operators."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from typing import Any

import torch

VARIABLE = "FLOWREF_FAST"
FORMS = {"numba": "flowref.fast.fused", "triton": "flowref.fast.device"}
EXTRAS = {"numba": "flowref[cpu]", "triton": "flowref[triton]"}


def kernels(device: torch.device | str = "cpu", precision: torch.dtype | str = "float32") -> str:
    """Which form serves on this device in this dtype: "numba", "triton", "triton (interpreted)", "eager".

    For float32, on the CPU "numba" where the extra `flowref[cpu]` is installed, on CUDA "triton" where triton is; else
    "eager". FLOWREF_FAST=eager, =numba or =triton decides: what that form has no kernels for is left to "eager".
    Triton's run on the CPU under TRITON_INTERPRET=1, which is no evidence for a device.

    Beside kernels eager operators still run what these can't: other dtypes, autocast, torch.compile, torch.func,
    forward-mode derivatives, derivatives of gradients, B = 0. Raises ValueError for another word, and ImportError where
    numba or triton is asked for and missing.
    """
    name, found = _chosen(torch.device(device).type)
    if str(precision).removeprefix("torch.") != "float32":
        return "eager"
    return f"{name} (interpreted)" if getattr(found, "INTERPRETED", False) else name


def module(device: str) -> Any:
    """The module with the kernels for this type of device, or None for eager."""
    return _chosen(device)[1]


def _chosen(device: str) -> tuple[str, Any]:
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "eager", *FORMS):
        raise ValueError(
            f"{VARIABLE}={wanted!r}: expected eager, numba or triton. Unset it to have the best that is there."
        )
    name = wanted or {"cpu": "numba", "cuda": "triton"}.get(device, "eager")
    found = None if name == "eager" else _found(name)
    if isinstance(found, ImportError):
        if wanted in FORMS:
            raise ImportError(
                f"{VARIABLE}={wanted}, but its kernels can't be imported ({found}): install {EXTRAS[wanted]}, or unset "
                f"{VARIABLE}."
            )
        found = None
    able = device in (("cpu",) if name == "numba" else ("cuda",)) or getattr(found, "INTERPRETED", False)
    if found is not None and able:
        return name, found
    return "eager", import_module("flowref.fast.operators") if device == "cpu" else None


@cache
def _found(name: str) -> Any:
    try:
        return import_module(FORMS[name])
    except ImportError as missing:
        return missing
