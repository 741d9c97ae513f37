"""The decoder example runs, small, and says what it did."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("FrEIA", reason="the example switches from anomalib's block")
EXAMPLE = Path(__file__).parents[2] / "examples" / "decoder" / "switch.py"


def test_the_decoder_is_switched_and_switched_back() -> None:
    command = [sys.executable, str(EXAMPLE), "3", "8", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()

    patterns = (
        r"anomalib's block: 3 steps, loss \d\.\d+ to \d\.\d+",
        r"flowref's \(\w+\): z off by \S+ at most, logdet by \S+ of \d+",
        r"3 more steps: loss \d\.\d+ and \d\.\d+, \d+ and \d+ ms a step",
        r"and back: .*",
    )
    assert [bool(re.fullmatch(pattern, line)) for pattern, line in zip(patterns, lines, strict=True)] == [True] * 4
