"""Who is measured: the fast block in its forms, the public blocks, the user's targets; and whether smoke holds them.

A contender that can't be had here is named with how to get it. None is measured that the gate doesn't hold: the public
ones with the failures that are known of them, everybody else without any.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from flowref.fast import choice
from flowref.gate import check
from flowref.gate.evidence import Evidence
from flowref.gate.options import DEFAULT_TARGET, Settings, Unusable
from flowref.gate.verdict import Verdict
from flowref.targets import Target, TargetError, resolve


@dataclass(frozen=True)
class Contender:
    """A target as it is measured. form: the word in FLOWREF_FAST. known: known failures, a file of ours."""

    name: str
    text: str
    form: str | None = None
    dialect: str | None = None
    known: str | None = None
    compiled: bool = False

    @classmethod
    def of(cls, text: str) -> Contender:
        """A user's target. Raises Unusable."""
        try:
            resolve(text)
        except TargetError as error:
            raise Unusable(str(error)) from None
        return cls(text, text)

    def target(self) -> Target:
        """Raises TargetError."""
        return resolve(self.text, self.dialect)


BESIDE = {
    one.name: one
    for one in (
        Contender("anomalib", "flowref.targets.anomalib:AllInOneBlock", known="anomalib"),
        Contender("freia", "flowref.targets.freia:AllInOneBlock", known="freia"),
        Contender("eager", DEFAULT_TARGET, form="eager"),
        Contender("fast", DEFAULT_TARGET),
        Contender("index", DEFAULT_TARGET, dialect="freia-main"),  # a hard permutation stored as an index
    )
}
COMPILED = replace(BESIDE["anomalib"], name="compiled", compiled=True)


@contextmanager
def form_of(contender: Contender | None) -> Iterator[None]:
    """The fast block's form while this contender runs."""
    before = os.environ.pop(choice.VARIABLE, None)
    if contender is not None and contender.form is not None:
        os.environ[choice.VARIABLE] = contender.form
    try:
        yield
    finally:
        os.environ.pop(choice.VARIABLE, None)
        if before is not None:
            os.environ[choice.VARIABLE] = before


def there(wanted: list[Contender], device: str) -> tuple[list[Contender], dict[str, str]]:
    """Those of ours that are installed, and why the others are left out."""
    found: list[Contender] = []
    missing: dict[str, str] = {}
    for one in wanted:
        try:
            one.target()
        except TargetError as error:
            missing[one.name] = str(error)
            continue
        if one.name == "fast" and kernels(device) == "eager":
            extra = {"cpu": "cpu", "cuda": "triton"}[device]
            missing[one.name] = f"no kernels for {device} here, so it is eager. Install: pip install flowref[{extra}]"
            continue
        found.append(one)
    return found, missing


def kernels(device: str) -> str:
    """Which form of the fast block serves on this device where none is asked for."""
    with form_of(None):
        return choice.kernels(device)


def smoke(contender: Contender, device: str, show: check.Show) -> tuple[Evidence, Verdict]:
    """The gate's evidence and verdict, in the profile smoke, up to the first broken law."""
    options = {"--target": [contender.text], "--dialect": contender.dialect, "--known-failures": contender.known}
    settings = Settings.read((options | {"--profile": "smoke", "--device": device, "--no-shrink": True}).get)
    with form_of(contender):
        return check.run(settings, "auto", True, show)[:2]
