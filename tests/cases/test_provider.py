import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import find, given, seed, settings
from hypothesis import strategies as st

import flowref
from flowref.cases import provider

SCRIPT = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
if sys.argv[2] == "with":
    import full_of_constants
from hypothesis import given, seed, settings, strategies as st
from flowref.cases import provider
for backend in (provider.BACKEND, "hypothesis"):
    drawn = []
    @seed(11)
    @settings(backend=backend, max_examples=300, database=None, deadline=None)
    @given(st.integers(0, 2**64), st.floats(), st.text())
    def record(n, f, t):
        drawn.append(repr((n, f, t)))
    record()
    print(hashlib.sha256("".join(drawn).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    """Of what each backend draws, in a process that imported a local module of constants and in one that did not."""
    folder = tmp_path_factory.mktemp("local")
    constants = "\n".join(f"a{k} = {123456789 * k + 54321}; b{k} = {k}.0625; c{k} = 'odd{k}'" for k in range(200))
    (folder / "full_of_constants.py").write_text(constants)
    found = {}
    for word in ("with", "without"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(folder), word],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(flowref.__file__).parents[1])},
        )
        found[word] = done.stdout.split()
    return found


def test_draws_depend_on_the_seed_alone(digests):
    assert digests["with"][0] == digests["without"][0]


def test_the_usual_backend_depends_on_imported_modules(digests):
    """Why the provider exists; fails on the day that it is no longer needed."""
    assert digests["with"][1] != digests["without"][1]


def test_draws_are_the_same_in_another_process(digests):
    drawn = []

    @seed(11)
    @settings(backend=provider.BACKEND, max_examples=300, database=None, deadline=None)
    @given(st.integers(0, 2**64), st.floats(), st.text())
    def record(n, f, t):
        drawn.append(repr((n, f, t)))

    record()

    assert hashlib.sha256("".join(drawn).encode()).hexdigest() == digests["without"][0]


def test_a_failure_shrinks():
    found = find(
        st.tuples(st.integers(0, 10**6), st.lists(st.booleans())),
        lambda value: value[0] > 777 and any(value[1]),
        settings=settings(backend=provider.BACKEND, database=None),
    )

    assert found == (778, [True])
