"""The same bytes wherever they are made, and nothing is written over."""

import os
import subprocess
import sys
from io import StringIO

import pytest
import torch
from rich.console import Console

from flowref.cases import Recipe
from flowref.gate.options import Unusable
from flowref.golden import commands
from flowref.golden.format import MANIFEST, files_of, fill
from flowref.golden.generate import compute, write
from flowref.golden.listing import Listed
from flowref.golden.own import specs_of
from flowref.golden.verify import check_numbers

EVERY = 20  # one in so many vectors is computed again


def test_a_sample_of_the_repository_is_what_is_computed_now(golden):
    for vector in golden.vectors[::EVERY]:
        check_numbers(golden, vector)


SPECS = """
[[spec]]
dims = [3, 2]
permute_soft = true
learned_householder_permutation = 2
seed = 7
[[spec]]
dims = [2]
dialect = "documented"
"""


@pytest.mark.slow
def test_processes_and_threads_do_not_matter_and_the_command_shows_that_it_is_alive(tmp_path):
    (tmp_path / "own.toml").write_text(SPECS)
    command = [
        sys.executable,
        "-m",
        "flowref.cli",
        "golden",
        "generate",
        "--spec",
        "own.toml",
        "--out",
        "own",
        "-n",
        "2",
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "2"}
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    here = [fill(one.case(), steps=one.steps, recipe=one.json()) for one in specs_of(tmp_path / "own.toml")]
    torch.set_num_threads(threads)

    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "8 of 8 vectors" in done.stdout
    assert "own: 8 vectors; 4 files written" in done.stdout
    there = {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()}
    assert there == files_of(here) == files_of(here[::-1])


def test_a_vector_that_cannot_be_one_is_named():
    with pytest.raises(ValueError, match=r"Recipe\(.*C=90.*\) can't be a vector: the case has \d+ numbers"):
        compute([Listed(Recipe(C=90, seed=1))], 1, lambda done: None)


def test_writing_again_changes_nothing(few, folder):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

    assert write(few, folder, replace=False) == (0, 4)
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_vectors_that_differ_are_not_written_over_unless_asked(few, folder):
    before = (folder / MANIFEST).read_bytes()

    with pytest.raises(Unusable, match="--replace does it, and drops [1-9] vectors that are there, such as "):
        write(few[:1], folder, replace=False)
    assert (folder / MANIFEST).read_bytes() == before

    assert write(few[:1], folder, replace=True) == (2, 1)
    assert sorted(path.name for path in folder.iterdir()) == ["anomalib.safetensors", MANIFEST, "schema.json"]


def test_what_somebody_else_wrote_is_never_written_over(few, tmp_path):
    (tmp_path / MANIFEST).write_text("{}")
    (tmp_path / "notes.txt").write_text("kept")

    with pytest.raises(Unusable, match=r"manifest.json is there, and not as part of a set of vectors"):
        write(few, tmp_path, replace=True)

    assert (tmp_path / MANIFEST).read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, "notes.txt"]


def test_a_file_as_folder_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "out").write_text("")

    with pytest.raises(Unusable, match="is a file: need a folder"):
        commands.generate(str(tmp_path / "out"), None, False, "1", Console(file=StringIO()))
