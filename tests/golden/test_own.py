"""Vectors of one's own: from specifications, and from a stored case."""

import json
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from flowref.cases import Recipe, save
from flowref.faults.plain import PlainBlock
from flowref.gate.options import Unusable
from flowref.golden import commands
from flowref.golden.generate import one, write
from flowref.golden.own import add, specs_of
from flowref.golden.reading import Golden, case_of
from flowref.golden.verify import HELD, against_rules, against_target
from flowref.targets.module import Module

TOML = """
[[spec]]
dims = [5, 2, 2]
dims_c = [[1, 2, 2]]
affine_clamping = 1.5
global_affine_type = "EXP"
reverse_permutation = true
batch = 1

[[spec]]
dims = [1]
dialect = "documented"
gin_block = true
"""


@pytest.mark.parametrize("form", ["toml", "json"])
def test_each_spec_gets_vectors_that_hold_for_a_right_block(tmp_path, form):
    path = tmp_path / f"own.{form}"
    specs = [{"dims": [5, 2], "permute_soft": True}, {"dims": [2], "gin_block": True, "dialect": "documented"}]
    path.write_text(json.dumps({"spec": specs}) if form == "json" else TOML)
    listing = specs_of(path)

    vectors = [one(listed) for listed in listing]
    write(vectors, tmp_path / "own", replace=False)
    golden = Golden.open(tmp_path / "own")

    assert len(vectors) == 8
    assert against_rules(golden, 3, str) == HELD
    for dialect in ("anomalib", "documented"):
        assert against_target(golden, Module(PlainBlock, name="plain", dialect=dialect), (), "cpu", str) == HELD


def test_what_a_spec_says_is_what_its_vectors_have(tmp_path):
    (tmp_path / "own.toml").write_text(TOML)
    spec = specs_of(tmp_path / "own.toml")[0].case().spec

    assert (spec.dims, spec.dims_c, spec.affine_clamping, spec.global_affine_type, spec.reverse_permutation) == (
        (5, 2, 2), ((1, 2, 2),), 1.5, "EXP", True,
    )  # fmt: skip
    assert {listed.recipe.B for listed in specs_of(tmp_path / "own.toml")[:4]} == {1}


BAD = {
    "no TOML": ("dims = [", "can't be read"),
    "no list": ("dims = [4]", "holds dims: need a list 'spec'. Write for example"),
    "empty": ("", "holds nothing: need a list 'spec'"),
    "no dims": ("[[spec]]\ngin_block = true", "spec 1: it has no dims"),
    "unknown field": ("[[spec]]\ndims = [4]\naffine_clampin = 1.0", "Did you mean 'affine_clamping'?"),
    "illegal": ("[[spec]]\ndims = [4]\n[[spec]]\ndims = [4]\naffine_clamping = -1.0", "spec 2: affine_clamping=-1.0"),
    "large": ("[[spec]]\ndims = [64, 64, 64]", "makes 524288 numbers: need at most 4096"),
    "two edges": ("[[spec]]\ndims = [4]\nbatch = 0\naffine_clamping = 0.0", "two edges at once"),
    "no batch": ("[[spec]]\ndims = [4]\nbatch = -1", "batch=-1: need a whole number from 0"),
    "no table": ("spec = [1]", "spec 1: it is no table (but of type int)"),
    "no shape": ('[[spec]]\ndims = "4"', "spec 1: dims_in='4' is no shape"),
}


@pytest.mark.parametrize(("text", "words"), BAD.values(), ids=BAD)
def test_a_bad_file_of_specs_is_refused(tmp_path, text, words):
    (tmp_path / "own.toml").write_text(text)

    with pytest.raises(Unusable) as error:
        specs_of(tmp_path / "own.toml")

    assert words in str(error.value)


def test_a_missing_file_of_specs_is_refused(tmp_path):
    with pytest.raises(Unusable, match="can't be read: .*there is no such file"):
        specs_of(tmp_path / "own.toml")


@pytest.mark.parametrize("subnet", ["linear", "network", "convolutional", "activation", "zero", "constant"])
def test_a_stored_case_becomes_a_vector(tmp_path, subnet):
    case = Recipe(C=4, S=(3,), conditions=(1,), subnet=subnet, seed=3).case()
    path = save(case, tmp_path / "cases")

    vector, new = add(path, tmp_path / "own")
    golden = Golden.open(tmp_path / "own")

    assert new and vector.id == case.id[:16]
    assert case_of(golden.vectors[0]).id == case.id
    assert against_target(golden, Module(PlainBlock, name="plain"), (), "cpu", str) == HELD


def test_adding_keeps_what_is_there(few, folder, tmp_path):
    path = save(Recipe(C=2, B=1, seed=9).case(), tmp_path / "cases")
    out = StringIO()

    assert commands.add(str(path), str(folder), Console(file=out)) == 0
    assert commands.add(str(path), str(folder), Console(file=out)) == 0

    found = {v.id: v for v in Golden.open(folder).vectors}
    assert len(found) == 4
    for vector in few:
        assert all(np.array_equal(found[vector.id].arrays[name], value) for name, value in vector.arrays.items())
    assert [line.split()[2] for line in out.getvalue().splitlines()] == ["added", "is"]


def test_numbers_that_are_no_float32_are_refused(tmp_path):
    path = save(Recipe(bits=53).case(), tmp_path)

    with pytest.raises(Unusable, match="x holds numbers that are no float32"):
        add(path, tmp_path / "own")


def test_a_subnet_that_is_one_only_in_torch_is_refused(tmp_path):
    path = save(Recipe(subnet="frozen").case(), tmp_path)

    with pytest.raises(Unusable, match="its subnet is of the kind frozen"):
        add(path, tmp_path / "own")


def test_a_case_is_not_added_to_a_damaged_folder(folder, tmp_path):
    path = save(Recipe().case(), tmp_path / "cases")
    (folder / "anomalib.safetensors").write_bytes(b"")

    with pytest.raises(Unusable, match="it has 0 bytes, and manifest.json says"):
        commands.add(str(path), str(folder), Console(file=StringIO()))
    assert (folder / "anomalib.safetensors").read_bytes() == b""
