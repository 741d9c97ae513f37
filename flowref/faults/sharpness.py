"""How near the reference and a plain float32 block come to their bounds, over many cases; none may pass them.

    python -m flowref.faults.sharpness --cases 10000

Each case is drawn by its number (`flowref.faults.compare`), and run in both directions: the float64 reference against
exact arithmetic, the plain float32 block against the reference. Prints two tables for docs/bounds.md: by quantity and
size class (C·N <= 64, <= 4096, above) the median over comparisons of the largest error ÷ bound among the elements that
decide; the largest among all elements; how many comparisons could not be decided. The worst cases known so far
(`flowref.faults.worst`) are run first. Exit code 1, and the case to paste, where an error is over its bound.

    python -m flowref.faults.sharpness --search 600

looks for worse ones, so many seconds long (`flowref.faults.ascent`), and prints what it found, to be pasted there.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from flowref.cases import Case, Recipe, stream
from flowref.faults.ascent import Worst, search
from flowref.faults.compare import COMPARE, QUANTITIES, TITLES, Compared, drawn
from flowref.faults.worst import WORST
from flowref.spec import Dialect

CLASSES = (64, 4096, math.inf)  # of C·N


@dataclass
class Table:
    """What was found, by quantity and size class."""

    against: str
    cases: int = 0
    found: dict[tuple[str, int], list[tuple[float, bool]]] = field(default_factory=lambda: defaultdict(list))
    worst: dict[tuple[str, bool], Worst] = field(default_factory=dict)
    over: list[Worst] = field(default_factory=list)

    def add(self, case: Case, rev: bool, compared: Compared) -> None:
        """One comparison. The largest of each quantity and direction is kept, and every one over its bound."""
        quantity, recipe = compared.quantity, case.recipe
        size = next(i for i, top in enumerate(CLASSES) if case.spec.C * case.spec.N <= top)
        if compared.scale:  # a gradient that is 0 because nothing depends is held, but says nothing
            self.found[quantity, size].append(compared.sharp)
        assert recipe is not None
        one = Worst(self.against, quantity, rev, compared.largest, recipe)
        self.worst[quantity, rev] = max(self.worst.get((quantity, rev), one), one, key=lambda one: one.ratio)
        if not one.ratio <= 1:
            self.over.append(one)

    def lines(self) -> list[str]:
        """The table, in Markdown."""
        lines = [
            f"| {TITLES[self.against]}, {self.cases:,} cases | C·N ≤ 64 | ≤ 4,096 | above | largest | undecided |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for quantity in QUANTITIES:
            every = [one for size in range(len(CLASSES)) for one in self.found.get((quantity, size), [])]
            cells = []
            for size in range(len(CLASSES)):
                ratios = [ratio for ratio, decided in self.found.get((quantity, size), []) if decided and ratio > 0]
                cells.append(f"1/{1 / statistics.median(ratios):.0f}" if ratios else "–")
            largest = max((one.ratio for (name, _), one in self.worst.items() if name == quantity), default=0.0)
            undecided = 100 * sum(not decided for _, decided in every) / max(1, len(every))
            lines.append(f"| {quantity} | {' | '.join(cells)} | {largest:.4f} | {undecided:.1f}% of {len(every):,} |")
        return lines


def drawn_cases(against: str, cases: int, first: int = 0) -> list[Recipe]:
    """The cases of these numbers, with as many bits as float32 has or, every other one for float64, as float64 has."""
    return [drawn(n, 24 if against == "reference" or n % 2 else 53) for n in range(first, first + cases)]


def gate_rows(cases: int, first: int = 0) -> list[Recipe]:
    """The explicit rows of the gate's `ci` in each dialect, again and again with other seeds."""
    rows = [row for dialect in Dialect for row in stream.rows("ci", dialect)]
    return [replace(rows[n % len(rows)], seed=n) for n in range(first, first + cases)]


def measure(against: str, recipes: Sequence[Recipe], say: Callable[[str], None] = lambda text: None) -> Table:
    """Run these cases in both directions."""
    table, start, said = Table(against), time.monotonic(), time.monotonic()
    for recipe in recipes:
        case = recipe.case()
        for rev in (False, True):
            with torch.no_grad() if against == "exact" else torch.enable_grad():
                for compared in COMPARE[against](case, rev):
                    table.add(case, rev, compared)
        table.cases += 1
        if time.monotonic() - said > 10:
            said = time.monotonic()
            ratio = max(one.ratio for one in table.worst.values())
            say(f"{TITLES[against]}: {table.cases:,} of {len(recipes):,} cases, "
                f"{table.cases / (said - start):.1f} a second, largest {ratio:.4f}")  # fmt: skip
    return table


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m flowref.faults.sharpness", description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=1000, help="how many cases, each in both directions (1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (0)")
    parser.add_argument("--against", choices=TITLES, help="only this table")
    parser.add_argument("--rows", action="store_true", help="the gate's own rows in place of drawn cases")
    parser.add_argument("--search", type=float, metavar="SECONDS", help="look for worse cases in place of the tables")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    chosen, say = [options.against] if options.against else list(TITLES), lambda text: print(text, file=sys.stderr)
    if options.search:
        found = []
        for one in search(options.search, starts=WORST, first=options.first, against=chosen):
            print(f"{one!r},", flush=True)
            found.append(one)
        return _verdict([one for one in found if not one.ratio <= 1], say)

    over = [one for one in kept(chosen, say) if not one.ratio <= 1]
    for against in chosen:
        many = options.cases, options.first
        table = measure(against, gate_rows(*many) if options.rows else drawn_cases(against, *many), say)
        print("\n".join(table.lines()), flush=True)
        over += table.over
        for one in sorted(table.worst.values(), key=lambda one: one.ratio):
            say(f"{one!r},")
    return _verdict(over, say)


def kept(chosen: list[str], say: Callable[[str], None] = lambda text: None) -> list[Worst]:
    """The worst cases known so far, with the ratios that they have now."""
    now = [replace(one, ratio=one.measure()) for one in WORST if one.against in chosen]
    if now:
        say(f"{len(now)} worst cases known so far: largest {max(one.ratio for one in now):.6f}")
    return now


def _verdict(over: list[Worst], say: Callable[[str], None]) -> int:
    for one in over:
        say(f"{one.ratio:.6g} × the bound: {one!r}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
