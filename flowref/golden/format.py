"""The bytes of a set of vectors: manifest, schema and safetensors, the same wherever they are written.

    FORMAT, SCHEMA     the name of this format, the JSON Schema of the manifest
    Vector             one vector: its entry of the manifest, its arrays in the order of the file
    files_of           vectors -> name and bytes of every file
    fill               one vector's answers and allowed errors

docs/golden.md describes the format. Nothing here depends on another library's choice of order or padding.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowref.cases import Case
from flowref.cases.case import canonical
from flowref.golden.allowed import allowed
from flowref.golden.answers import answers
from flowref.golden.flags import FLAGS, flags_of
from flowref.golden.subnet import FORMULAS
from flowref.spec import AFFINE_TYPES, MAX_RANK, Dialect

Array = NDArray[np.float64]
FORMAT = "flowref-golden-1"
SCALAR = "sum(gy * out) + sum(gj * logdet)"
MANIFEST, SCHEMA_FILE = "manifest.json", "schema.json"
FILES = {dialect.value: f"{dialect.value}.safetensors" for dialect in Dialect}
MAX_NUMBERS = 4096  # given, so that a vector is computed in seconds
ID = r"^[0-9a-f]{16}$"


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": sorted(properties), "additionalProperties": False}


def _map(key: str, value: Any) -> dict[str, Any]:
    return {"type": "object", "patternProperties": {key: value}, "additionalProperties": False}


_TEXT, _FLAG = {"type": "string"}, {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0}
_SHAPE = {"type": "array", "items": _COUNT, "minItems": 1, "maxItems": MAX_RANK + 1}
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Manifest of a set of golden vectors of the AllInOneBlock",
    **_object(
        format={"const": FORMAT},
        scalar={"const": SCALAR},
        subnets=_map(r"^[a-z]+$", _TEXT),
        flags=_map(r"^[a-z0-9-]+$", _object(note=_TEXT, sees=_TEXT, chance=_TEXT)),
        files=_map(
            r"^[a-z0-9-]+\.safetensors$",
            _object(bytes=_COUNT, sha256={"type": "string", "pattern": r"^[0-9a-f]{64}$"}, vectors=_COUNT),
        ),
        vectors={
            "type": "array",
            "items": _object(
                id={"type": "string", "pattern": ID},
                file={"enum": sorted(FILES.values())},
                spec=_object(
                    dims=_SHAPE,
                    dims_c={"type": "array", "items": _SHAPE},
                    affine_clamping={"type": "number", "minimum": 0},
                    gin_block=_FLAG,
                    global_affine_init={"type": "number", "exclusiveMinimum": 0},
                    global_affine_type={"enum": list(AFFINE_TYPES)},
                    permute_soft=_FLAG,
                    learned_householder_permutation=_COUNT,
                    reverse_permutation=_FLAG,
                    dialect={"enum": [d.value for d in Dialect]},
                ),
                subnet={"enum": list(FORMULAS)},
                flags={"type": "array", "items": _TEXT, "uniqueItems": True},
                steps=_FLAG,
                recipe={"type": ["object", "null"]},
            ),
        },
    ),
}


@dataclass(frozen=True)
class Vector:
    """``entry``: as in the manifest. ``arrays``: by their names without the id. ``margin``: of `allowed`'s rounding."""

    entry: dict[str, Any]
    arrays: dict[str, Array]
    margin: float = np.inf

    @property
    def id(self) -> str:
        return str(self.entry["id"])


def fill(case: Case, *, steps: bool, recipe: Mapping[str, Any] | None = None) -> Vector:
    """The vector of a case. Raises ValueError where it can't be one."""
    given = sum(value.numel() for value in case.arrays.values())
    if given > MAX_NUMBERS:
        raise ValueError(f"the case has {given} numbers, a vector at most {MAX_NUMBERS}. Take a smaller one.")
    wanted = answers(case, steps)
    errors, margin = allowed(case, wanted)
    arrays = {name: value.numpy() for name, value in case.arrays.items()}
    for name, value in wanted.items():
        arrays |= {name: value, f"{name}.error": errors[name]}
    entry = {
        "id": case.id[:16],
        "file": FILES[case.spec.dialect.value],
        "spec": case.head["spec"],
        "subnet": case.subnet.kind,
        "flags": flags_of(case),
        "steps": steps,
        "recipe": None if recipe is None else dict(recipe),
    }
    return Vector(json.loads(canonical(entry)), arrays, margin)


def files_of(vectors: Iterable[Vector]) -> dict[str, bytes]:
    """Every file's name and bytes, the manifest last. Each dialect has its file, also without vectors."""
    ordered = sorted(vectors, key=lambda v: (v.entry["file"], v.id))
    found, table = {}, {}
    for name in sorted(FILES.values()):
        own = [v for v in ordered if v.entry["file"] == name]
        if own:
            found[name] = tensor_bytes({f"{v.id}/{array}": value for v in own for array, value in v.arrays.items()})
            digest = hashlib.sha256(found[name]).hexdigest()
            table[name] = {"bytes": len(found[name]), "sha256": digest, "vectors": len(own)}
    flags = {flag for v in ordered for flag in v.entry["flags"]}
    subnets = {v.entry["subnet"] for v in ordered}
    manifest = {
        "format": FORMAT,
        "scalar": SCALAR,
        "subnets": {kind: formula for kind, formula in FORMULAS.items() if kind in subnets},
        "flags": {id: flag.json() for id, flag in FLAGS.items() if id in flags},
        "files": table,
        "vectors": [v.entry for v in ordered],
    }
    return found | {SCHEMA_FILE: schema_bytes(), MANIFEST: manifest_bytes(manifest)}


def schema_bytes() -> bytes:
    return json.dumps(SCHEMA, indent=1, sort_keys=True).encode() + b"\n"


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """JSON, a line for each flag, file and vector, to be read and compared by people too."""
    lines = []
    for key, value in sorted(manifest.items()):
        if isinstance(value, list):
            text = "[\n" + ",\n".join(canonical(one).decode() for one in value) + "\n]"
        elif isinstance(value, dict):
            rows = [f"{canonical(k).decode()}:{canonical(v).decode()}" for k, v in sorted(value.items())]
            text = "{\n" + ",\n".join(rows) + "\n}"
        else:
            text = canonical(value).decode()
        lines.append(f"{canonical(key).decode()}:{text}")
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def tensor_bytes(arrays: Mapping[str, Array]) -> bytes:
    """A safetensors file: the arrays in this order, little-endian float64, the header padded to a multiple of 8."""
    header: dict[str, Any] = {}
    parts: list[bytes] = []
    at = 0
    for name, value in arrays.items():
        parts.append(np.ascontiguousarray(value, "<f8").tobytes())
        header[name] = {"dtype": "F64", "shape": list(value.shape), "data_offsets": [at, at + len(parts[-1])]}
        at += len(parts[-1])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)
