"""What `flowref bench` prints: a table for each kind and pass, how time grows, bytes, and an older run beside it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from rich.console import Console
from rich.table import Table

from flowref.bench import compare, text
from flowref.bench.results import (
    Cell,
    Rounds,
    Run,
    geometric,
    ratio,
    slope,
    time_of,
)

WIDTH = 120  # of a table in a log
UNVERIFIED = "UNVERIFIED (no block was held by smoke): "
PASS = {"forward": "forward", "inverse": "inverse", "backward": "forward + backward"}
ABOUT = (
    "First column: the median time, and its quartiles. Then time ÷ that of the first column, round by round: the "
    "median (in brackets: of the fastest tenth of passes), and its quartiles."
)
LIMITS = {
    "copy": "copy: x + a → y, the bytes that a step must move forward, once a step",
    "product": "product: W x alone, once a step",
    "subnets": "subnets: the decoder's subnets alone",
}


def show(console: Console, run: Run, old: Run | None = None) -> None:
    """Everything; against another run where there is one."""
    _say(console, head(run))
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)  # print(width=…) can only narrow it
    mark = "" if run.verified else UNVERIFIED
    for (kind, what), cells in _tables(run):
        tables = {f"{PASS[what]}{', decoder of 8' * run.decoder}": times(cells, list(run.contenders))} | memory(cells)
        for title, table in tables.items():
            _say(console, f"\n{mark}{kind}, {title}")
            console.print(table)
        for line in growth(cells):
            _say(console, line)
    _say(console, ABOUT)
    used = dict.fromkeys(name for cell in run.cells for name in cell.limits)
    for line in [*(LIMITS[name] for name in used), *notes(run)]:
        _say(console, line)
    if old is not None:
        _say(console, f"\n{compare.other_place(run, old)}\n{mark}time ÷ that of the older run")
        console.print(compare.compared(run, old))


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _tables(run: Run) -> Iterable[tuple[tuple[str, str], list[Cell]]]:
    for key, cells in groupby(run.cells, key=lambda cell: (cell.kind, cell.what)):
        yield key, list(cells)


def head(run: Run) -> str:
    """Where and how it was measured."""
    load = " before, ".join(f"{one:.1f}" for one in run.load)
    return (
        f"{run.date}  {run.device}: {run.processor}, {run.cores} cores, {run.threads} threads, load {load} after\n"
        f"{', '.join(f'{name} {version}' for name, version in run.versions.items())}\n"
        f"{run.preset}, {run.rounds} rounds, {run.clock} time, fast: {run.kernels}"
    )


def times(cells: list[Cell], contenders: list[str]) -> Table:
    """Sizes by contenders, the first of them that ran is the measure, and limits."""
    names = sorted(contenders, key=lambda name: not any(name in cell.times for cell in cells))
    beside = list(dict.fromkeys(name for cell in cells for name in cell.limits))
    table = text.table(["size"], [*names, *beside])
    for cell in cells:
        all_of = cell.times | cell.limits
        base = all_of.get(names[0])
        texts = [_text(all_of.get(name), None if name == names[0] else base) for name in (*names, *beside)]
        table.add_row(cell.size, *texts)
    if len(cells) > 1 and not cells[0].series:
        table.add_row("geometric mean", "", *(_mean(name, names[0], cells) for name in (*names[1:], *beside)))
    return table


def _text(rounds: Rounds | None, base: Rounds | None) -> str:
    if not rounds:
        return "–"
    return text.ratio(ratio(rounds, base)) if base else text.time(time_of(rounds))


def _mean(name: str, base: str, cells: list[Cell]) -> str:
    """Over all sizes; nothing where one is missing."""
    pairs = [(all_of.get(name), all_of.get(base)) for all_of in (cell.times | cell.limits for cell in cells)]
    found = [ratio(a, b) for a, b in pairs if a and b]
    if len(found) < len(pairs):
        return "–"
    return f"{text.share(geometric([r.median for r in found]))} ({text.share(geometric([r.tenth for r in found]))})"


def growth(cells: list[Cell]) -> list[str]:
    """How time grows with size, where sizes grow: over all of them, and over the upper two decades."""
    lines = []
    for series, group in groupby(cells, key=lambda cell: cell.series):
        grown = list(group)
        for name in dict.fromkeys(name for cell in grown for name in cell.times) if series else ():
            points = [(cell.numbers, time_of(cell.times[name]).median) for cell in grown if name in cell.times]
            upper = [point for point in points if point[0] >= points[-1][0] / 100]
            if len(upper) > 1:
                over = [slope(*zip(*some, strict=True)) for some in (points, upper)]
                rate = 1e9 * points[-1][1] / points[-1][0]
                lines.append(
                    f"time against {series}, {name}: slope {over[0]:.2f} over {points[0][0]:,} to {points[-1][0]:,} "
                    f"numbers, {over[1]:.2f} over the upper two decades; {rate:.2f} ns a number at the end"
                )
    return lines


def memory(cells: list[Cell]) -> dict[str, Table]:
    """Sizes by contenders: bytes kept for backward, and on CUDA the most taken, ÷ bytes of x."""
    found = {}
    for title, field in (("bytes kept for backward", "saved"), ("peak memory of forward + backward", "peak")):
        values: list[dict[str, float]] = [getattr(cell, field) for cell in cells if not cell.series]
        names = list(dict.fromkeys(name for value in values for name in value))
        if names:
            found[f"{title}, ÷ bytes of x"] = table = text.table(["size"], names)
            for cell, value in zip(cells, values, strict=True):
                table.add_row(cell.size, *(f"{value[name]:.2f}" if name in value else "–" for name in names))
    return found


def notes(run: Run) -> list[str]:
    """Who was left out or refused, and why; seconds of compilers."""
    lines = [f"refused {name}: {why}" for name, why in run.refused.items()]
    lines += [f"left out {name}: {why}" for name, why in run.left_out.items()]
    failed: dict[str, list[str]] = {}
    for cell in run.cells:
        for name, error in cell.failed.items():
            failed.setdefault(f"left out {name}: {error}", []).append(f"{cell.kind} {cell.what} {cell.size}")
    lines += [
        f"{text} ({places[0]}{f' and {len(places) - 1} more' * (len(places) > 1)})" for text, places in failed.items()
    ]
    seconds = [cell.first["compiled"] for cell in run.cells if "compiled" in cell.first]
    if seconds:
        lines.append(
            f"compiled: torch.compile of anomalib's, on its verdict; the first pass took {min(seconds):.1f} to "
            f"{max(seconds):.1f} s to compile, {sum(seconds):.0f} s in all"
        )
    if "index" in run.contenders:
        lines.append("index: the fast block in the dialect freia-main, which stores a hard permutation as an index")
    if run.device == "cuda":
        lines.append("No TF32: the products of all contenders are float32's.")
    if run.device == "cpu" and any(cell.saved for cell in run.cells):
        lines.append("Peak memory is measured on CUDA only: on the CPU torch does not count it.")
    return lines
