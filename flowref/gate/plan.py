"""Which items a run judges: each a law on a target, in one direction, precision and device.

The plan is made before any target is imported, so a target can't take a law out of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from flowref.gate.options import DEVICES, Settings, Unusable
from flowref.laws import registry
from flowref.laws.registry import HALVES, Law


@dataclass(frozen=True)
class Item:
    """One thing to judge; ``str`` is its test id."""

    target: str
    law: Law
    direction: str
    precision: str
    device: str
    several: bool = False
    part: int | None = None  # of a law in parts

    def __str__(self) -> str:
        words = [self.law.name, self.direction, self.precision, self.device]
        words += [] if self.part is None else [f"part{self.part}"]
        return "-".join(words + [self.target] * self.several)


def selected(settings: Settings) -> tuple[Law, ...]:
    """The laws that ``--law`` names, or all but those in parts. Raises Unusable on an unknown one."""
    try:
        return registry.asked(settings.laws)
    except KeyError as unknown:
        raise Unusable(f"--law: {unknown.args[0]}") from None


def devices(settings: Settings) -> tuple[str, ...]:
    """Where targets run. Raises Unusable where CUDA is asked for and there is none."""
    there = torch.cuda.is_available()
    if settings.device == "cuda" and not there:
        raise Unusable(f"--device='cuda': torch {torch.__version__} sees no CUDA device. Use {', '.join(DEVICES[:2])}.")
    return ("cuda",) if settings.device == "cuda" or (settings.device == "auto" and there) else ("cpu",)


def others(settings: Settings) -> tuple[str, ...]:
    """Devices for the laws that ask for more than one."""
    return ("cuda:1",) if devices(settings) == ("cuda",) and torch.cuda.device_count() > 1 else ()


def items(settings: Settings, laws: Iterable[Law] | None = None) -> list[Item]:
    """Every item of a run, targets outermost."""
    return [
        Item(target, law, direction, precision, device, len(settings.targets) > 1, part)
        for target in settings.targets
        for law in (selected(settings) if laws is None else laws)
        for direction in law.directions
        for precision in dict.fromkeys((*settings.precisions, *HALVES))
        if law.is_judged_in(precision, settings.precisions)
        for device in (*devices(settings), *others(settings))
        if device in law.devices
        for part in (range(law.parts) if law.parts else (None,))
    ]
