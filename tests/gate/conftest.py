"""Starts the gate as a user would: in a folder of one's own, with a target in a file."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

import flowref

# One cheap law, one item.
ONE = ("--law", "inverse.exact-where-the-arithmetic-is-exact", "--precision", "float64", "--profile", "smoke")


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str

    @property
    def last(self) -> str:
        """The last sentence."""
        return self.out.strip().splitlines()[-1]


# As the script of an installed flowref, which finds nothing in the folder: -P, which Python 3.10 has not.
SCRIPT = "import sys; sys.path = [place for place in sys.path if place]; from flowref.cli import main; main()"


def start(folder: Path, *words: str, timeout: float = 120) -> Ended:
    """Run `python -m flowref.cli WORDS` in a folder, as an installed flowref would run there."""
    env = {**os.environ, "PYTHONPATH": str(Path(flowref.__file__).parents[1]), "TMPDIR": str(folder), "NO_COLOR": "1"}
    command = [sys.executable, "-c", SCRIPT, *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    return Ended(done.returncode, done.stdout + done.stderr)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Ended]:
    """Run `flowref WORDS` in the test's folder."""
    return lambda *words: start(tmp_path, *words)


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., Ended]:
    """Write a block into target.py, and judge it: `check(source, *options)`."""

    def run(source: str, *options: str, workers: str = "1", what: tuple[str, ...] = ONE) -> Ended:
        (tmp_path / "target.py").write_text(HEAD + dedent(source))
        return start(tmp_path, "check", "target.py:Block", *what, "-n", workers, *options)

    return run


HEAD = """
import os, pytest, random, signal, sys, time, torch
from flowref.fast import AllInOneBlock

class Block(AllInOneBlock):
    pass
"""
