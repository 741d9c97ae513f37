"""Failures that the user already knows: a TOML file, read strictly.

    [[known]]
    law = "shape.answers-without-samples"  # one law
    where = ["batch-0"]                     # excused are cases that meet all of these; without it, every case
    direction = "reverse"                   # optional, as are target, precision and device
    reason = "squeezes the batch axis"
    case = { B = 0, C = 4, dialect = "anomalib" }     # fields of a Recipe, or the path of a case, from this file

A law with entries is judged twice: inside ``where`` it must still fail, its stored case first; outside it must hold.
Anything unknown in the file is refused, with the nearest legal spelling: a misspelt law would excuse nothing, silently.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from flowref.cases import Case, Recipe, store
from flowref.cases.regimes import REGIMES
from flowref.gate.options import DEVICES, DIRECTIONS, PRECISIONS, Unusable, nearest
from flowref.gate.plan import Item
from flowref.laws import registry

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEYS = ("law", "where", "target", "precision", "direction", "device", "reason", "case")


@dataclass(frozen=True)
class Known:
    """One entry: a law that fails on cases that meet all of ``where``."""

    law: str
    reason: str
    where: tuple[str, ...] = ()
    target: str | None = None
    precision: str | None = None
    direction: str | None = None
    device: str | None = None
    case: Path | Recipe | None = None

    def concerns(self, item: Item) -> bool:
        """Whether the entry is about this item."""
        asked = (self.target, self.precision, self.direction, self.device)
        given = (item.target, item.precision, item.direction, item.device)
        return self.law == item.law.id and all(a in (None, g) for a, g in zip(asked, given, strict=True))

    def excuses(self, case: Case) -> bool:
        """Whether a case lies inside ``where``."""
        return set(self.where) <= case.regimes

    def stored(self, dialect: str | None = None) -> Case | None:
        """The case that the entry keeps, if it keeps one; a Recipe's in this dialect."""
        if isinstance(self.case, Path):
            return store.load(self.case)
        return None if self.case is None else replace(self.case, dialect=dialect or self.case.dialect).case()


def read(path: Path) -> list[Known]:
    """The entries of a file. Raises Unusable, naming the entry, the value and what is allowed."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as broken:
        raise Unusable(f"{path}: cannot be read as TOML: {broken}") from None
    _only(f"{path}", document, ("known",))
    entries = document.get("known", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Unusable(f"{path}: known is no list of tables. Write each entry under [[known]].")
    return [_entry(f"{path}, entry {k}", entry, path.parent) for k, entry in enumerate(entries, start=1)]


def _entry(place: str, entry: dict[str, Any], folder: Path) -> Known:
    _only(place, entry, KEYS)
    for key in ("law", "reason"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise Unusable(f"{place}: {key}={entry.get(key)!r} is no text. Each entry needs a law and a reason.")
    where = entry.get("where", [])
    if not isinstance(where, list) or not all(isinstance(word, str) for word in where):
        raise Unusable(f"{place}: where={where!r} is no list of regimes. Write for example where = ['batch-0'].")
    _known(f"{place}: law", entry["law"], [law.id for law in registry.all()])
    for word in where:
        _known(f"{place}: where", word, list(REGIMES))
    for key, legal in (("precision", PRECISIONS), ("direction", (*DIRECTIONS, "both")), ("device", DEVICES[1:])):
        if key in entry:
            _known(f"{place}: {key}", entry[key], legal)
    options = {key: entry.get(key) for key in ("target", "precision", "direction", "device")}
    case = _case(place, entry.get("case"), folder)
    one = Known(entry["law"], entry["reason"], tuple(where), **options, case=case)
    stored = one.stored()
    if stored is not None and not one.excuses(stored):
        outside = sorted(set(where) - stored.regimes)
        raise Unusable(f"{place}: its case lies outside where={where!r}: it is not {outside[0]}. Give one that is.")
    return one


def _case(place: str, value: object, folder: Path) -> Path | Recipe | None:
    if value is None:
        return None
    try:
        if isinstance(value, dict):
            _only(f"{place}: case", value, [field.name for field in fields(Recipe)])
            settled: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in value.items()}
            recipe = Recipe(**settled)
            return recipe
        if isinstance(value, str):
            store.load(folder / value)
            return folder / value
    except (OSError, ValueError, TypeError) as broken:
        raise Unusable(f"{place}: case={value!r} is no case: {broken}") from None
    raise Unusable(f"{place}: case={value!r} is neither the path of a case nor a table of a Recipe's fields.")


def _only(place: str, table: dict[str, Any], legal: Sequence[str]) -> None:
    for key in table:
        if key not in legal:
            raise Unusable(f"{place}: the key {key!r} is unknown. {nearest(key, legal)}")


def _known(place: str, word: Any, legal: Sequence[str]) -> None:
    if word not in legal:
        more = " `flowref laws` lists all." if place.endswith(": law") else ""
        raise Unusable(f"{place}={word!r} is unknown. {nearest(str(word), legal)}{more}")


def concerning(entries: Iterable[Known], item: Item) -> list[Known]:
    """The entries that an item must be judged with."""
    return [entry for entry in entries if entry.concerns(item)]
