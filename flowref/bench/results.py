"""What a run has measured, as plain values: kept as JSON, read again, and the figures that are derived from it.

ratio     per round, median of the one ÷ median of the other: the median of these, and their quartiles
tenth     the time that one pass in ten stays below, nearest to a quiet machine
slope     of log time against log size; 1 where time grows like size
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from flowref.gate.options import Unusable

FORMAT = 1
PLACE = ("device", "processor", "cores", "threads", "kernels", "clock", "decoder", "versions")  # what times depend on

Rounds = list[list[float]]


@dataclass
class Cell:
    """One kind, pass and size: seconds by contender, or limit, round and pass.

    first: seconds of the pass that warms up. saved, peak (CUDA only), both ÷ bytes of x: what forward keeps for
    backward, and the most that both take. failed: what was raised.
    """

    kind: str
    what: str
    series: str
    size: str
    numbers: int
    times: dict[str, Rounds]
    limits: dict[str, Rounds]
    first: dict[str, float]
    saved: dict[str, float]
    peak: dict[str, float]
    failed: dict[str, str]

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it has in common with the same cell of another run."""
        return self.kind, self.what, self.series, self.size


@dataclass
class Run:
    """All that was measured. verified: whether smoke held each contender. load: averages before and after.

    kernels: of the fast block. contenders, refused: by name, the gate's sentence. left_out: by name, why.
    """

    date: str
    versions: dict[str, str]
    device: str
    processor: str
    cores: int
    threads: int
    kernels: str
    clock: str
    load: list[float]
    preset: str
    decoder: bool
    rounds: int
    seconds: float
    verified: bool
    contenders: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    format: int = FORMAT

    def write(self, path: Path) -> None:
        """As JSON, times to 5 digits."""
        path.write_text(json.dumps(_rounded(asdict(self)), ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Run:
        """Raises Unusable."""
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Unusable(f"--compare={str(path)!r} can't be read ({error}). Give a file that --json wrote.") from None
        names = {f.name for f in fields(cls)}
        if not isinstance(held, dict) or set(held) != names or held["format"] != FORMAT:
            raise Unusable(
                f"--compare={str(path)!r} is no run of `flowref bench` in format {FORMAT}. Give a file that --json of "
                "this version wrote."
            )
        return cls(**held | {"cells": [Cell(**one) for one in held["cells"]]})


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


# ---- figures


class Figure(NamedTuple):
    """A median with its quartiles, and the same of fastest tenths."""

    median: float
    low: float
    high: float
    tenth: float


def time_of(rounds: Rounds) -> Figure:
    """Seconds of a pass."""
    times = [t for one in rounds for t in one]
    return Figure(*_quartiles(times), tenth(times))


def ratio(rounds: Rounds, base: Rounds) -> Figure:
    """Time ÷ that of another, measured in the same rounds."""
    found = [statistics.median(a) / statistics.median(b) for a, b in zip(rounds, base, strict=True)]
    return Figure(*_quartiles(found), tenth(sum(rounds, [])) / tenth(sum(base, [])))


def then_and_now(now: Rounds, then: Rounds) -> Figure:
    """Time ÷ that of another run: of medians over all rounds, and the farthest apart that quartiles can lie."""
    new, old = (_quartiles([statistics.median(one) for one in rounds]) for rounds in (now, then))
    fastest = tenth(sum(now, [])) / tenth(sum(then, []))
    return Figure(new[0] / old[0], new[1] / old[2], new[2] / old[1], fastest)


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower, upper."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def tenth(times: Sequence[float]) -> float:
    """The time that one pass in ten stays below."""
    return sorted(times)[len(times) // 10]


def geometric(values: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(statistics.mean(map(math.log, values)))


def slope(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Of the straight line nearest to log time over log size."""
    return statistics.linear_regression([math.log(n) for n in sizes], [math.log(t) for t in times]).slope
