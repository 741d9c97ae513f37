"""Vectors of somebody's own: from a file of specifications, or from a stored case.

specs_of   the vectors for each specification of a TOML or JSON file
add        a stored case -> one more vector in a folder
"""

from __future__ import annotations

import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from flowref.cases import files, load
from flowref.cases.subnets import KEPT
from flowref.gate.options import Unusable
from flowref.golden.format import MANIFEST, MAX_NUMBERS, Vector, fill
from flowref.golden.generate import check_folder, write
from flowref.golden.listing import Listed, for_spec
from flowref.golden.reading import Golden
from flowref.spec import BlockSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_FILE = 2**20
FIELDS = (*(name for name in BlockSpec.__dataclass_fields__), "batch", "seed")
EXAMPLE = 'Write for example:\n[[spec]]\ndims = [4, 8, 8]\nglobal_affine_type = "EXP"'


def specs_of(path: Path) -> list[Listed]:
    """Four vectors for each ``[[spec]]`` of the file. Raises Unusable, with its number, for one that is none."""
    content = _content(path)
    if set(content) != {"spec"} or not isinstance(content["spec"], list) or not content["spec"]:
        raise Unusable(f"--spec={str(path)!r} holds {', '.join(content) or 'nothing'}: need a list 'spec'. {EXAMPLE}")
    found: list[Listed] = []
    for number, given in enumerate(content["spec"], 1):
        try:
            found += _listed(given)
        except (ValueError, TypeError) as error:
            raise Unusable(f"--spec={str(path)!r}, spec {number}: {error}") from None
    return found


def _content(path: Path) -> dict[str, Any]:
    try:
        text = files.read(path, MAX_FILE)
        content = tomllib.loads(text.decode()) if path.suffix == ".toml" else files.parsed(path, text)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"--spec={str(path)!r} can't be read: {error}. Give a .toml or .json file. {EXAMPLE}") from None
    return content if isinstance(content, dict) else {}


def _listed(given: Any) -> list[Listed]:
    if not isinstance(given, dict):
        raise TypeError(
            f"it is no table (but of type {type(given).__name__}): need one of the constructor's arguments."
        )
    for name in given:
        if name not in FIELDS:
            near = get_close_matches(name, FIELDS, n=1)
            raise ValueError(f"unknown field {name!r}. " + (f"Did you mean {near[0]!r}?" if near else _fields()))
    if "dims" not in given:
        raise ValueError("it has no dims: need (C, *S), channels first. Write for example dims = [4, 8, 8].")
    batch, seed = (_whole(name, given.get(name, default)) for name, default in (("batch", 2), ("seed", 0)))
    spec = BlockSpec(**{name: value for name, value in given.items() if name not in ("batch", "seed")})
    if (size := batch * spec.C * spec.N) > MAX_NUMBERS:
        raise ValueError(f"dims={spec.dims} with batch={batch} makes {size} numbers: need at most {MAX_NUMBERS}.")
    return for_spec(spec, batch, seed)


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"{name}={value!r}: need a whole number from 0.")
    return value


def _fields() -> str:
    return f"Choose out of {', '.join(FIELDS)}."


def add(case_file: Path, folder: Path) -> tuple[Vector, bool]:
    """The vector of a stored case, and whether it is new to the folder. Raises Unusable or FileError."""
    case = load(case_file)
    if case.subnet.kind in KEPT:
        raise Unusable(f"{case_file}: its subnet is of the kind {case.subnet.kind}, which is one only inside torch.")
    if wide := next((name for name, v in case.arrays.items() if not v.float().double().equal(v)), None):
        raise Unusable(f"{case_file}: {wide} holds numbers that are no float32. Save a case of the precision float32.")
    check_folder(folder)
    there = list(Golden.open(folder).vectors) if (folder / MANIFEST).exists() else []
    if known := next((v for v in there if v.id == case.id[:16]), None):
        return known, False
    try:
        vector = fill(case, steps=True)
    except ValueError as error:
        raise Unusable(f"{case_file} can't be a vector: {error}") from None
    write([*there, vector], folder, replace=True)
    return vector, True
