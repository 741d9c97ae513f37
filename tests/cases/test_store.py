import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flowref.cases import CaseFileError, Recipe, load, save
from flowref.cases.case import canonical
from flowref.cases.store import MAX_JSON

RECIPE = Recipe(B=2, C=3, S=(2,), conditions=(1,), subnet="network", seed=5)


@pytest.fixture
def path(tmp_path):
    return save(RECIPE.case(), tmp_path)


@pytest.mark.parametrize(
    "recipe", [Recipe(), RECIPE, Recipe(B=0), Recipe(C=1), Recipe(soft=True, reflections=2, subnet="zero", g=2.0**-100)]
)
def test_a_case_comes_back_as_it_was(tmp_path, recipe):
    case = recipe.case()
    path = save(case, tmp_path)
    back = load(path)

    assert path.stem == case.id[:16]
    assert back.id == case.id
    assert back.recipe == recipe
    assert back.describe() == case.describe()
    assert back.regimes == case.regimes
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_saving_twice_writes_the_same_bytes(path, tmp_path):
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    save(load(path), tmp_path)

    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_renamed_files_load_and_so_does_the_other_name(path, tmp_path):
    for suffix in (".json", ".safetensors"):
        path.with_suffix(suffix).rename(tmp_path / f"inverse-1{suffix}")

    assert load(tmp_path / "inverse-1.json").id == load(tmp_path / "inverse-1.safetensors").id == RECIPE.case().id


def test_a_recipe_that_no_longer_makes_the_case_is_dropped(path):
    change_head(path, lambda head: head["recipe"].update(seed=6))

    assert load(path).recipe is None
    assert load(path).id == RECIPE.case().id


def change_head(path, change):
    head = json.loads(path.read_text())
    change(head)
    path.write_bytes(canonical(head) + b"\n")


def change_numbers(path, change):
    numbers = path.with_suffix(".safetensors")
    arrays = load_file(numbers)
    change(arrays)
    save_file(arrays, numbers)


HEADS = {
    "unknown field": (lambda h: h.update(extra=1), "'extra' is unknown"),
    "missing field": (lambda h: h.pop("layout"), "'layout' is missing"),
    "another format": (lambda h: h.update(format="flowref-case-9"), "format is 'flowref-case-9'"),
    "another hash": (lambda h: h.update(id="0" * 64), "has the hash"),
    "another flag": (lambda h: h["spec"].update(gin_block=True), "has the hash"),
    "another type": (lambda h: h["spec"].update(gin_block=0), "another type"),
    "unknown spec field": (lambda h: h["spec"].update(extra=1), "'extra'"),
    "illegal spec": (lambda h: h["spec"].update(affine_clamping=-1), "affine_clamping=-1"),
    "huge spec": (lambda h: h["spec"].update(dims=[10**12, 2]), "shape"),
    "unknown subnet": (lambda h: h.update(subnet="os.system"), "'os.system'"),
    "another layout": (lambda h: h.update(layout="expanded"), "hash"),
    "unhashable subnet": (lambda h: h.update(subnet=[]), "unknown"),
    "another list of arrays": (lambda h: h["arrays"].pop(), "other arrays"),
    "a path as array": (lambda h: h["arrays"].append(["../x", [1]]), "other arrays"),
    "no list of arrays": (lambda h: h.update(arrays={"x": 1}), "'arrays'"),
    "another recipe's sizes": (lambda h: h["recipe"].update(C=10**9), "other sizes"),
    "illegal recipe": (lambda h: h["recipe"].update(subnet="conv"), "recipe is refused"),
    "unknown recipe field": (lambda h: h["recipe"].update(extra=1), "recipe is refused"),
}


@pytest.mark.parametrize(("change", "words"), HEADS.values(), ids=HEADS)
def test_a_changed_head_is_refused(path, change, words):
    change_head(path, change)

    with pytest.raises(CaseFileError) as error:
        load(path)

    assert words in str(error.value)
    assert str(path.parent) in str(error.value)


NUMBERS = {
    "one value": (lambda a: a["x"].__setitem__((0, 0, 0), 2.0), "hash"),
    "not a number": (lambda a: a["gy"].__setitem__((0, 0, 0), np.nan), "gy holds a number that is not finite"),
    "float32": (lambda a: a.update(x=a["x"].astype(np.float32)), "x is F32, need F64"),
    "one missing": (lambda a: a.pop("gj"), "other arrays"),
    "one more": (lambda a: a.update(more=np.zeros(3)), "other arrays"),
    "another shape": (lambda a: a.update(x=a["x"].reshape(2, 2, 3)), "other arrays or shapes"),
    "no x": (lambda a: a.update(x=np.zeros(())), "other arrays or shapes"),
}


@pytest.mark.parametrize(("change", "words"), NUMBERS.values(), ids=NUMBERS)
def test_changed_numbers_are_refused(path, change, words):
    change_numbers(path, change)

    with pytest.raises(CaseFileError, match=words):
        load(path)


def test_shapes_that_disagree_with_the_specification_are_refused(path):
    change_numbers(path, lambda arrays: arrays.update(x=arrays["x"].reshape(2, 2, 3)))
    change_head(path, lambda head: head["arrays"].__setitem__(0, ["x", [2, 2, 3]]))

    with pytest.raises(CaseFileError, match=r"x has the shape \(2, 2, 3\).*needs \(2, 3, 2\)"):
        load(path)


BYTES = {
    "no JSON": (".json", lambda b: b[:-5], "no JSON"),
    "not a number in JSON": (".json", lambda b: b.replace(b"2.0", b"NaN", 1), "no JSON"),
    "a number past all": (".json", lambda b: b.replace(b"2.0", b"1e999", 1), "no JSON"),
    "a field twice": (".json", lambda b: b.replace(b'{"', b'{"format":"x","', 1), "written otherwise"),
    "too long": (".json", lambda b: b + b" " * MAX_JSON, "at most"),
    "a list": (".json", lambda b: b"[]", "format is 'list'"),
    "deep": (".json", lambda b: b"[" * 100_000, "no JSON"),
    "cut numbers": (".safetensors", lambda b: b[:-8], "no safetensors"),
    "a pickle": (".safetensors", lambda b: b"\x80\x04N.", "no safetensors"),
    "a huge header": (".safetensors", lambda b: b"\xff" * 8 + b[8:], "no safetensors"),
}


@pytest.mark.parametrize(("suffix", "change", "words"), BYTES.values(), ids=BYTES)
def test_damaged_bytes_are_refused(path, suffix, change, words):
    file = path.with_suffix(suffix)
    file.write_bytes(change(file.read_bytes()))

    with pytest.raises(CaseFileError, match=words):
        load(path)


def test_a_missing_file_is_named(path):
    path.with_suffix(".safetensors").unlink()

    with pytest.raises(CaseFileError, match="no such file.*belong together"):
        load(path)


def test_a_link_out_of_the_folder_is_not_followed(path, tmp_path):
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    numbers = path.with_suffix(".safetensors")
    moved = numbers.rename(outside / "numbers.safetensors")
    numbers.symlink_to(moved)

    with pytest.raises(CaseFileError, match="no plain file"):
        load(path)


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError("full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="full"):
        save(RECIPE.case(), tmp_path)

    assert list(tmp_path.iterdir()) == []
