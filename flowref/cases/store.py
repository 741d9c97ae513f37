"""A case as two files: ``<id>.json`` says what it is, ``<id>.safetensors`` holds its numbers.

    save            writes both, each whole or not at all; the first 16 digits of the hash are the name
    load            reads them back and trusts nothing: sizes, fields, names, shapes, dtype, finite numbers, hash
    CaseFileError   what load raises: the file, what is wrong with it, what to do

The JSON names no path, and nothing is ever unpickled. Files may be renamed, both alike.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save as tensor_bytes

from flowref.cases import files
from flowref.cases.case import Case, canonical
from flowref.cases.files import FileError as CaseFileError
from flowref.cases.files import damaged
from flowref.cases.layouts import LAYOUTS
from flowref.cases.recipe import Recipe
from flowref.cases.subnets import PROBES, SubnetSpec
from flowref.spec import BlockSpec, Dialect

FORMAT = "flowref-case-1"
KEYS = ("arrays", "format", "id", "layout", "recipe", "spec", "subnet")
MAX_JSON = 2**20
MAX_TENSORS = 2**26


def save(case: Case, folder: Path | str) -> Path:
    """Write the case into the folder, which is made if need be; the path of its JSON file."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = case.arrays
    head = {
        **case.head,
        "format": FORMAT,
        "id": case.id,
        "arrays": [[name, list(value.shape)] for name, value in arrays.items()],
        "recipe": None if case.recipe is None else case.recipe.json(),
    }
    path = folder / f"{case.id[:16]}.json"
    numbers = {name: value.contiguous().numpy().astype("<f8") for name, value in arrays.items()}
    files.write(path.with_suffix(".safetensors"), tensor_bytes(numbers))
    files.write(path, canonical(head) + b"\n")  # last: where it is, both are whole
    return path


def load(path: Path | str) -> Case:
    """The case that `save` wrote. Raises CaseFileError unless every byte that matters is as it was written."""
    path = Path(path)
    if path.suffix == ".safetensors":
        path = path.with_suffix(".json")
    head = _head(path)
    numbers = path.with_suffix(".safetensors")
    spec = _spec(path, head["spec"])
    if head["subnet"] not in tuple(PROBES) or head["layout"] not in LAYOUTS:
        damaged(path, f"subnet {head['subnet']!r} or layout {head['layout']!r} is unknown")
    subnet = SubnetSpec(head["subnet"], spec.subnet_in, spec.subnet_out, spec.rank)
    arrays = {k: torch.from_numpy(v) for k, v in files.arrays(numbers, files.read(numbers, MAX_TENSORS)).items()}
    stated = head["arrays"]
    if stated != [[name, list(arrays[name].shape)] for name, _ in stated if name in arrays] or len(stated) != len(
        arrays
    ):
        damaged(path, f"it lists other arrays or shapes than {numbers.name} holds")
    want = shapes_of(spec, subnet, arrays["x"].shape[0] if arrays.get("x", torch.tensor(0.0)).ndim else 0)
    got = {name: tuple(value.shape) for name, value in arrays.items()}
    if want != got:
        wrong = sorted(name for name in want | got if want.get(name) != got.get(name))[0]
        damaged(numbers, f"{wrong} has the shape {got.get(wrong)}, where its specification needs {want.get(wrong)}")
    case = Case(
        spec=spec,
        subnet=subnet,
        state={name.removeprefix("state."): v for name, v in arrays.items() if name.startswith("state.")},
        x=arrays["x"],
        c=tuple(arrays[f"c{k}"] for k in range(len(spec.dims_c))),
        gy=arrays["gy"],
        gj=arrays["gj"],
        layout=head["layout"],
    )
    if canonical(case.head) != canonical({name: head[name] for name in case.head}):
        damaged(path, "a value of its specification has another type than flowref writes")
    if case.id != head["id"]:
        damaged(path, f"its content has the hash {case.id[:16]}…, but it states {str(head['id'])[:16]}…")
    if case.layout == "expanded" and any((v != v[:1]).any() for v in (case.x, *case.c)):
        damaged(path, "its layout repeats one sample, but the samples differ")
    object.__setattr__(case, "recipe", _recipe(path, head["recipe"], case))
    return case


def _head(path: Path) -> dict[str, Any]:
    text = files.read(path, MAX_JSON)
    head = files.parsed(path, text)
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        stated = head.get("format") if isinstance(head, dict) else type(head).__name__
        raise CaseFileError(path, f"its format is {stated!r}, need {FORMAT!r}", "Give a case written by this version")
    if sorted(head) != sorted(KEYS):
        odd = sorted(set(head) ^ set(KEYS))[0]
        damaged(path, f"field {odd!r} is {'unknown' if odd in head else 'missing'}: need {', '.join(KEYS)}")
    if canonical(head) + b"\n" != text:
        damaged(path, "its JSON is written otherwise than flowref writes it")
    pairs = head["arrays"]
    if not isinstance(pairs, list) or not all(
        isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) for p in pairs
    ):
        damaged(path, "field 'arrays' is no list of names and shapes")
    return head


def _spec(path: Path, value: Any) -> BlockSpec:
    names = {f.name for f in fields(BlockSpec)}
    if not isinstance(value, dict) or set(value) != names:
        odd = sorted(set(value) ^ names)[0] if isinstance(value, dict) else "spec"
        damaged(path, f"its specification has a missing or unknown field {odd!r}")
    try:
        return BlockSpec(**{**value, "dialect": Dialect(value["dialect"])})
    except (ValueError, TypeError, OverflowError) as error:
        raise CaseFileError(path, f"its specification is refused ({error})", "Save the case anew") from None


def shapes_of(spec: BlockSpec, subnet: SubnetSpec, B: int) -> dict[str, tuple[int, ...]]:
    """The arrays that a case of this specification has."""
    C, ones, n = spec.C, (1,) * spec.rank, spec.learned_householder_permutation
    shapes = {"x": (B, *spec.dims), "gy": (B, *spec.dims), "gj": (B,)}
    shapes |= {f"c{k}": (B, *dims) for k, dims in enumerate(spec.dims_c)}
    shapes |= {"state.global_scale": (1, C, *ones), "state.global_offset": (1, C, *ones)}
    if n:
        shapes |= {"state.w_0": (C, C), "state.vk_householder": (n, C)}
    else:
        shapes |= {"state.w_perm": (C, C, *ones), "state.w_perm_inv": (C, C, *ones)}
    return shapes | {f"state.subnet.{name}": shape for name, shape in subnet.shapes.items()}


def _recipe(path: Path, value: Any, case: Case) -> Recipe | None:
    """The recipe, if it still makes this very case; a later version of the drawing may not."""
    if value is None:
        return None
    try:
        recipe = Recipe(**value)
    except (ValueError, TypeError, OverflowError) as error:
        raise CaseFileError(path, f"its recipe is refused ({error})", "Save the case anew") from None
    spec = case.spec
    sizes = (recipe.B, recipe.C, recipe.S, recipe.conditions, recipe.reflections)
    if sizes != (case.B, spec.C, spec.S, tuple(d[0] for d in spec.dims_c), spec.learned_householder_permutation):
        damaged(path, "its recipe has other sizes than its specification")
    return recipe if recipe.case().id == case.id else None
