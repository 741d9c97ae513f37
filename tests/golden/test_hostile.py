"""Files from strangers are data: each defect has its error, within a second, and nothing is executed or written."""

import hashlib
import json
import os
import pickle
import random
import shutil
import struct
import time
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from flowref.cases import Recipe, load, save
from flowref.cases.case import canonical
from flowref.cases.files import FileError
from flowref.golden import commands
from flowref.golden.format import MANIFEST, SCHEMA_FILE, manifest_bytes, tensor_bytes
from flowref.golden.reading import MAX_ARRAYS, Golden
from flowref.golden.verify import check_numbers

FILE = "anomalib.safetensors"
TRIALS = 250  # of 10,000 that were run once


def change_manifest(folder, change):
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_bytes(manifest_bytes(manifest))


def change_bytes(folder, change, name=FILE):
    """Change an array file, and make the manifest agree with it."""
    content = change((folder / name).read_bytes())
    (folder / name).write_bytes(content)
    stated = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change_manifest(folder, lambda m: m["files"][name].update(stated))


def change_header(folder, change):
    def changed(content):
        n = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + n])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + n :]

    change_bytes(folder, changed)


def change_arrays(folder, change):
    from safetensors.numpy import load

    def changed(content):
        arrays = load(content)
        change(arrays)
        return tensor_bytes(arrays)

    change_bytes(folder, changed)


def first(manifest):
    return manifest["vectors"][0]


def flip(content):
    at = len(content) - 100
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def name_of(arrays, end):
    return sorted(name for name in arrays if name.endswith(end))[0]


def entry_of(header, **changed):
    name = sorted(header)[0]
    header[name].update(changed)


MANIFESTS = {
    "unknown field": (lambda m: first(m).update(extra=1), "'extra' was unexpected"),
    "missing field": (lambda m: first(m).pop("subnet"), "'subnet' is a required property"),
    "newer format": (lambda m: m.update(format="flowref-golden-2"), "'flowref-golden-2'.*Update flowref"),
    "another format": (lambda m: m.update(format="flowref-case-1"), "Give a set that flowref wrote"),
    "a path as file": (lambda m: m["files"].update({"../x.safetensors": m["files"][FILE]}), "does not match"),
    "an absolute path": (lambda m: first(m).update(file="/etc/passwd"), "is not one of"),
    "another hash": (lambda m: m["files"][FILE].update(sha256="0" * 64), "its sha256 is"),
    "another size": (lambda m: m["files"][FILE].update(bytes=10**18), "bytes, and manifest.json says"),
    "another count": (lambda m: m["files"][FILE].update(vectors=9), "should hold 9 vectors, and 2 are listed"),
    "a vector less": (lambda m: m["vectors"].pop(), "should hold 1 vectors, and 0 are listed"),
    "a vector twice": (lambda m: m["vectors"].append(m["vectors"][-1]), "not in order, or one is there twice"),
    "another order": (lambda m: m["vectors"].reverse(), "not in order"),
    "another id": (lambda m: first(m).update(id="0" * 16), "isn't there"),
    "another flag of the spec": (lambda m: first(m)["spec"].update(reverse_permutation=True), "has the hash"),
    "another type": (lambda m: first(m)["spec"].update(affine_clamping=2), "another type"),
    "an unknown kind": (lambda m: first(m).update(subnet="os.system"), "is not one of"),
    "another kind": (lambda m: first(m).update(subnet="network"), "isn't explained"),
    "an unknown word": (lambda m: first(m)["flags"].append("fast"), "has the flags 'fast', which isn't explained"),
    "illegal spec": (lambda m: first(m)["spec"].update(dims_c=[[1, 7]]), "the spec of vector .* is refused"),
    "huge spec": (lambda m: first(m)["spec"].update(dims=[10**15, 2]), "needs the shape"),
    "past all numbers": (lambda m: first(m)["spec"].update(affine_clamping=10**400), "is refused"),
    "many reflections": (lambda m: first(m)["spec"].update(learned_householder_permutation=10**9), "needs the shape"),
    "another dialect": (lambda m: first(m)["spec"].update(dialect="freia-main"), "and lies in"),
    "steps that aren't there": (lambda m: [v.update(steps=not v["steps"]) for v in m["vectors"]], "step"),
    "many vectors": (lambda m: m.update(vectors=[{}] * 5000), "lists 5000 vectors"),
    "deep": (lambda m: first(m).update(recipe={"a": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}), "nested more than"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_changed_manifest_is_refused(folder, change, words):
    change_manifest(folder, change)

    refused(folder, words)


ARRAYS = {
    "one less": (change_arrays, lambda a: a.pop(name_of(a, "forward.out")), "forward.out isn't there"),
    "one more": (change_arrays, lambda a: a.update(more=np.ones(2)), "it holds more, which belongs to no vector"),
    "another shape": (change_arrays, lambda a: a.update({k: v.ravel() for k, v in a.items()}), "needs the shape"),
    "another number given": (change_arrays, lambda a: a[name_of(a, "gj")].__setitem__(0, 2.0), "has the hash"),
    "not a number": (change_arrays, lambda a: a[name_of(a, "out")].__setitem__((0, 0), np.nan), "is not finite"),
    "an error below 0": (change_arrays, lambda a: a[name_of(a, "out.error")].__setitem__((0, 0), -1), "below 0"),
    "cut": (change_bytes, lambda b: b[:-8], "no safetensors"),
    "empty": (change_bytes, lambda b: b"", "no safetensors"),
    "a pickle": (change_bytes, lambda b: pickle.dumps(Boom()), "no safetensors"),
    "a huge header": (change_bytes, lambda b: b"\xff" * 8 + b[8:], "no safetensors"),
    "another dtype": (change_header, lambda h: entry_of(h, dtype="F32"), "no safetensors"),
    "a shape past memory": (change_header, lambda h: entry_of(h, shape=[2**40, 2**40]), "no safetensors"),
    "a negative shape": (change_header, lambda h: entry_of(h, shape=[-1]), "no safetensors"),
    "an offset past the end": (change_header, lambda h: entry_of(h, data_offsets=[0, 2**63]), "no safetensors"),
    "a size that is no number": (change_header, lambda h: entry_of(h, shape=[float("nan")]), "no safetensors"),
    "a path as name": (change_arrays, lambda a: a.update({"../../x": np.ones(1)}), "belongs to no vector"),
}


class Boom:
    def __reduce__(self):
        return os.mkdir, ("boom",)


@pytest.mark.parametrize(("how", "change", "words"), ARRAYS.values(), ids=ARRAYS)
def test_changed_arrays_are_refused(folder, how, change, words):
    how(folder, change)

    refused(folder, words)


def test_a_flipped_bit_is_named(folder):
    (folder / FILE).write_bytes(flip((folder / FILE).read_bytes()))

    refused(folder, "its sha256 is")


def test_a_flipped_bit_whose_hash_was_mended_is_found_by_computing_again(folder):
    def change(arrays):
        name = name_of(arrays, "forward.grad.x")
        arrays[name].reshape(-1)[0] = np.nextafter(arrays[name].reshape(-1)[0], np.inf)

    change_arrays(folder, change)
    golden = Golden.open(folder)

    with pytest.raises(FileError, match=r"forward.grad.x\[0, 0.*is .*, and computed again"):
        for vector in golden.vectors:
            check_numbers(golden, vector)


def remove(folder):
    (folder / FILE).unlink()


def link_out(folder):
    shutil.move(folder / FILE, folder.parent / FILE)
    (folder / FILE).symlink_to(folder.parent / FILE)


FOLDERS = {
    "a missing file": (remove, "there is no such file"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "there is no such file"),
    "a link out of the folder": (link_out, "no plain file of its folder"),
    "a file that nobody lists": (lambda f: shutil.copy(f / FILE, f / "x.safetensors"), "doesn't list it"),
    "a file past all sizes": (lambda f: os.truncate(f / FILE, MAX_ARRAYS + 1), "where at most"),
    "cut JSON": (lambda f: os.truncate(f / MANIFEST, 300), "no JSON"),
    "JSON written otherwise": (
        lambda f: (f / MANIFEST).write_text(json.dumps(json.loads((f / MANIFEST).read_text()))),
        "written otherwise",
    ),
    "a field twice": (
        lambda f: (f / MANIFEST).write_bytes((f / MANIFEST).read_bytes().replace(b"{", b'{"format":"x",', 1)),
        "written otherwise",
    ),
}


@pytest.mark.parametrize(("change", "words"), FOLDERS.values(), ids=FOLDERS)
def test_a_changed_folder_is_refused(folder, change, words):
    change(folder)

    refused(folder, words)


def refused(folder, words):
    """A clear error that names the file, within a second, and nothing else."""
    before = inventory(folder.parent)
    start = time.monotonic()

    with pytest.raises(FileError, match=words) as error:
        Golden.open(folder)

    assert time.monotonic() - start < 1
    assert str(folder) in str(error.value)
    assert inventory(folder.parent) == before


def inventory(folder):
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if path.name != "boom"} | {
        "boom": os.path.exists("boom")
    }


def test_the_command_says_what_is_broken_and_ends_with_1(folder):
    (folder / FILE).write_bytes(flip((folder / FILE).read_bytes()))
    out = StringIO()

    assert commands.check_files(str(folder), 2, Console(file=out)) == 1
    assert out.getvalue().startswith(f"BROKEN {folder / FILE}: its sha256 is ")


def test_another_schema_is_refused(folder):
    (folder / SCHEMA_FILE).write_text("{}")
    out = StringIO()

    assert commands.check_files(str(folder), 0, Console(file=out)) == 1
    assert "it is not the schema of flowref-golden-1" in out.getvalue()


def test_whole_files_are_said_to_be_so(folder):
    out = StringIO()

    assert commands.check_files(str(folder), 2, Console(file=out)) == 0
    assert "3 vectors; hashes, schema, counts, names and shapes are as they should." in out.getvalue()
    assert "2 of them computed again: the same bits. The others were not: --sample 3 is all." in out.getvalue()


# Random damage.

WORDS = (None, True, -1, 0, 2**31, 2**63, 10**30, 1e308, 0.5, "", "x", "../../etc/passwd", "\0", "é" * 9, [], {}, [[]])


def places(value, path=()):
    """The path to every value inside of JSON."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield from places(one, (*path, key))


def damage_json(rng, value):
    """One value replaced, removed, doubled or renamed."""
    *path, last = rng.choice([p for p in places(value) if p])
    owner = value
    for key in path:
        owner = owner[key]
    how = rng.randrange(4)
    if how == 0:
        owner[last] = rng.choice(WORDS)
    elif how == 1:
        owner.pop(last)
    elif isinstance(owner, list):
        owner.insert(rng.randrange(len(owner) + 1), owner[last] if how == 2 else rng.choice(WORDS))
    else:
        owner[str(rng.choice(WORDS))] = owner[last] if how == 2 else owner.pop(last)


def damage_bytes(rng, content):
    """Some bytes changed, cut out or put in; or the end cut off."""
    at, n = rng.randrange(len(content)), rng.choice((1, 1, 2, 8, 100))
    noise = bytes(rng.randrange(256) for _ in range(n))
    bit = bytes([content[at] ^ 1 << rng.randrange(8)])
    middle = rng.choice((noise, noise + content[at : at + n], b"", bit + content[at + 1 : at + n]))
    return content[:at] + (middle + content[at + n :] if rng.randrange(5) else b"")


def damage(rng, folder):
    """One random damage to the files; half of them with the hash mended, so that it gets further."""
    how = rng.randrange(5)
    if how == 0:
        name = rng.choice((MANIFEST, FILE, SCHEMA_FILE))
        (folder / name).write_bytes(damage_bytes(rng, (folder / name).read_bytes()))
    elif how == 1:
        change_bytes(folder, lambda content: damage_bytes(rng, content))
    elif how == 2:
        change_header(folder, lambda header: damage_json(rng, header))
    elif how == 3:
        change_manifest(folder, lambda manifest: damage_json(rng, manifest))
    else:
        manifest = json.loads((folder / MANIFEST).read_text())
        damage_json(rng, manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest))


def damage_case(rng, path):
    """One random damage to a case's files."""
    how, numbers = rng.randrange(3), path.with_suffix(".safetensors")
    if how < 2:
        file = (path, numbers)[how]
        file.write_bytes(damage_bytes(rng, file.read_bytes()))
    else:
        head = json.loads(path.read_text())
        damage_json(rng, head)
        path.write_bytes(canonical(head) + b"\n")


def hold_against_damage(folder, trials, seed, damage=damage, read=Golden.open):
    """The largest time that a reader took, and how many damaged files it refused."""
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    slowest, refusals = 0.0, 0
    for trial in range(trials):
        for name, content in whole.items():
            (folder / name).write_bytes(content)
        try:
            damage(random.Random(seed + trial), folder)
        except (TypeError, AttributeError, KeyError):  # the damage left nothing to write
            continue
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        start = time.monotonic()
        try:
            read(folder)
        except FileError as error:
            refusals += str(folder.parent) in str(error)
        slowest = max(slowest, time.monotonic() - start)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    return slowest, refusals


def test_random_damage_is_refused_or_harmless(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    slowest, refusals = hold_against_damage(folder, TRIALS, seed=0)

    assert slowest < 1
    assert refusals > TRIALS / 2


def test_random_damage_to_a_case_is_refused_or_harmless(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(Recipe(C=3, S=(2,), conditions=(1,), subnet="network").case(), tmp_path / "case")
    hurt, read = lambda rng, folder: damage_case(rng, path), lambda folder: load(path)

    slowest, refusals = hold_against_damage(tmp_path / "case", TRIALS, 0, hurt, read)

    assert slowest < 1
    assert refusals > TRIALS / 2
