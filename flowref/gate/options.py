"""The options of the gate, declared once: the plugin, the command line and the docs read this table.

An unknown value is refused here with the value, what is allowed and the nearest legal spelling (exit code 4).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

DEFAULT_TARGET = "flowref.fast:AllInOneBlock"
DIALECTS = ("anomalib", "freia-main", "documented")
PROFILES = ("ci", "smoke", "nightly")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "float64", "bfloat16", "float16")
DIRECTIONS = ("forward", "reverse")


class Unusable(Exception):
    """The command can't be run as it was given: exit code 4. The message says what was given, what is allowed."""


@dataclass(frozen=True)
class Option:
    """One option: its name, how its values are shown (default first), and what it does."""

    name: str
    values: str
    help: str
    flag: bool = False
    repeatable: bool = False

    @property
    def key(self) -> str:
        """The attribute under which pytest keeps the value."""
        return "flowref_" + self.name.strip("-").replace("-", "_")


OPTIONS = {
    option.name: option
    for option in (
        Option("--target", DEFAULT_TARGET, "MODULE:ATTR or path/to/file.py:ATTR, the block to judge", repeatable=True),
        Option("--dialect", "what the target says, " + ", ".join(DIALECTS), "which of the published maps is meant"),
        Option("--profile", ", ".join(PROFILES), "how long to search: nightly takes an hour, nightly:8h eight"),
        Option("--device", ", ".join(DEVICES), "where the target runs; auto is CUDA where there is one"),
        Option("--precision", "float32,float64; also bfloat16, float16", "precisions to judge, joined by commas"),
        Option("--known-failures", "FILE", "TOML file of failures already known; ours: freia, freia-main, anomalib"),
        Option("--report", "DIR", "write report.json, junit.xml and failing cases there"),
        Option("--law", "ID", "judge this law or family only", repeatable=True),
        Option("--no-shrink", "", "report the first failing case as it was drawn", flag=True),
        Option("--call-timeout", "60", "seconds that one pass may take; a longer one breaks its law"),
    )
}


def nearest(word: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown ``word``: the nearest legal one, or all of them."""
    close = get_close_matches(word, known, n=1, cutoff=0.4)
    return f"Did you mean {close[0]}?" if close else f"Choose one of {', '.join(known)}."


def one_of(name: str, value: str, known: Sequence[str]) -> str:
    """``value``, which must be in ``known``. Raises Unusable."""
    if value not in known:
        near = get_close_matches(value, known, n=1, cutoff=0.4)
        advice = f"Did you mean {near[0]}?" if near else "Use one of them."
        raise Unusable(f"{name}={value!r} is unknown: need one of {', '.join(known)}. {advice}")
    return value


@dataclass(frozen=True)
class Profile:
    """How much is drawn for a law.

    ``name``: rows of the stream. ``searched``: examples searched after the rows, ``searched_edge`` for each edge.
    ``seconds``: for `nightly`, what the whole run is given. ``fresh``: cases differ from run to run, by ``seed``.
    """

    name: str
    searched: int
    searched_edge: int
    seconds: float = 0.0
    seed: int = 0

    @property
    def fresh(self) -> bool:
        """Whether cases are drawn anew in each run."""
        return self.name == "nightly"

    @property
    def rows(self) -> str:
        """The profile of the case stream whose explicit rows come first."""
        return "smoke" if self.name == "smoke" else "ci"

    @classmethod
    def parse(cls, text: str) -> Profile:
        """`smoke`, `ci`, `nightly`, `nightly:90m`, or `nightly:90m@SEED` to repeat one. Raises Unusable."""
        match = re.fullmatch(r"nightly(?::(\d+(?:\.\d+)?)([smh]))?(?:@(\d+))?", text)
        if match:
            amount, unit, seed = match.groups()
            seconds = float(amount or 1) * {"s": 1, "m": 60, "h": 3600}[unit or "h"]
            return cls("nightly", searched=1_000_000, searched_edge=100, seconds=seconds, seed=int(seed or 0))
        if text.startswith("nightly"):
            raise Unusable(
                f"--profile={text!r} says no duration: need nightly, nightly:90m, nightly:8h or nightly:600s, and to "
                f"repeat one @SEED behind it. Use for example nightly:8h."
            )
        one_of("--profile", text, PROFILES)
        return cls("smoke", searched=8, searched_edge=2) if text == "smoke" else cls("ci", searched=40, searched_edge=6)


@dataclass(frozen=True)
class Settings:
    """What was asked for, checked."""

    targets: tuple[str, ...] = (DEFAULT_TARGET,)
    dialect: str | None = None
    profile: str = "ci"
    device: str = "auto"
    precisions: tuple[str, ...] = ("float32", "float64")
    known_failures: Path | None = None
    report: Path | None = None
    laws: tuple[str, ...] = ()
    shrink: bool = True
    call_timeout: float = 60.0
    budget: Profile = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", Profile.parse(self.profile))
        if self.dialect is not None:
            one_of("--dialect", self.dialect, DIALECTS)
        one_of("--device", self.device, DEVICES)
        for precision in self.precisions:
            one_of("--precision", precision, PRECISIONS)
        if not self.precisions:
            raise Unusable(
                f"--precision names none: need one or more of {', '.join(PRECISIONS)}. Use for example float32."
            )
        if not self.targets:
            raise Unusable(f"--target names none: need MODULE:ATTR or path/to/file.py:ATTR, such as {DEFAULT_TARGET}.")
        if not self.call_timeout > 0:
            raise Unusable(f"--call-timeout={self.call_timeout:g} is no duration: need seconds > 0. Use 60.")

    @classmethod
    def read(cls, get: Callable[[str], Any]) -> Settings:
        """The settings out of raw option values: ``get`` takes an option's name. Raises Unusable."""
        unless = lambda value, default: default if value is None else value  # noqa: E731
        timeout = unless(get("--call-timeout"), 60)
        try:
            seconds = float(timeout)
        except ValueError:
            raise Unusable(f"--call-timeout={timeout!r} is no number: need seconds > 0. Use for example 60.") from None
        return cls(
            targets=tuple(dict.fromkeys(get("--target") or (DEFAULT_TARGET,))),
            dialect=get("--dialect"),
            profile=unless(get("--profile"), "ci"),
            device=unless(get("--device"), "auto"),
            precisions=tuple(dict.fromkeys(w for w in unless(get("--precision"), "float32,float64").split(",") if w)),
            known_failures=_known_file(get("--known-failures")),
            report=_folder(get("--report")),
            laws=tuple(get("--law") or ()),
            shrink=not get("--no-shrink"),
            call_timeout=seconds,
        )

    def __str__(self) -> str:
        """What is judged and how, for a reader."""
        only = f", {', '.join(self.laws)} only" * bool(self.laws)
        where = "" if self.device == "auto" else f", on {self.device}"
        return f"{', '.join(self.targets)} in {', '.join(self.precisions)}{where}, profile {self.profile}{only}"

    def arguments(self) -> list[str]:
        """The command-line arguments that give these settings."""
        words = [f"--target={target}" for target in self.targets]
        words += [f"--law={law}" for law in self.laws]
        words += [f"--dialect={self.dialect}"] if self.dialect else []
        words += [f"--known-failures={self.known_failures}"] if self.known_failures else []
        words += [f"--report={self.report}"] if self.report else []
        words += [] if self.shrink else ["--no-shrink"]
        words += [f"--profile={self.profile}", f"--device={self.device}", f"--precision={','.join(self.precisions)}"]
        return [*words, f"--call-timeout={self.call_timeout!r}"]


def _folder(text: str | None) -> Path | None:
    """The folder of the report, made now: a run that can't keep what it finds is not begun."""
    if not text:
        return None
    folder = Path(text).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unusable(
            f"--report={text!r}: no folder can be made there: {error.strerror}. Give another place."
        ) from None
    if not os.access(folder, os.W_OK):
        raise Unusable(f"--report={text!r}: nothing can be written there. Give another place.")
    return folder


def _known_file(text: str | None) -> Path | None:
    if not text:
        return None
    shipped = Path(__file__).parents[1] / "targets" / "known"
    for path in (Path(text), shipped / f"{text}.toml"):
        if path.is_file():
            return path.absolute()
    names = sorted(path.stem for path in shipped.glob("*.toml"))
    raise Unusable(f"--known-failures={text!r}: no such file. Give a TOML file, or one of ours: {', '.join(names)}.")
