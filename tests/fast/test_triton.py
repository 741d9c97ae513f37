"""Triton's kernels, interpreted, in a process of their own; and that nothing imports triton unasked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

INTERPRETED = sorted(Path(__file__).parent.glob("interpreted/test_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("file", INTERPRETED, ids=lambda file: file.stem.removeprefix("test_"))
def test_interpreted(file):
    """Triton reads TRITON_INTERPRET when it is imported, which in this process may have been long ago."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(file)]
    ended = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)

    assert ended.returncode == 0 and " passed" in ended.stdout, ended.stdout + ended.stderr


def test_neither_the_package_nor_a_pass_on_the_cpu_imports_triton():
    code = (
        "import sys, torch; from flowref.fast import AllInOneBlock; "
        "AllInOneBlock([(4,)], None, torch.nn.Linear)([torch.zeros(2, 4)]); print('triton' in sys.modules)"
    )
    free = {key: value for key, value in os.environ.items() if key != "FLOWREF_FAST"}
    ended = subprocess.run([sys.executable, "-c", code], env=free, capture_output=True, text=True)

    assert ended.stdout == "False\n", ended.stdout + ended.stderr
