"""A set of vectors from a folder, which may be a stranger's: everything is checked before it is used.

Golden     the set: manifest, arrays, and the case of a vector
FOLDER     where golden/v1 lies, in a checkout and in the wheel
FileError  what reading raises: the file, what is wrong with it, what to do
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import torch
from numpy.typing import NDArray

from flowref.cases import Case, files
from flowref.cases.case import canonical
from flowref.cases.files import FileError, damaged
from flowref.cases.store import shapes_of
from flowref.golden.answers import shapes
from flowref.golden.format import FORMAT, MANIFEST, MAX_NUMBERS, SCHEMA, SCHEMA_FILE, Vector, manifest_bytes
from flowref.golden.subnet import subnet_spec
from flowref.spec import BlockSpec

Array = NDArray[np.float64]
PACKAGED = Path(__file__).parent / "v1"
FOLDER = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[2] / "golden" / "v1"
MAX_MANIFEST, MAX_ARRAYS, MAX_VECTORS = 2**21, 2**25, 2048


@dataclass(frozen=True)
class Golden:
    """A set whose files are as their manifest says, each vector complete and its id the hash of what is given."""

    folder: Path
    vectors: tuple[Vector, ...]

    @classmethod
    def open(cls, folder: Path | str = FOLDER) -> Golden:
        """The set in the folder. Raises FileError."""
        folder = Path(folder)
        manifest = _manifest(folder / MANIFEST)
        arrays = {name: _arrays(folder / name, stated) for name, stated in manifest["files"].items()}
        for path in sorted(folder.glob("*.safetensors")):
            if path.name not in arrays:
                raise FileError(path, f"{MANIFEST} doesn't list it", "Move it away, or fetch the whole set again")
        vectors = tuple(_vectors(folder / MANIFEST, manifest, arrays))
        for name, stated in manifest["files"].items():
            if (count := sum(v.entry["file"] == name for v in vectors)) != stated["vectors"]:
                damaged(folder / MANIFEST, f"{name} should hold {stated['vectors']} vectors, and {count} are listed")
            if left := next(iter(arrays[name]), None):
                damaged(folder / name, f"it holds {left}, which belongs to no vector that is listed")
        return cls(folder, vectors)


def case_of(vector: Vector) -> Case:
    """The case that a checked vector stands for."""
    given = {name: torch.from_numpy(value) for name, value in vector.arrays.items()}
    spec = BlockSpec(**vector.entry["spec"])
    return _case(spec, vector.entry["subnet"], given)


def _case(spec: BlockSpec, kind: str, given: dict[str, torch.Tensor]) -> Case:
    return Case(
        spec=spec,
        subnet=subnet_spec(kind, spec, given["x"].shape[0]),
        state={name.removeprefix("state."): v for name, v in given.items() if name.startswith("state.")},
        x=given["x"],
        c=tuple(given[f"c{k}"] for k in range(len(spec.dims_c))),
        gy=given["gy"],
        gj=given["gj"],
    )


def _manifest(path: Path) -> dict[str, Any]:
    text = files.read(path, MAX_MANIFEST)
    manifest = files.parsed(path, text)
    stated = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
    if stated != FORMAT:
        newer = isinstance(stated, str) and stated.startswith(FORMAT.rpartition("-")[0])
        remedy = "Update flowref, or take the vectors of this version" if newer else "Give a set that flowref wrote"
        raise FileError(path, f"its format is {stated!r}, need {FORMAT!r}", remedy)
    if isinstance(vectors := manifest.get("vectors"), list) and len(vectors) > MAX_VECTORS:
        damaged(path, f"it lists {len(vectors)} vectors, where at most {MAX_VECTORS} are read")
    error = next(jsonschema.Draft202012Validator(SCHEMA).iter_errors(manifest), None)
    if error is not None:
        place = "".join(f"[{part!r}]" for part in error.absolute_path)
        damaged(path, f"its schema doesn't allow {place or 'it'}: {error.message[:200]}")
    if manifest_bytes(manifest) != text:
        damaged(path, "its JSON is written otherwise than flowref writes it")
    return dict(manifest)


def check_schema(folder: Path, want: bytes) -> None:
    """Raises FileError unless the schema that lies there is ours."""
    if files.read(folder / SCHEMA_FILE, MAX_MANIFEST) != want:
        damaged(folder / SCHEMA_FILE, f"it is not the schema of {FORMAT}")


def _arrays(path: Path, stated: dict[str, Any]) -> dict[str, Array]:
    content = files.read(path, MAX_ARRAYS)
    if len(content) != stated["bytes"]:
        damaged(path, f"it has {len(content)} bytes, and {MANIFEST} says {stated['bytes']}")
    if (digest := hashlib.sha256(content).hexdigest()) != stated["sha256"]:
        damaged(path, f"its sha256 is {digest[:16]}…, and {MANIFEST} says {stated['sha256'][:16]}…")
    return files.arrays(path, content)


def _vectors(path: Path, manifest: dict[str, Any], arrays: dict[str, dict[str, Array]]) -> Iterator[Vector]:
    """Each vector of the manifest, its arrays taken out of ``arrays``."""
    entries = manifest["vectors"]
    order = [(entry["file"], entry["id"]) for entry in entries]
    if order != sorted(set(order)):
        damaged(path, "its vectors are not in order, or one is there twice")
    for entry in entries:
        for what, known in (("flags", manifest["flags"]), ("subnet", manifest["subnets"])):
            for word in [entry[what]] if isinstance(entry[what], str) else entry[what]:
                if word not in known:
                    damaged(path, f"vector {entry['id']} has the {what} {word!r}, which isn't explained")
        if entry["file"] not in arrays:
            damaged(path, f"vector {entry['id']} lies in {entry['file']}, which isn't listed")
        yield _vector(path, entry, arrays[entry["file"]])


def _vector(path: Path, entry: dict[str, Any], arrays: dict[str, Array]) -> Vector:
    id = entry["id"]
    try:
        spec = BlockSpec(**entry["spec"])
    except (ValueError, TypeError, OverflowError) as error:
        raise FileError(path, f"the spec of vector {id} is refused ({error})", "Write the set anew") from None
    if f"{spec.dialect}.safetensors" != entry["file"]:
        damaged(path, f"vector {id} is of the dialect {spec.dialect}, and lies in {entry['file']}")
    x = arrays.get(f"{id}/x")
    B = x.shape[0] if x is not None and x.ndim else 0
    want = shapes_of(spec, subnet_spec(entry["subnet"], spec, B), B)
    given = _take(path, id, want, arrays)
    if sum(v.size for v in given.values()) > MAX_NUMBERS:
        damaged(path, f"vector {id} gives more than {MAX_NUMBERS} numbers")
    case = _case(spec, entry["subnet"], {name: torch.from_numpy(v) for name, v in given.items()})
    if canonical(case.head["spec"]) != canonical(entry["spec"]):
        damaged(path, f"a value in the spec of vector {id} has another type than flowref writes")
    if case.id[:16] != id:
        damaged(path, f"what vector {id} gives has the hash {case.id[:16]}")
    wanted: dict[str, tuple[int, ...]] = {}
    for direction in ("forward", "reverse"):
        for name, shape in shapes(case, direction == "reverse", entry["steps"]).items():
            wanted |= {f"{direction}.{name}": shape, f"{direction}.{name}.error": (2, *shape)}
    found = _take(path, id, wanted, arrays)
    if negative := next((name for name, v in found.items() if name.endswith(".error") and (v < 0).any()), None):
        damaged(path, f"{id}/{negative} allows an error below 0")
    return Vector(entry, {name: given[name] for name in case.arrays} | found)


def _take(path: Path, id: str, want: dict[str, tuple[int, ...]], arrays: dict[str, Array]) -> dict[str, Array]:
    found = {}
    for name, shape in want.items():
        value = arrays.pop(f"{id}/{name}", None)
        if value is None or value.shape != shape:
            came = "isn't there" if value is None else f"has the shape {value.shape}"
            damaged(path, f"{id}/{name} {came}: its spec needs the shape {shape}")
        found[name] = value
    return found
