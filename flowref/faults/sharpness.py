"""How near a plain float32 block comes to its bound, and how often a comparison can't be decided.

    python -m flowref.faults.sharpness

Prints a table for docs/bounds.md: by quantity and size class (C·N <= 64, <= 4096, above), the median over cases of
the largest error ÷ bound, the largest seen, and the share of comparisons that could not be decided.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import replace

import torch

from flowref.cases import Recipe, stream
from flowref.faults.plain import PlainBlock
from flowref.laws.logdet import scale_of
from flowref.laws.run import Meter, Run
from flowref.spec import Dialect
from flowref.targets.module import Module

CLASSES = (64, 4096, math.inf)
QUANTITIES = ("y", "log-det", "round trip", "gradient by x, c", "by s, o", "by the subnet", "by reflections")


def measure(precision: str = "float32", rounds: int = 3) -> dict[tuple[str, int], list[tuple[float, bool]]]:
    """(quantity, size class) -> a (ratio, decided) for each comparison."""
    torch.set_num_threads(1)
    found: dict[tuple[str, int], list[tuple[float, bool]]] = defaultdict(list)
    for dialect in Dialect:
        target = Module(PlainBlock, dialect=dialect)
        for turn in range(rounds):
            for recipe in stream.rows("ci", dialect):
                for direction in ("forward", "reverse"):
                    _compare(
                        Run(replace(recipe, seed=recipe.seed + 5000 * turn).case(), target, precision, direction), found
                    )
            for recipe in _large(dialect, turn):
                _compare(Run(recipe.case(), target, precision, "forward"), found)
    return found


def _large(dialect: Dialect, turn: int) -> list[Recipe]:
    """Sizes above what a gate's rows hold."""
    return [
        Recipe(C=C, S=S, B=1, subnet=subnet, soft=soft, seed=seed + 100 * turn, dialect=dialect)
        for seed, (C, S, subnet, soft) in enumerate(
            [
                (64, (12, 12), "network", True),
                (128, (8, 8), "linear", False),
                (32, (16, 16), "linear", True),
                (8, (32, 32), "convolutional", True),
                (256, (5, 5), "network", True),
                (4, (2048,), "network", False),
            ]
        )
    ]


def _compare(run: Run, found: dict[tuple[str, int], list[tuple[float, bool]]]) -> None:
    spec = run.spec
    size = next(i for i, top in enumerate(CLASSES) if spec.C * spec.N <= top)

    def one(quantity: str, compare: object) -> None:
        run.meter = Meter()
        compare()  # type: ignore[operator]
        found[quantity, size].append((run.meter.ratio, run.meter.undecided == 0))

    one("y", lambda: run.near(run.want.out, run.answer.y, "y"))
    if not spec.gin_block:
        one("log-det", lambda: run.near(run.want.logdet, run.answer.logdet, "log-det", scale=scale_of(run)))
    back = run.go(run.answer.y.detach(), rev=not run.rev)
    one("round trip", lambda: run.near(run.wanted.trip(run.rev).out, back.y, "x"))
    want, got = run.wanted.gradients(run.rev, "both"), run.gradients("both")
    for name, value in want.items():
        if name == "global_scale" and spec.gin_block:
            continue
        quantity = QUANTITIES[3] if name in ("x", "c0", "c1", "c2") else QUANTITIES[5]
        quantity = QUANTITIES[4] if name.startswith("global") else quantity
        quantity = QUANTITIES[6] if name == "vk_householder" else quantity
        one(quantity, lambda value=value, name=name: run.near(value, got[name], name))


def table(precision: str = "float32") -> list[str]:
    """The table, in Markdown."""
    found = measure(precision)
    lines = [
        f"| {precision}, plain block | C·N ≤ 64 | ≤ 4,096 | above | largest | undecided |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for quantity in QUANTITIES:
        medians, every = [], []
        for size in range(len(CLASSES)):
            here = found.get((quantity, size), [])
            ratios = [ratio for ratio, decided in here if decided and ratio > 0]
            medians.append(f"1/{1 / statistics.median(ratios):.0f}" if ratios else "–")
            every += here
        largest = max((ratio for ratio, decided in every if decided), default=0.0)
        undecided = 100 * sum(not decided for _, decided in every) / max(1, len(every))
        lines.append(f"| {quantity} | {' | '.join(medians)} | {largest:.2f} | {undecided:.1f}% of {len(every):,} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
