"""The plot of a run: ratios by size, or, where sizes grow, time over size on logarithmic axes. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from flowref.bench.report import PASS
from flowref.bench.results import Cell, Run, ratio, time_of
from flowref.bench.results import Figure as Figures
from flowref.gate.options import Unusable

FORMS = (".png", ".svg")


def missing(file: str) -> str:
    """Why there will be no plot, "" where there will. Raises Unusable for a file of another form."""
    if Path(file).suffix not in FORMS:
        raise Unusable(f"--plot={file!r} is no picture that is drawn here: need a name in {' or '.join(FORMS)}.")
    return "" if find_spec("matplotlib") else "The plot is left out: it needs pip install flowref[bench]."


def draw(run: Run, file: str) -> str:
    """Write the picture; what to say of it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tables = [list(cells) for _, cells in groupby(run.cells, key=lambda cell: (cell.kind, cell.what))]
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    (_growth if run.cells[0].series else _ratios)(figure, tables)
    mark = "" if run.verified else "UNVERIFIED: "
    torch = f"torch {run.versions['torch']}"
    figure.suptitle(f"{mark}{run.processor}, {run.threads} threads, {torch}, {run.date[:10]}", fontsize=10)
    figure.savefig(file, dpi=150)
    return f"{file}: the plot"


def _growth(figure: Any, tables: list[list[Cell]]) -> None:
    """A row a pass, a column a series: milliseconds over numbers."""
    names = list(dict.fromkeys(cell.series for cell in tables[0]))
    figure.set_size_inches(4.4 * len(names), 3.4 * len(tables))
    grid = figure.subplots(len(tables), len(names), squeeze=False, sharex=True, sharey="row")
    for axes, cells in zip(grid, tables, strict=True):
        for at, series in zip(axes, names, strict=True):
            _series(at, [cell for cell in cells if cell.series == series])
            at.set_title(f"{cells[0].kind}, {PASS[cells[0].what]}: {series} grows", fontsize=9)
        axes[0].set_ylabel("milliseconds")
    for at in grid[-1]:
        at.set_xlabel("numbers in x")


def _series(at: Any, cells: list[Cell]) -> None:
    """Medians and quartiles of each contender, and a line of slope 1 through the end of the first."""
    first = True
    for k, name in enumerate(dict.fromkeys(name for cell in cells for name in (*cell.times, *cell.limits))):
        found = [(cell, (cell.times | cell.limits)[name]) for cell in cells if name in cell.times | cell.limits]
        n, t = [cell.numbers for cell, _ in found], [time_of(rounds) for _, rounds in found]
        if first:
            at.plot((n[0], n[-1]), [1e3 * t[-1].median * m / n[-1] for m in (n[0], n[-1])], "--", color="0.6", lw=1)
            first = False
        _points(at, n, [Figures(*(1e3 * value for value in one)) for one in t], k, name, name in cells[0].limits)
    at.set_xscale("log")
    at.set_yscale("log")
    at.grid(alpha=0.3)
    at.legend(fontsize=7)


def _ratios(figure: Any, tables: list[list[Cell]]) -> None:
    """A row a kind, a column a pass: time ÷ that of the first contender, by size."""
    columns = len({cells[0].what for cells in tables})
    rows = len(tables) // columns
    figure.set_size_inches(4.8 * columns, 3.2 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey="row")
    for at, cells in zip(grid.flat, tables, strict=True):
        all_of = [cell.times | cell.limits for cell in cells]
        base, *others = dict.fromkeys(name for one in all_of for name in one)
        for k, name in enumerate(others):
            there = [i for i, one in enumerate(all_of) if name in one and base in one]
            figures = [ratio(all_of[i][name], all_of[i][base]) for i in there]
            shift = 0.12 * (k - (len(others) - 1) / 2)
            _points(at, [i + shift for i in there], figures, k + 1, name, name in cells[0].limits)
        at.axhline(1, color="C0", lw=1)
        at.set_yscale("log")
        at.set_xticks(range(len(cells)), [cell.size for cell in cells], rotation=25, ha="right", fontsize=7)
        at.set_title(f"{cells[0].kind}, {PASS[cells[0].what]}", fontsize=9)
        at.set_ylabel(f"time ÷ that of {base}")
        at.grid(alpha=0.3, axis="y")
        at.legend(fontsize=7)


def _points(at: Any, x: Sequence[float], y: Sequence[Figures], color: int, name: str, limit: bool) -> None:
    ends = [[one.median - one.low for one in y], [one.high - one.median for one in y]]
    look = {"fmt": "_:" if limit else "o-", "ms": 4, "lw": 0.8 if limit else 1.2, "capsize": 2}
    at.errorbar(x, [one.median for one in y], ends, color=f"C{color}", label=name, **look)
